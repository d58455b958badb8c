"""Pictures as arrays, and the names of pictures as paths. Arrays are uint8, RGB, height x width x 3."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from stat import S_ISREG

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from ffhqref.core import formats, jpeg
from ffhqref.core.quiet import listening
from ffhqref.core.store import UserError, below, is_written, write_bytes

Rgb = npt.NDArray[np.uint8]  # height x width x 3

SUFFIXES = set(formats.SUFFIXES)
MAX_PIXELS = 120_000_000  # 360 MB decoded; a larger picture is refused before memory is taken
MAX_FILE_BYTES = 512 << 20
JPEG = b"\xff\xd8"  # how such a file begins
HEADER_BYTES = (
    4096,
    1 << 20,
)  # of a file in which its dimensions stand: mostly, and behind a JPEG's thumbnail
MOST_SQUEEZED = 0.05  # of its longer side, that a picture may lose when it is made square without a word
FFHQ_NESTED = re.compile(r"(^|/)(\d{2})000/(\2\d{3}\.\w+)$")


class BadImage(Exception):
    """One picture that cannot be used: `status` is for tables, the text is the reason for people.

    `passing` where it may be read another time: the disk or the system failed, not the picture.
    """

    def __init__(self, status: str, reason: str, *, passing: bool = False) -> None:
        super().__init__(reason)
        self.status, self.passing = status, passing


@dataclass(frozen=True)
class Photo:
    """A picture file found below a root.

    `name` is what every table calls it: the path below the root in POSIX form, with FFHQ's own
    sub-folders of a thousand left out. `bad` says why its name cannot be used, or is empty.
    """

    name: str
    path: Path
    size: int
    mtime_ns: int
    bad: str = ""


def scan(
    root: Path,
    without: Path | None = None,
    *,
    kept: Collection[str] = (),
    passed_over: list[Path] | None = None,
    skipped: Counter[str] | None = None,
) -> list[Photo]:
    """Every picture file below `root` of a format that can be read here, ordered by name.

    Files of other suffixes are counted in `skipped`. Hidden files and folders, the folder `without`, and
    folders below `root` that `ffhqref` wrote (they are added to `passed_over`) are left out. Links to folders
    are not followed (so a loop cannot trap it); links to files are. Photos whose names cannot serve as names
    in a list carry the reason in `bad`: of names that meet, one in `kept` keeps its place, else a PNG, else
    the first. UserError where there is no such folder or no picture in it.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: give the folder that holds the photographs.")
    root, own = root.resolve(), without.resolve() if without else None
    photos, others = [], skipped if skipped is not None else Counter[str]()
    for folder, subfolders, files in os.walk(root, onerror=_raise):
        below_it = [Path(folder, s) for s in sorted(subfolders) if not s.startswith(".")]
        written = [path for path in below_it if path != own and is_written(path)]
        if passed_over is not None:
            passed_over += written
        subfolders[:] = [path.name for path in below_it if path != own and path not in written]
        below_root = "" if folder == str(root) else os.path.relpath(folder, root) + "/"
        for file in files:
            suffix = os.path.splitext(file)[1].lower()
            if file.startswith(".") or not formats.can_read(suffix):
                others.update([] if file.startswith(".") else [_escaped(suffix)])
                continue
            path = Path(folder, file)
            try:
                about = os.stat(path)
            except OSError:  # a link to nothing or to itself, or gone since
                continue
            if S_ISREG(about.st_mode):
                name = _name(below_root + file)
                photos.append(Photo(name, path, about.st_size, about.st_mtime_ns, name_fault(name)))
    if not photos:
        raise UserError(
            f"{root} holds no PNG, JPEG or WebP picture, nor another that can be read: give the folder with "
            f"the photographs. {formats.describe_skipped(others)}".rstrip()
        )
    return sorted(_mark_meeting_names(photos, root, kept), key=lambda photo: (photo.name, str(photo.path)))


def _raise(error: OSError) -> None:
    raise UserError(f"Cannot read the folder {error.filename} ({error.strerror}): make it readable.")


def _name(relative: str) -> str:
    """FFHQ's 03000/03123.png is 03123.png; bytes that are not UTF-8 are written as escapes."""
    return _escaped(FFHQ_NESTED.sub(r"\1\3", relative))


def _escaped(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def name_fault(name: str) -> str:
    """Why a name cannot stand in a list of names, a line each; empty where it can."""
    if name.isascii() and name.isprintable() and "\\" not in name:
        return ""
    if any(c == "\ufeff" or unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in name):
        return "its name holds a line break or another control character"
    if "\\" in name:
        return "its name holds a backslash or bytes that are not UTF-8"
    return ""


def meeting_key(name: str) -> str:
    """Two names with one key would be one file where case or Unicode form do not count, as `.png`."""
    return unicodedata.normalize("NFC", png_name(name)).casefold()


def _mark_meeting_names(photos: list[Photo], root: Path, kept: Collection[str]) -> list[Photo]:
    """Of photos whose names meet all but one are bad; one with the name of another goes by its whole path."""
    meeting: dict[str, list[Photo]] = defaultdict(list)

    def precedence(photo: Photo) -> tuple[bool, bool, bool, bool, str]:
        nested = photo.path != root / photo.name  # in a sub-folder that its name leaves out
        other = photo.name != png_name(photo.name)
        return bool(photo.bad), photo.name not in kept, nested, other, str(photo.path)

    for photo in sorted(photos, key=precedence):
        meeting[meeting_key(photo.name)].append(photo)

    def marked(photo: Photo) -> Photo:
        first = meeting[meeting_key(photo.name)][0]
        if photo.bad or photo is first:
            return photo
        own, other = (_escaped(p.path.relative_to(root).as_posix()) for p in (photo, first))
        bad = f"its name meets that of {other} where case or suffix do not count"
        return replace(photo, name=own if first.name == photo.name else photo.name, bad=bad)

    return [marked(photo) for photo in photos]


def png_name(name: str) -> str:
    """The name of a low-quality or restored picture: the target's, with `.png`."""
    return os.path.splitext(name)[0] + ".png"


def find(root: Path, name: str) -> Path:
    """The file of `name` below `root`: as it stands, or in FFHQ's sub-folder of a thousand."""
    path = below(root, name)
    if not path.is_file() and re.fullmatch(r"\d{5}", path.stem):
        nested = path.parent / f"{path.stem[:2]}000" / path.name
        return nested if nested.is_file() else path
    return path


def read(path: Path, max_pixels: int = MAX_PIXELS) -> Rgb:
    """Decode a picture file; BadImage where it is not a whole picture within bounds.

    EXIF orientation is applied; grey, palette, CMYK, 16-bit and transparent pictures become 8-bit RGB;
    of an animation the first frame is taken.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise BadImage("too_large", f"larger than {MAX_FILE_BYTES >> 20} MiB")
        return decode(path.read_bytes(), max_pixels)
    except OSError as error:
        raise BadImage("not_read", f"cannot be read ({error.strerror})", passing=True) from None


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> Rgb:
    """Decode a picture's bytes; see `read`.

    A JPEG that lost its end and got an end marker is refused: always where whole scans of a progressive
    one are missing, else where libjpeg's complaint can be heard (with glibc; see `ffhqref.core.quiet`).
    """
    if _check_header(data, max_pixels) not in formats.PUBLISHED:
        try:
            return formats.to_rgb(data)
        except Exception as error:  # hostile bytes: Pillow's decoders raise many kinds
            raise BadImage("unreadable", f"cut off or damaged ({error})") from None
    if not _ends_whole(data):
        _check_whole(data)
    with listening() as heard:
        try:
            bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        except cv2.error:
            bgr = None
    if bgr is None:
        raise BadImage("unreadable", "not a whole picture")
    if data[:2] == JPEG and (jpeg.lacks_scans(data) or (heard.anything and jpeg.is_cut(data, _by_pillow))):
        raise BadImage("unreadable", "truncated or damaged: its data end before the picture does")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def _by_pillow(data: bytes) -> npt.NDArray[np.uint8]:
    with formats.open_lazily(data) as picture:
        return np.asarray(picture)


def _check_header(data: bytes, max_pixels: int) -> str:
    """Pillow's name of the format."""
    try:
        with formats.open_lazily(data) as picture:
            (width, height), kind = picture.size, str(picture.format)
    except Image.DecompressionBombError:
        raise BadImage("too_large", f"more than {max_pixels / 1e6:.0f} million pixels") from None
    except Exception:  # hostile bytes: Pillow's parsers raise many kinds
        raise BadImage("unreadable", "not a PNG, JPEG or other picture that can be read") from None
    if width * height > max_pixels:
        size = f"{width}x{height}"
        raise BadImage("too_large", f"{size} is more than {max_pixels / 1e6:.0f} million pixels")
    return kind


def _ends_whole(data: bytes) -> bool:
    """Whether the end of the file shows that nothing was cut off. OpenCV fills a cut JPEG with grey."""
    if data[:4] == b"RIFF":
        return len(data) >= int.from_bytes(data[4:8], "little") + 8
    if data[:2] == JPEG:  # the end marker must come after the last start of a scan
        return data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")
    return data[-8:-4] == b"IEND"


def _check_whole(data: bytes) -> None:
    """The slow, sure way for odd ends (bytes after the picture are legal): decode with Pillow."""
    try:
        with formats.open_lazily(data) as picture:
            picture.load()
    except MemoryError:
        raise
    except Exception as error:
        raise BadImage("unreadable", f"cut off or damaged ({error})") from None


def dimensions(path: Path) -> tuple[int, int]:
    """Width and height in px, as the file's header says; BadImage where it is no picture within bounds."""
    try:
        with path.open("rb") as file:
            head = file.read(HEADER_BYTES[0])
            if formats.whole_file_needed(head):
                head += file.read(MAX_FILE_BYTES)
            else:
                with suppress(BadImage):
                    return _size(head)
                head += file.read(HEADER_BYTES[1])
            return _size(head)
    except OSError as error:
        raise BadImage("unreadable", f"cannot be read ({error.strerror})") from None


def _size(head: bytes) -> tuple[int, int]:
    _check_header(head, MAX_PIXELS)
    with formats.open_lazily(head) as picture:
        return picture.size


CROP_FIRST = "build the dataset with `ffhqref build-refs ... --crop on`, which cuts faces out as FFHQ does"


def refuse_squeeze(
    paths: Iterable[Path], squeeze: bool, remedy: str = CROP_FIRST, aspect: float = 1.0
) -> None:
    """UserError where pictures would be squeezed by more than `MOST_SQUEEZED`, unless the user insists.

    `aspect` is the width over the height of what they are made to: 1 for a square. Pictures that cannot be
    read are not judged.
    """
    odd, count = [], 0
    for path in paths if not squeeze else ():
        count += 1
        with suppress(BadImage):
            width, height = dimensions(path)
            if not 1 - MOST_SQUEEZED <= width / (height * aspect) <= 1 / (1 - MOST_SQUEEZED):
                odd.append(f"{path.name} has {width}x{height} px")
    if odd:
        raise UserError(
            f"{len(odd):,} of {count:,} pictures are not square ({odd[0]}), and faces would be squeezed: "
            f"{remedy}, or give --squeeze."
        )


def resize(image: Rgb, width: int, height: int) -> Rgb:
    """Resize with area averaging when shrinking and bicubic interpolation when enlarging."""
    if image.shape[:2] == (height, width):
        return image
    shrinking = width * height < image.shape[0] * image.shape[1]
    method = cv2.INTER_AREA if shrinking else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)


def encode(image: Rgb, suffix: str = ".png", quality: int | None = None) -> bytes:
    """The picture as PNG (or JPEG/WebP of a quality from 1 to 100; WebP above 100 is lossless)."""
    flags = {
        ".png": [cv2.IMWRITE_PNG_COMPRESSION, 3],
        ".jpg": [cv2.IMWRITE_JPEG_QUALITY, quality or 95],
        ".webp": [cv2.IMWRITE_WEBP_QUALITY, quality or 101],
    }
    good, data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), flags[suffix])
    if not good:
        raise ValueError(f"OpenCV cannot encode {suffix}")
    return data.tobytes()


def write(path: Path, image: Rgb) -> None:
    """Write a picture atomically, in the format of the path's suffix."""
    write_bytes(path, encode(image, path.suffix.lower()))
