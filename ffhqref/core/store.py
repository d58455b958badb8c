"""Files that never lie: atomic writes, receipts, safe paths below a root, one writer per folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ffhqref import __version__
from ffhqref.core.parts import PART_SUFFIX as PART_SUFFIX
from ffhqref.core.parts import part_of, sweep_parts, sweep_parts_of

LOCK_NAME = ".ffhqref.lock"
MAX_JSON = 1 << 26  # bytes of a JSON file that is read
_HELD: dict[tuple[Path, int], Path] = {}  # real folder and thread of each lock held -> the folder as given

JsonObject = Mapping[str, Any]  # as JSON has it: text, numbers, lists and objects by name


class UserError(Exception):
    """What the user can fix, as one sentence that names the file and says what to do.

    The command line prints it and exits with 1; it never shows a traceback for it.
    """


def digest(data: bytes) -> str:
    """SHA-256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes as 64 hexadecimal digits, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_given(file: str | None) -> str:
    """`digest_file` of a file the user may have given, or empty; UserError where it is not there."""
    if not file:
        return ""
    try:
        return digest_file(Path(file))
    except OSError as error:
        raise UserError(f"Cannot read {file} ({error.strerror}): give the path of a file.") from None


def seed_for(seed: int, name: str, purpose: str) -> int:
    """A 64-bit number that depends on these three alone, the same on every machine."""
    key = json.dumps([seed, name, purpose]).encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big")


def below(root: Path, name: str) -> Path:
    """The path of `name` (POSIX form) below `root`; UserError where it would leave the root."""
    relative = PurePosixPath(name)
    try:
        writable = b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:  # half of a surrogate pair
        writable = False
    if not name or relative.is_absolute() or ".." in relative.parts or not writable:
        raise UserError(f"{name!r} is not a path below {root}: names must be relative, without '..'.")
    return root / relative


def flush(path: Path) -> None:
    """fsync a file, or a folder so that a rename in it survives a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:  # some network file systems cannot flush a folder
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def open_unlinked(path: Path, flags: int) -> int:
    """`os.open` of a file of our own (made with mode 0644): a link in its place is never followed.

    UserError where one stands there, or where its folder leaves a locked folder through a link.
    """
    refuse_leaving(path)
    try:
        return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise UserError(f"{path} is a link, which is never written through: remove it.") from None
        raise


def refuse_leaving(path: Path) -> None:
    """UserError where `path`, named below a folder whose lock is held, lies elsewhere through a link."""
    whole = path.absolute()
    for root in tuple(_HELD.values()):
        if root not in whole.parents:
            continue
        there, allowed = os.path.realpath(whole.parent), os.path.realpath(root)
        if os.path.commonpath([there, allowed]) != allowed:
            raise UserError(
                f"{path.parent} is a link, or lies behind one, that leaves {root}: replace it by a folder."
            )


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; on success it is flushed and renamed, else it is removed."""
    refuse_leaving(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not _locked(path):  # a locked folder was swept when its lock was taken
        sweep_parts_of(path)
    with part_of(path) as part:
        try:
            yield part
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException as error:
            with suppress(OSError):  # the part's folder may be what is wrong
                part.unlink(missing_ok=True)
            if isinstance(error, OSError) and error.filename in (None, str(part)):
                error.filename, error.filename2 = str(path), None  # users know the file, not its part
            raise
    flush(path.parent)


def _locked(path: Path) -> bool:
    parents = path.absolute().parents
    return any(root in parents for root in tuple(_HELD.values()))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file atomically."""
    with atomic(path) as part:
        part.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a whole text file atomically, UTF-8, line ends as given."""
    write_bytes(path, text.encode("utf-8"))


def read_text(path: Path, what: str) -> str:
    """A small UTF-8 text file of the user's; UserError names it where it cannot be read.

    `what` says in the sentence what the file should be, e.g. "a list of image names".
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text: give {what}.") from None
    except OSError as error:
        raise UserError(f"Cannot read {path} ({error.strerror}): give {what}.") from None


@contextmanager
def lock(folder: Path, holder: str) -> Iterator[None]:
    """Be the one process that writes `folder`; the lock dies with the process.

    `holder` names the command for whoever comes second and is refused with a UserError. A thread that
    holds the lock may take it again: `build-refs` holds it around its stages.
    """
    try:
        import fcntl
    except ImportError:
        raise UserError(
            "ffhqref runs on Linux and macOS: this platform has no file locks that end with their process "
            "(on Windows, use the Windows Subsystem for Linux)."
        ) from None
    key = (folder.resolve(), threading.get_ident())
    if key in _HELD:
        yield
        return
    handle = _open_lock(folder)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = os.pread(handle, 4096, 0).decode("utf-8", "replace").strip() or "another process"
            raise UserError(f"{folder} is being written by {who}: wait for it or stop it first.") from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"`ffhqref {holder}` (process {os.getpid()})\n".encode(), 0)
        sweep_parts(folder)
        _HELD[key] = folder.absolute()
        yield
    finally:
        _HELD.pop(key, None)
        os.close(handle)


def _open_lock(folder: Path) -> int:
    """The folder's lock file, open; the folder is made. UserError where that cannot be."""
    try:
        str(folder).encode("utf-8")
    except UnicodeEncodeError:  # Parquet's library takes no other paths
        raise UserError(f"{str(folder)!r} is not UTF-8: give a folder of another name.") from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return open_unlinked(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT)
    except FileExistsError:
        raise UserError(f"{folder} is a file: give a folder to write to.") from None
    except OSError as error:
        raise UserError(
            f"Cannot write to {folder} ({error.strerror}): give a folder you may write to."
        ) from None


def free_space(folder: Path) -> tuple[int, Path]:
    """Free bytes on the disk of `folder`, which need not be there yet, and the nearest folder that is."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free, there


def need_space(folder: Path, wanted: int, what: str) -> None:
    """UserError where the disk below `folder` has fewer than `wanted` free bytes."""
    free, _ = free_space(folder)
    if free < wanted:
        raise UserError(
            f"{what} needs {wanted / 1e9:.2f} GB and {folder} has {free / 1e9:.2f} GB free: "
            "free some or give another folder."
        )


def need_memory(wanted: int, what: str) -> None:
    """UserError where this process may not take `wanted` more bytes of address space (`ulimit -v`)."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):  # not on this platform
        return
    if limit != resource.RLIM_INFINITY and limit - taken < wanted:
        raise UserError(
            f"{what} needs {wanted / 1e9:.1f} GB of address space, and {max(limit - taken, 0) / 1e9:.1f} of "
            f"this shell's {limit / 1e9:.1f} GB are left: run `ulimit -v unlimited` first."
        )


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """A stage's proof that it is done, written last.

    `inputs` and `outputs` map a name to a SHA-256; the keys of `outputs` are paths below the dataset.
    `notes` holds what does not decide whether the work is still good (counts, provider, versions).
    """

    stage: str
    revision: int  # of the stage's code; a higher one redoes the work
    parameters: JsonObject
    inputs: Mapping[str, str]
    outputs: Mapping[str, str] = field(default_factory=dict)
    notes: JsonObject = field(default_factory=dict)
    version: str = __version__

    def same_work(self, other: Receipt) -> bool:
        """Whether both ask for the same work: stage, revision, parameters and inputs."""

        def asked(receipt: Receipt) -> str:
            parts = [receipt.stage, receipt.revision, dict(receipt.parameters), dict(receipt.inputs)]
            return json.dumps(parts, sort_keys=True)

        return asked(self) == asked(other)

    def well_formed(self) -> bool:
        """Whether every field has its type: JSON may hold anything."""
        texts = [*self.inputs.items(), *self.outputs.items()] if self._has_tables() else [(None, None)]
        return all(isinstance(text, str) for pair in texts for text in pair)

    def _has_tables(self) -> bool:
        tables = (self.parameters, self.inputs, self.outputs, self.notes)
        simple = isinstance(self.stage, str) and type(self.revision) is int and isinstance(self.version, str)
        return simple and all(isinstance(table, dict) for table in tables)


def receipt_path(out: Path, stage: str) -> Path:
    """Where a stage's receipt lies in the dataset `out`."""
    return out / "receipts" / f"{stage}.json"


def read_receipt(out: Path, stage: str) -> Receipt | None:
    """The receipt of a stage, or None where there is none or it cannot be read."""
    try:
        with os.fdopen(open_unlinked(receipt_path(out, stage), os.O_RDONLY), encoding="utf-8") as file:
            receipt = Receipt(**json.load(file))
    except (OSError, UserError, ValueError, TypeError, RecursionError):
        return None
    return receipt if receipt.well_formed() else None


def is_written(folder: Path) -> bool:
    """Whether a folder is one that `ffhqref` wrote: it has a receipt, or the record of restoring."""
    if any(read_receipt(folder, path.stem) for path in (folder / "receipts").glob("*.json")):
        return True
    return any(_is_record(path) for path in folder.glob("run*.json"))


def _is_record(path: Path) -> bool:
    try:
        return path.stat().st_size < MAX_JSON and "command" in json.loads(path.read_bytes())
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def damaged_outputs(out: Path, receipt: Receipt) -> list[str]:
    """The receipt's outputs that are missing or not the bytes that were written."""
    return [
        name
        for name, wanted in receipt.outputs.items()
        if not below(out, name).is_file() or digest_file(below(out, name)) != wanted
    ]


def finished(out: Path, wanted: Receipt) -> Receipt | None:
    """The receipt on disk if it is for the same work and its outputs stand, else None."""
    there = read_receipt(out, wanted.stage)
    if there is None or not there.same_work(wanted) or damaged_outputs(out, there):
        return None
    return there


def write_receipt(out: Path, wanted: Receipt, outputs: Sequence[Path], notes: JsonObject) -> Receipt:
    """Digest `outputs` (paths below `out`) and write the receipt: the last act of a stage."""
    digests = {path.relative_to(out).as_posix(): digest_file(path) for path in outputs}
    receipt = Receipt(**{**asdict(wanted), "outputs": digests, "notes": dict(notes)})
    text = json.dumps(asdict(receipt), indent=1, sort_keys=True)  # ASCII: a path need not be UTF-8
    write_text(receipt_path(out, wanted.stage), text + "\n")
    return receipt


def fingerprint(out: Path, stage: str) -> str:
    """What a later stage writes into its receipt for an earlier one: a digest of all its outputs."""
    receipt = read_receipt(out, stage)
    if receipt is None:
        raise UserError(f"{out} has no finished `{stage}` stage: run `ffhqref {stage} {out}` first.")
    return digest(json.dumps(dict(receipt.outputs), sort_keys=True).encode())


def recorded_images(out: Path) -> Path:
    """The folder of photographs that `embed` recorded; UserError where it is not known or gone."""
    receipt = read_receipt(out, "embed")
    folder = receipt.notes.get("images") if receipt else None
    if not isinstance(folder, str) or not Path(folder).is_dir():
        raise UserError(f"{out} does not say where its photographs are: give --images with their folder.")
    return Path(folder)
