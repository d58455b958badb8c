"""A JPEG that lost data and kept an end marker; and libraries that print while they decode."""

from __future__ import annotations

import ctypes
import io
import platform
import threading
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from PIL import Image

from ffhqref.core import images, jpeg, quiet
from ffhqref.core.images import BadImage

END = b"\xff\xd9"
GLIBC = platform.libc_ver()[0] == "glibc"
needs_glibc = pytest.mark.skipif(not GLIBC, reason="C's stderr can be pointed elsewhere with glibc alone")


def picture(side: int = 200) -> Image.Image:
    patches = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    return Image.fromarray(cv2.resize(patches, (side, side), interpolation=cv2.INTER_CUBIC))


def encoded(mode: str = "RGB", **options: object) -> bytes:
    data = io.BytesIO()
    picture().convert(mode).save(data, "JPEG", **options)
    return data.getvalue()


WHOLE = {
    "baseline": encoded(),
    "progressive": encoded(progressive=True),
    "grey": encoded("L", progressive=True),
    "CMYK": encoded("CMYK", progressive=True),
    "no subsampling": encoded(progressive=True, subsampling=0),
    "restarts": encoded(progressive=True, restart_marker_blocks=3),
    "a JPEG inside": encoded(progressive=True, exif=b"Exif\0\0II*\0" + encoded(quality=5)[:9000]),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_a_whole_one_is_not_taken_for_a_cut_one(kind: str) -> None:
    data = WHOLE[kind]
    assert not jpeg.lacks_scans(data) and not jpeg.is_cut(data, images._by_pillow)
    images.decode(data)
    more = data[:-2] + b"harmless bytes" + END  # libjpeg complains, and nothing is missing
    assert not jpeg.is_cut(more, images._by_pillow)
    images.decode(more)


@needs_glibc
@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("part", [0.4, 0.6, 0.9, 0.99])
def test_a_cut_one_with_an_end_marker_is_unreadable(kind: str, part: float) -> None:
    data = WHOLE[kind]
    begin = len(data) // 3
    with pytest.raises(BadImage, match="truncated|not a whole"):
        images.decode(data[: begin + int((len(data) - begin) * part)] + END)


def test_missing_scans_are_noticed_wherever_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiet, "_sink", lambda: None)
    data = WHOLE["progressive"]
    scans = [place for marker, place, _ in jpeg._segments(data) if marker == jpeg.SCAN]
    assert len(scans) > 5
    for place in scans[1:]:
        with pytest.raises(BadImage, match="truncated"):
            images.decode(data[:place] + END)


def test_segments_of_nonsense_come_to_an_end() -> None:
    rng = np.random.default_rng(0)
    for data in [b"\xff\xd8", b"\xff\xd8\xff", b"\xff" * 999, b"\xff\xd8" + b"\xff\xda\0\0" * 99]:
        jpeg.lacks_scans(data)
    for _ in range(200):
        data = bytearray(WHOLE["progressive"])
        for place in rng.integers(2, len(data), 8):
            data[place] = rng.integers(256)
        jpeg.lacks_scans(bytes(data))


# ---- what libraries print ------------------------------------------------------------------------


def damaged_png() -> bytes:
    data = io.BytesIO()
    picture().save(data, "PNG")
    flipped = bytearray(data.getvalue())
    flipped[len(flipped) // 2] ^= 0xFF
    return bytes(flipped)


def odd_profile_png() -> bytes:
    """A good picture of which libpng says that its colour profile is odd."""
    data = io.BytesIO()
    picture().save(data, "PNG", icc_profile=b"no profile at all" * 20)
    return data.getvalue()


@needs_glibc
@pytest.mark.parametrize(
    ("make", "good"),
    [
        (damaged_png, False),
        (odd_profile_png, True),
        (lambda: WHOLE["baseline"][:5000] + END, False),
        (lambda: WHOLE["baseline"][:-2] + b"more" + END, True),
    ],
)
def test_no_line_of_a_library_reaches_standard_error(
    make: Callable[[], bytes], good: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    try:
        images.decode(make())
        assert good
    except BadImage:
        assert not good
    assert capfd.readouterr() == ("", "")


@needs_glibc
def test_c_prints_where_it_did_once_no_picture_is_decoded(capfd: pytest.CaptureFixture[str]) -> None:
    libc = ctypes.CDLL(None)

    def say(text: bytes) -> None:
        libc.fputs.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
        libc.fputs(text, ctypes.c_void_p.in_dll(libc, "stderr").value)

    with quiet.listening() as outer:
        say(b"inside\n")
        with quiet.listening() as inner:
            pass
        say(b"and still\n")
    assert outer.anything and not inner.anything
    say(b"outside\n")
    assert capfd.readouterr().err == "outside\n"


@needs_glibc
def test_another_threads_complaint_refuses_no_good_picture() -> None:
    good, cut = WHOLE["progressive"], WHOLE["progressive"][:-300] + END
    told: list[str] = []

    def work(data: bytes) -> None:
        for _ in range(30):
            try:
                images.decode(data)
                told.append("good")
            except BadImage:
                told.append("cut")

    threads = [threading.Thread(target=work, args=[data]) for data in (good, cut, good)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (told.count("good"), told.count("cut")) == (60, 30)
