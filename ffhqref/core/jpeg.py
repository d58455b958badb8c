"""Whether a JPEG file holds all of its picture: decoders fill with grey what is missing before an end marker.

Words of ITU-T T.81: a file is a row of markers (0xFF and a byte), most with a segment of known length; a
scan is a marker with coded data behind it, in which 0xFF stands only before 0 or a restart number. A
progressive picture has many scans, each with some coefficients or some bits of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import numpy as np

from ffhqref.core.arrays import Int64, UInt8

SCAN, END, PROGRESSIVE = 0xDA, 0xD9, 0xC2
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers that begin a frame
_NO_MARKER = {0x00, 0xFF, *range(0xD0, 0xD8)}  # behind 0xFF: a stuffed byte, filling, a restart
COEFFICIENTS = 64
COMPONENTS = 4  # at most, of a scan
SCANS = 1_000  # more are no photograph's: encoders write about ten
FILLING = 1 << 12  # bytes


def _segments(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Marker, its position and its segment, up to the end marker; coded data are passed over."""
    at, places = 2, None
    while True:
        if not (data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] and data[at + 1] not in _NO_MARKER):
            places = _markers(data) if places is None else places
            next_one = int(np.searchsorted(places, at))
            if next_one == len(places):
                return
            at = int(places[next_one])
        marker, behind = data[at + 1], at + 2
        if marker == END:
            yield marker, at, b""
            return
        length = max(int.from_bytes(data[behind : behind + 2], "big"), 2)
        yield marker, at, data[behind + 2 : behind + length]
        at = behind + length


def _markers(data: bytes) -> Int64:
    """Where markers may stand, in coded data and (wrongly, some of them) inside segments."""
    values = np.frombuffer(data, np.uint8)
    places = np.flatnonzero(values[:-1] == 0xFF)
    return places[~np.isin(values[places + 1], list(_NO_MARKER))].astype(np.int64)


def lacks_scans(data: bytes) -> bool:
    """Whether a progressive picture ends before every coefficient came with all of its bits."""
    missing: dict[int, list[bool]] = {}
    scans = 0
    for marker, _, segment in _segments(data):
        if marker in _FRAMES and not missing:
            if marker != PROGRESSIVE:
                return False
            missing = {number: [True] * COEFFICIENTS for number in segment[6::3]}
        if marker == SCAN and len(segment) >= 6:
            scans += 1
            if scans > SCANS:
                return True
            low_bit = segment[-1] & 15  # the lowest bit that this scan brings
            for number in segment[1 : 1 + 2 * min(segment[0], COMPONENTS) : 2]:
                for place in range(segment[-3], min(segment[-2] + 1, COEFFICIENTS)):
                    missing.get(number, [True] * COEFFICIENTS)[place] = low_bit > 0
    return any(any(places) for places in missing.values())


def is_cut(data: bytes, pixels: Callable[[bytes], UInt8]) -> bool:
    """Whether the decoder would read on where the coded data end: with more there, the picture differs.

    `pixels` decodes, twice and whole: this is for pictures of which libjpeg complained.
    """
    ends = [place for marker, place, _ in _segments(data) if marker == END]
    if not ends:
        return True
    try:
        as_it_is = pixels(data)
    except Exception:  # hostile bytes: Pillow's parsers raise many kinds
        return False  # nothing can be told
    try:
        return not np.array_equal(as_it_is, pixels(data[: ends[0]] + _filling() + data[ends[0] :]))
    except Exception:
        return True  # it was read, and was no sense


def _filling() -> bytes:
    """Coded data that mean nothing, the same each time, with every restart that may be waited for."""
    blocks = (hashlib.sha256(number.to_bytes(2, "big")).digest() for number in range(FILLING // 32))
    noise = b"".join(blocks).replace(b"\xff", b"\x7f")
    restarts = (bytes((0xFF, 0xD0 + number % 8)) + noise[:128] for number in range(16))
    return noise + b"".join(restarts)
