"""Writing files of tensors: with the mode that other files get, and a sentence where the disk is full."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ffhqref.core.store import UserError, atomic

OF_TORCH = ("PytorchStreamWriter", "file write", "inline_container")  # in what torch.save says of a full disk


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """`save_file`, which makes files for their owner alone, with the mode that the umask gives."""
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    save_file(dict(tensors), path, dict(header))
    path.chmod(mode)


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """`store.atomic`, with a UserError where safetensors or torch could not write."""
    try:
        with atomic(path) as part:
            yield part
    except SafetensorError as error:
        raise _unwritten(path, error) from None
    except RuntimeError as error:
        if not any(mark in str(error) for mark in OF_TORCH):
            raise
        raise _unwritten(path, error) from None


def _unwritten(path: Path, error: Exception) -> UserError:
    return UserError(
        f"Cannot write {path} ({text_line(error)}): free some space or give another --out, and run it again."
    )


def text_line(error: BaseException) -> str:
    """What an error says, as far as it fits into a sentence; torch's advice to run pickles never does."""
    text = error.strerror if isinstance(error, OSError) else None
    if "weights_only" in str(error):
        text = type(error).__name__
    return ((text or str(error)).strip() or type(error).__name__).splitlines()[0][:200]
