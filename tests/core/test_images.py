"""Pictures of every kind as RGB arrays, hostile ones refused, and names of pictures as paths."""

from __future__ import annotations

import io
import os
import resource
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from ffhqref.core import formats, images, store
from ffhqref.core.images import BadImage, decode, scan
from ffhqref.core.store import UserError

NOISE = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
RGB = np.asarray(Image.fromarray(NOISE).resize((160, 120), Image.Resampling.BICUBIC))
PICTURE = Image.fromarray(RGB)
GREY = PICTURE.convert("L")


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    data = io.BytesIO()
    picture.save(data, kind, **options)
    return data.getvalue()


def by_pillow(data: bytes) -> np.ndarray[Any, Any]:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))


def same(found: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any], within: int = 0) -> bool:
    assert found.dtype == np.uint8 and found.shape == wanted.shape
    return int(np.abs(found.astype(int) - wanted.astype(int)).max()) <= within


KINDS = {
    "png": encoded(PICTURE, "PNG"),
    "jpeg": encoded(PICTURE, "JPEG", quality=92),
    "progressive": encoded(PICTURE, "JPEG", quality=92, progressive=True),
    "webp": encoded(PICTURE, "WEBP", lossless=True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_is_pillows(kind: str) -> None:
    assert same(decode(KINDS[kind]), by_pillow(KINDS[kind]), within=2 if "png" not in kind else 0)


def test_channel_order_is_rgb() -> None:
    one = Image.new("RGB", (8, 8), (250, 120, 10))
    for kind in ("PNG", "JPEG", "WEBP"):
        assert np.abs(decode(encoded(one, kind)).mean((0, 1)) - (250, 120, 10)).max() < 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("left", [0.02, 0.2, 0.5, 0.9, -1, -12])
def test_a_cut_picture_is_unreadable(kind: str, left: float) -> None:
    data = KINDS[kind]
    with pytest.raises(BadImage) as caught:
        decode(data[: int(len(data) * left) if left > 0 else int(left)])
    assert caught.value.status == "unreadable" and str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_after_the_picture_are_legal_but_do_not_hide_a_cut(kind: str) -> None:
    whole = decode(KINDS[kind])
    for tail in (b"\0" * 500, b"any text at all " * 20):
        assert same(decode(KINDS[kind] + tail), whole)
        with pytest.raises(BadImage):
            decode(KINDS[kind][: len(KINDS[kind]) // 2] + tail)


@pytest.mark.parametrize("kind", KINDS)
def test_flipped_bits_give_a_picture_or_a_bad_image_and_nothing_else(kind: str) -> None:
    rng, refused = np.random.default_rng(0), 0
    for _ in range(60):
        data = bytearray(KINDS[kind])
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        try:
            found = decode(bytes(data), max_pixels=1_000_000)
            assert found.dtype == np.uint8 and found.ndim == 3 and found.shape[2] == 3
        except BadImage:
            refused += 1
    if kind == "png":
        assert refused > 50, "PNG has checksums: a flip is seen"


@pytest.mark.parametrize(
    "data", [b"", b"\x89PNG", b"\xff\xd8", b"RIFF\xff\xff\xff\xffWEBP", b"plain text\n" * 99]
)
def test_what_is_no_picture(data: bytes) -> None:
    with pytest.raises(BadImage) as caught:
        decode(data)
    assert caught.value.status == "unreadable"


def test_other_formats_are_not_opened() -> None:
    for kind in ("GIF", "PPM", "ICO"):
        with pytest.raises(BadImage):
            decode(encoded(PICTURE, kind))


def sixteen_bit(values: np.ndarray[Any, Any]) -> bytes:
    good, data = cv2.imencode(".png", values[..., ::-1] if values.ndim == 3 else values)
    assert good
    return data.tobytes()


GREY_RGB = np.repeat(np.asarray(GREY)[..., None], 3, 2)
PALETTE = PICTURE.convert("P", palette=Image.Palette.ADAPTIVE)
PALETTE_RGB, BITS = np.asarray(PALETTE.convert("RGB")), PICTURE.convert("1")
RGBA = Image.merge("RGBA", [*PICTURE.split(), GREY])
FORMS: dict[str, tuple[bytes, np.ndarray[Any, Any]]] = {
    "grey png": (encoded(GREY, "PNG"), GREY_RGB),
    "grey and alpha": (encoded(Image.merge("LA", [GREY, GREY]), "PNG"), GREY_RGB),
    "palette": (encoded(PALETTE, "PNG"), PALETTE_RGB),
    "palette with a clear colour": (encoded(PALETTE, "PNG", transparency=3), PALETTE_RGB),
    "rgba png": (encoded(RGBA, "PNG"), RGB),
    "black and white": (encoded(BITS, "PNG"), np.asarray(BITS.convert("RGB"))),
    "16 bits": (sixteen_bit(RGB.astype(np.uint16) * 256 + 255), RGB),
    "16 bits grey": (sixteen_bit(np.asarray(GREY).astype(np.uint16) * 257), GREY_RGB),
    "1x1": (encoded(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG"), np.array([[[9, 8, 7]]])),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_becomes_8_bit_rgb(form: str) -> None:
    data, wanted = FORMS[form]
    assert same(decode(data), wanted)


def test_a_cmyk_jpeg_has_the_colours_that_pillow_sees() -> None:
    data = encoded(PICTURE.convert("CMYK"), "JPEG", quality=95)
    assert same(decode(data), by_pillow(data), within=2)
    assert np.abs(decode(data).astype(int) - RGB).mean() < 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(PICTURE, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    turned = [  # by NumPy, apart from any library's own idea of orientation (EXIF 2.32, 4.6.5.1)
        RGB, RGB[:, ::-1], RGB[::-1, ::-1], RGB[::-1],
        RGB.transpose(1, 0, 2), RGB.transpose(1, 0, 2)[:, ::-1],
        RGB[::-1, ::-1].transpose(1, 0, 2), RGB.transpose(1, 0, 2)[::-1],
    ][orientation - 1]  # fmt: skip
    found = decode(data)
    assert found.shape == turned.shape
    assert np.abs(found.astype(int) - turned).mean() < (4 if kind == "JPEG" else 0.01)


@pytest.mark.parametrize("kind", ["WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(kind: str) -> None:
    others = [ImageOps.invert(PICTURE), PICTURE.rotate(180)]
    data = encoded(
        PICTURE, kind, save_all=True, append_images=others, **({"lossless": True} if kind == "WEBP" else {})
    )
    with Image.open(io.BytesIO(data)) as picture:
        assert getattr(picture, "n_frames", 1) == 3
    assert same(decode(data), RGB)


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def jpeg_claiming(width: int, height: int) -> bytes:
    data = bytearray(encoded(Image.new("RGB", (8, 8)), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def webp_claiming(width: int, height: int) -> bytes:
    frame = encoded(Image.new("RGB", (8, 8)), "WEBP", lossless=True)[12:]

    def three(number: int) -> bytes:
        return struct.pack("<I", number)[:3]

    still = three(0) * 2 + three(7) * 2 + three(50) + b"\0" + frame
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\2\0\0\0" + three(width - 1) + three(height - 1)
    body += b"ANIM" + struct.pack("<IIH", 6, 0, 0) + b"ANMF" + struct.pack("<I", len(still)) + still
    return b"RIFF" + struct.pack("<I", len(body)) + body


BOMBS = {
    "png": png_claiming(20_000, 20_000),
    "jpeg": jpeg_claiming(20_000, 20_000),
    "webp": webp_claiming(16_384, 16_384),
    "largest png": png_claiming(2**31 - 1, 2**31 - 1),
    "between Pillow's bounds and ours": png_claiming(12_000, 12_000),
}
MEASURE = """
import resource, sys
from pathlib import Path
from ffhqref.core import formats, images, store
from ffhqref.core.images import BadImage
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in [sys.argv[1], *sys.argv[1:]]:  # the first is read twice: once for the imports
    before = before if path != sys.argv[1] else peak()
    try:
        images.read(Path(path))
        print("read")
    except BadImage as bad:
        print(bad.status)
print((peak() - before) // 1024)
"""


def test_a_bomb_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    paths = []
    for number, data in enumerate(BOMBS.values()):
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(data)
    paths.append(tmp_path / "whole.png")  # 1.2 GB once it is RGB
    paths[-1].write_bytes(encoded(Image.new("1", (20_000, 20_000)), "PNG", compress_level=1))
    told = subprocess.run(
        [sys.executable, "-W", "error", "-c", MEASURE, *map(str, paths)],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert told[:-1] == ["too_large"] * (len(paths) + 1)
    assert int(told[-1]) < 30, f"{told[-1]} MB were taken"


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(images.MAX_FILE_BYTES + 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadImage) as caught:
        images.read(tmp_path / "a.png")
    assert caught.value.status == "too_large"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_bounds_are_what_is_still_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert decode(KINDS["png"], max_pixels=160 * 120).shape == (120, 160, 3)
    with pytest.raises(BadImage) as caught:
        decode(KINDS["png"], max_pixels=160 * 120 - 1)
    assert caught.value.status == "too_large"
    (tmp_path / "a.png").write_bytes(KINDS["png"])
    monkeypatch.setattr(images, "MAX_FILE_BYTES", len(KINDS["png"]))
    assert images.read(tmp_path / "a.png").shape == (120, 160, 3)
    monkeypatch.setattr(images, "MAX_FILE_BYTES", len(KINDS["png"]) - 1)
    with pytest.raises(BadImage) as caught:
        images.read(tmp_path / "a.png")
    assert caught.value.status == "too_large"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.png", tmp_path):
        with pytest.raises(BadImage) as caught:
            images.read(path)
        assert caught.value.status == "not_read"


def test_headers_read_in_threads_leave_the_warning_filters_alone() -> None:
    before, failed = list(warnings.filters), []
    data = png_claiming(10_000, 10_000)  # Pillow would warn, and warnings are errors here

    def work() -> None:
        for _ in range(200):
            try:
                images._check_header(data, images.MAX_PIXELS)
            except BadImage as bad:
                failed.append(str(bad))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert list(warnings.filters) == before


def test_encode_and_write_round_trip(tmp_path: Path) -> None:
    for suffix in (".png", ".webp"):
        images.write(tmp_path / f"a{suffix}", RGB)
        assert same(images.read(tmp_path / f"a{suffix}"), RGB)
    images.write(tmp_path / "a.JPG", RGB)
    assert np.abs(images.read(tmp_path / "a.JPG").astype(int) - RGB).mean() < 3
    assert len(images.encode(RGB, ".jpg", 20)) < len(images.encode(RGB, ".jpg", 95))


def test_resize_averages_when_shrinking() -> None:
    small = images.resize(RGB, 16, 12)
    assert same(small, RGB.reshape(12, 10, 16, 10, 3).mean((1, 3)).round(), within=1)
    assert images.resize(RGB, 160, 120) is RGB
    assert images.resize(RGB, 320, 240).shape == (240, 320, 3)


# names


def put(root: Path, *names: str | bytes) -> None:
    for name in names:
        path = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(os.fsdecode(path)).write_bytes(KINDS["png"])


def found(root: Path) -> dict[str, str]:
    photos = scan(root)
    assert [photo.name for photo in photos] == sorted(photo.name for photo in photos)
    assert len({photo.name for photo in photos}) == len(photos)
    return {photo.name: photo.bad for photo in photos}


GOOD_NAMES = [
    "a b.png", " leading.png", "it's.jpg", 'say "x".png', "a,b;c.jpeg", "人物/写真.webp", "Ünï/éà.PNG",
    "🙂.png", "[1].png", "-x.png", "#x.png", "deep/er/and/deep/er.png", "a.tar.png", "%20.png",
]  # fmt: skip


def test_names_of_all_kinds_are_kept(tmp_path: Path) -> None:
    put(tmp_path, *GOOD_NAMES)
    assert found(tmp_path) == dict.fromkeys(sorted(GOOD_NAMES), "")


@pytest.mark.parametrize(
    "name", ["a\nb.png", "a\tb.png", "a\rb.png", "a\x7f.png", "a\x85.png", "a\u2028b.png", "\ufeffa.png"]
)
def test_a_name_that_would_break_a_list_is_bad(tmp_path: Path, name: str) -> None:
    put(tmp_path, name, "good.png")
    names = found(tmp_path)
    assert names["good.png"] == "" and len(names) == 2
    assert "control character" in names[name]


def test_names_that_are_not_utf8_or_hold_a_backslash_are_bad_and_can_be_written(tmp_path: Path) -> None:
    put(tmp_path, b"x\xff\xfe.png", "x\\y.png", "good.png")
    names = found(tmp_path)
    assert {name for name, bad in names.items() if bad} == {"x\\xff\\xfe.png", "x\\y.png"}
    assert all(name.encode() for name in names)


@pytest.mark.parametrize(
    ("stays", "meets"),
    [
        ("A.png", "a.png"), ("a.png", "a.jpg"), ("x/a.png", "X/a.webp"), ("e\u0301.png", "é.png"),
        ("strasse.png", "straße.png"), ("00001.png", "00000/00001.png"), ("a.jpeg", "a.jpg"),
    ],
)  # fmt: skip
def test_of_two_names_that_would_be_one_file_one_is_refused(tmp_path: Path, stays: str, meets: str) -> None:
    """A PNG before others, then the first in order; and whichever was there before, if it is said."""
    put(tmp_path, stays, meets, "b.png")
    marked = found(tmp_path)
    assert len(marked) == 3
    assert marked.pop("b.png") == "" == marked.pop(stays)
    assert f"meets that of {stays}" in marked[meets]
    if meets != "00000/00001.png":  # both are 00001.png
        known = {photo.name: photo.bad for photo in images.scan(tmp_path, kept={meets})}
        assert known[meets] == "" and f"meets that of {meets}" in known[stays]


def test_folders_that_ffhqref_wrote_are_passed_over(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "mine/images/b.png", "restored/c.png", "receipts/d.png", "other/receipts/e.png")
    wanted = store.Receipt(stage="embed", revision=1, parameters={}, inputs={})
    store.write_receipt(tmp_path / "mine", wanted, [], {})
    (tmp_path / "restored" / "run.json").write_text('{"command": "restore"}')
    (tmp_path / "other" / "receipts" / "x.json").write_text("[" * 100_000)
    passed_over: list[Path] = []
    names = [photo.name for photo in images.scan(tmp_path, passed_over=passed_over)]
    assert names == ["a.png", "other/receipts/e.png", "receipts/d.png"]
    assert passed_over == [tmp_path / "mine", tmp_path / "restored"]
    assert [photo.name for photo in images.scan(tmp_path / "mine")] == ["images/b.png"], "asked for itself"


def test_hidden_files_folders_and_other_files_are_passed_over(tmp_path: Path) -> None:
    put(tmp_path, "a.png", ".hidden.png", ".thumbnails/b.png", "c.txt", "d.gif", "e.png.part", "png")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    assert found(tmp_path) == {"a.png": ""}


def test_links(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    put(root, "a/b.png")
    put(tmp_path, "elsewhere.png")
    (root / "link.png").symlink_to(tmp_path / "elsewhere.png")
    (root / "a" / "loop").symlink_to(root)
    (root / "self.png").symlink_to(root / "self.png")
    (root / "broken.png").symlink_to(root / "missing.png")
    assert found(root) == {"a/b.png": "", "link.png": ""}
    (tmp_path / "linked").symlink_to(root)
    assert found(tmp_path / "linked") == {"a/b.png": "", "link.png": ""}, "the root itself may be a link"


def test_ffhq_sub_folders_of_a_thousand_are_left_out_of_names(tmp_path: Path) -> None:
    put(tmp_path, "00000/00000.png", "69000/69123.png", "x/03000/03999.png", "03000/04000.png", "03000/a.png")
    wanted = ["00000.png", "03000/04000.png", "03000/a.png", "69123.png", "x/03999.png"]
    assert list(found(tmp_path)) == wanted
    for name in found(tmp_path):
        assert images.find(tmp_path, name).is_file()
    assert images.find(tmp_path, "00000.png") == tmp_path / "00000" / "00000.png"
    with pytest.raises(UserError):
        images.find(tmp_path, "../outside.png")


def test_what_was_written_below_the_photographs_is_no_photograph(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "mine/faces/a.png/001.png", "other/b.png")
    assert [photo.name for photo in scan(tmp_path, without=tmp_path / "mine")] == ["a.png", "other/b.png"]


def test_no_folder_and_no_picture(tmp_path: Path) -> None:
    put(tmp_path, "text/a.txt")
    for path, words in (
        (tmp_path / "none", "is not a folder"),
        (tmp_path / "text" / "a.txt", "is not a folder"),
    ):
        with pytest.raises(UserError, match=words):
            scan(path)
    with pytest.raises(UserError, match="holds no PNG, JPEG or WebP"):
        scan(tmp_path / "text")


def test_png_name() -> None:
    assert images.png_name("a/b.c.jpeg") == "a/b.c.png"
    assert images.png_name("00001.png") == "00001.png"


@pytest.mark.parametrize(("kind", "suffix"), [("BMP", ".bmp"), ("TIFF", ".tif"), ("TIFF", ".tiff")])
def test_lossless_formats_of_scanners(kind: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(encoded(PICTURE, kind))
    assert (images.read(path) == RGB).all()
    assert images.dimensions(path) == RGB.shape[1::-1]
    assert [photo.name for photo in images.scan(tmp_path)] == [path.name]
    for data in (path.read_bytes()[: path.stat().st_size // 2], path.read_bytes()[:20]):
        with pytest.raises(BadImage) as caught:
            decode(data)
        assert caught.value.status == "unreadable"


def test_tiff_of_sixteen_bits_and_its_orientation() -> None:
    grey = np.arange(0, 60000, 1000, np.uint16).reshape(6, 10)
    data = io.BytesIO()
    Image.fromarray(grey).save(data, "TIFF")
    assert (decode(data.getvalue()) == (grey >> 8)[..., None]).all()
    data, exif = io.BytesIO(), Image.Exif()
    exif[274] = 6  # turned by a quarter
    PICTURE.save(data, "TIFF", exif=exif)
    assert (decode(data.getvalue()) == np.rot90(RGB, -1)).all()
    with pytest.raises(BadImage) as caught:
        decode(data.getvalue(), max_pixels=10)
    assert caught.value.status == "too_large"


def test_pictures_of_phones(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    smooth = np.asarray(PICTURE.resize((8, 8)).resize((96, 64)), np.uint8)
    pillow_heif.from_pillow(Image.fromarray(smooth)).save(tmp_path / "a.heic", quality=95)
    Image.fromarray(smooth).save(tmp_path / "b.avif", quality=95)
    for photo in images.scan(tmp_path):
        assert np.abs(images.read(photo.path).astype(int) - smooth).mean() < 4
        assert images.dimensions(photo.path) == (96, 64)
        with pytest.raises(BadImage):
            decode(photo.path.read_bytes()[:200])


def test_what_is_absent_is_counted_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images.write(tmp_path / "a.png", RGB)
    for name in ("b.heic", "c.HEIC", "d.txt"):
        (tmp_path / name).touch()
    monkeypatch.setattr(formats, "readable", lambda: frozenset(formats.PUBLISHED))
    skipped: Counter[str] = Counter()
    assert [photo.name for photo in images.scan(tmp_path, skipped=skipped)] == ["a.png"]
    assert skipped == {".heic": 2, ".txt": 1}
    told = formats.describe_skipped(skipped)
    assert "2 .heic" in told and "ffhqref[heif]" in told
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match=r"ffhqref\[heif\]"):
        images.scan(tmp_path)


@pytest.mark.parametrize(
    ("size", "fine"),
    [((100, 100), True), ((100, 95), True), ((94, 100), False), ((95, 100), True), ((50, 100), False)],
)
def test_a_twentieth_may_be_squeezed(size: tuple[int, int], fine: bool, tmp_path: Path) -> None:
    images.write(tmp_path / "a.png", np.zeros((size[1], size[0], 3), np.uint8))
    images.refuse_squeeze([tmp_path / "a.png"], True)
    if fine:
        images.refuse_squeeze([tmp_path / "a.png", tmp_path / "gone.png"], False)
    else:
        with pytest.raises(UserError, match="1 of 2 pictures.*--crop on.*--squeeze"):
            images.refuse_squeeze([tmp_path / "a.png", tmp_path / "gone.png"], False)
        images.refuse_squeeze([tmp_path / "a.png"], False, aspect=size[0] / size[1])
