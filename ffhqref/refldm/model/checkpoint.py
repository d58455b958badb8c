"""Published checkpoints and our own safetensors -> networks. Files are data: nothing in them is run."""

from __future__ import annotations

import ctypes
import json
import pickle
import sys
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch import serialization as torch_files

from ffhqref.core.recipe import build
from ffhqref.core.store import UserError
from ffhqref.refldm.model.autoencoder import Autoencoder, AutoencoderSize
from ffhqref.refldm.model.layers import fold
from ffhqref.refldm.model.tensor_files import text_line, write_safetensors
from ffhqref.refldm.model.unet import UNet, UNetSize

RAW, EMA, FIRST_STAGE = "model.diffusion_model.", "model_ema.", "first_stage_model."
EMA_DECAY, EMA_UPDATES = f"{EMA}decay", f"{EMA}num_updates"
FIRST_STAGE_GROUPS = ("encoder.", "decoder.", "quantize.", "quant_conv.", "post_quant_conv.")
METADATA = "ffhqref"  # key of a safetensors header under which the architecture stands as JSON
MAX_PICKLE_BYTES = 64 << 20  # the published one has less than 1 MB: tensors lie beside the pickle
MAX_SIZE, MAX_RESOLUTIONS = 65536, 8  # of an architecture
HARMLESS = {"collections", "pathlib", "argparse", "datetime", "enum", "functools", "typing", "uuid"}
HARMLESS_BUILTINS = {"dict", "list", "tuple", "frozenset", "int", "float", "str", "bool", "object", "slice"}

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h

WeightKind = Literal["ema", "raw"]
_loading = threading.Lock()  # torch keeps the names that may stand in a file for the whole process


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What a checkpoint's tensors alone do not say; the defaults are the published network."""

    height: int = 512  # px of the pictures it was trained on
    width: int = 512
    autoencoder: AutoencoderSize = field(default_factory=AutoencoderSize)
    unet: UNetSize = field(default_factory=UNetSize)


def parse_architecture(table: Mapping[str, object], where: str) -> Architecture:
    """An architecture from TOML or JSON; UserError where a key or a value does not fit."""
    architecture = build(Architecture, table, where)
    for size in (architecture, architecture.autoencoder, architecture.unet):
        _check_sizes(size, where)
    stride = 2 ** (len(architecture.autoencoder.multipliers) + len(architecture.unet.multipliers) - 2)
    if architecture.height % stride or architecture.width % stride:
        raise UserError(f"{where}: height and width must be multiples of {stride}.")
    return architecture


def _check_sizes(size: Architecture | AutoencoderSize | UNetSize, where: str) -> None:
    """Every number is from 1 to 65536, every list has 1 to 8: memory is bounded before it is taken."""
    for name, value in vars(size).items():
        numbers = value if isinstance(value, tuple) else (value,)
        if any(type(n) is int and not 1 <= n <= MAX_SIZE for n in numbers):
            raise UserError(f"{where}: {name} is {value!r}: give whole numbers from 1 to {MAX_SIZE}.")
        if not 1 <= len(numbers) <= MAX_RESOLUTIONS:
            raise UserError(f"{where}: {name} is {list(numbers)}: give 1 to {MAX_RESOLUTIONS} numbers.")


class Networks:
    """A checkpoint's networks, ready for inference (see `layers.fold`).

    The denoiser may be given as a function that reads its weights: it is called when the denoiser is first
    asked for, so that wide references which are encoded before have its memory for themselves.
    """

    def __init__(
        self,
        unet: UNet | Callable[[], UNet],
        autoencoder: Autoencoder,
        architecture: Architecture,
        weights: WeightKind,  # which of the checkpoint's two UNets this is
    ) -> None:
        self.autoencoder, self.architecture, self.weights = autoencoder, architecture, weights
        self._unet, self._reading = unet, threading.Lock()

    @property
    def unet(self) -> UNet:
        """The denoiser; UserError where its weights are not finite."""
        with self._reading:
            if not isinstance(self._unet, UNet):
                self._unet = self._unet()
            return self._unet


def load_networks(
    checkpoint: Path,
    autoencoder: Path | None = None,
    architecture: Architecture | None = None,
    weights: WeightKind = "ema",
) -> Networks:
    """Read both networks, in float32. A first stage in `checkpoint` goes before that of `autoencoder`.

    A checkpoint without EMA weights gives its raw ones. UserError where a file is no checkpoint, or
    holds missing, misshapen or not finite tensors (the denoiser's values are checked when it is read).
    """
    tensors, found = read_tensors(checkpoint)
    architecture = architecture or found or Architecture()
    unet, first_stage = _empty_networks(architecture, checkpoint)
    unet_tensors, used = unet_state(tensors, unet, weights)
    if not unet_tensors:
        raise UserError(
            f"{checkpoint} holds no denoiser (no key {RAW}... or {EMA}...): give a ReF-LDM checkpoint, "
            "and the first stage as --autoencoder."
        )
    stage_tensors = join_first_stage(tensors, autoencoder)
    if not stage_tensors:
        raise UserError(f"{checkpoint} holds no first stage ({FIRST_STAGE}...): add --autoencoder FILE.")
    prefix = f"{EMA}diffusion_model" if used == "ema" else RAW
    stage_path, stage_prefix = autoencoder or checkpoint, "" if autoencoder else FIRST_STAGE
    check_shapes(unet, unet_tensors, checkpoint, prefix)
    check_shapes(first_stage, stage_tensors, stage_path, stage_prefix)
    _fill(first_stage, stage_tensors, stage_path, stage_prefix)

    def read_unet() -> UNet:
        _fill(unet, unet_tensors, checkpoint, prefix)
        unet_tensors.clear()
        return unet

    return Networks(read_unet, first_stage, architecture, used)


def _release_memory() -> None:
    """Give the memory that loading freed back to the system (glibc only): small pieces would keep it."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def keep_memory() -> None:
    """Let freed memory serve again, in place of going back to the system (glibc only).

    On a processor the pictures of a training step, or of a batch, are large enough to be mapped anew each
    time, and the page faults of that cost as much as the sums.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _empty_networks(architecture: Architecture, path: Path) -> tuple[UNet, Autoencoder]:
    """Both networks without memory, so that shapes can be compared before any is taken."""
    try:
        with torch.device("meta"):
            return UNet(architecture.unet), Autoencoder(architecture.autoencoder)
    except ValueError as error:  # e.g. channels that group normalisation cannot divide by 32
        raise UserError(f"{path}: no network has this architecture ({error}).") from None


def ema_key(name: str) -> str:
    """The key of a parameter's average: its name inside the published wrapper, without dots."""
    return EMA + f"diffusion_model.{name}".replace(".", "")


def unet_state(
    tensors: Mapping[str, Tensor], unet: UNet, weights: WeightKind
) -> tuple[dict[str, Tensor], WeightKind]:
    """The UNet's tensors by its own names, and which weights they are.

    An EMA name is the parameter's inside the published wrapper without its dots, which cannot be read
    backwards: so the known names are mapped forwards.
    """
    ema = {name: ema_key(name) for name in unet.state_dict()}
    if weights == "ema" and any(key in tensors for key in ema.values()):
        return {name: tensors[key] for name, key in ema.items() if key in tensors}, "ema"
    return {key[len(RAW) :]: value for key, value in tensors.items() if key.startswith(RAW)}, "raw"


def first_stage_state(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The first stage's tensors, of a file of its own or of a whole checkpoint; `loss.*` left out."""
    inside = {k.removeprefix(FIRST_STAGE): v for k, v in tensors.items()}
    return {name: tensor for name, tensor in inside.items() if name.startswith(FIRST_STAGE_GROUPS)}


def join_first_stage(tensors: Mapping[str, Tensor], autoencoder: Path | None) -> dict[str, Tensor]:
    """The first stage of a checkpoint's tensors; what they lack of it is that of the file `autoencoder`."""
    own = first_stage_state({k: v for k, v in tensors.items() if k.startswith(FIRST_STAGE)})
    return (first_stage_state(read_tensors(autoencoder)[0]) if autoencoder else {}) | own


def check_shapes(network: nn.Module, tensors: Mapping[str, Tensor], where: Path, prefix: str = "") -> None:
    """UserError where a tensor of the network is missing or has another shape; nothing is copied."""
    for name, wanted in network.state_dict().items():
        tensor = tensors.get(name)
        if tensor is None:
            raise UserError(
                f"{where} lacks {prefix}{name}: it is incomplete, or the checkpoint of another network."
            )
        if tensor.shape != wanted.shape:
            raise UserError(
                f"{where}: {prefix}{name} has the shape {list(tensor.shape)}, but {list(wanted.shape)} is "
                "wanted: it is the checkpoint of another network (see --architecture, or the "
                "configuration of a training)."
            )


def check_finite(name: str, tensor: Tensor, wanted: Tensor, where: Path) -> None:
    """UserError where a weight holds a value that is not a finite number; counters are whole numbers."""
    # the least and the greatest value are NaN where any is: no copy is needed to look for one
    if not wanted.is_floating_point():
        return
    if not tensor.is_floating_point() or not all(map(torch.isfinite, torch.aminmax(tensor))):
        raise UserError(
            f"{where}: {name} holds values that are not finite numbers: the file is damaged or its training "
            "failed; get it again or take another checkpoint."
        )


def _fill(network: nn.Module, tensors: Mapping[str, Tensor], path: Path, prefix: str) -> None:
    """Give an empty network its weights for inference: float32, channels-last, copied once."""
    state = {}
    for name, wanted in network.state_dict().items():
        tensor = tensors[name]
        check_finite(prefix + name, tensor, wanted, path)
        layout = torch.channels_last if tensor.dim() == 4 else torch.contiguous_format
        state[name] = torch.empty_like(wanted, device="cpu", memory_format=layout).copy_(tensor)
    network.load_state_dict(state, assign=True)
    fold(network)
    _release_memory()


def read_tensors(path: Path) -> tuple[dict[str, Tensor], Architecture | None]:
    """Every tensor of a file by its name, mapped from the disk, and the architecture where it says one."""
    if not path.is_file():
        raise UserError(f"There is no checkpoint {path}: give the path of refldm.ckpt or a .safetensors.")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _read_ckpt(path), None


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Architecture | None]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is no whole safetensors file ({text_line(error)}): make it again.") from None
    if METADATA not in metadata:
        return tensors, None
    try:
        table = json.loads(metadata[METADATA])["architecture"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{path}: its header names no architecture: make it again.") from None
    return tensors, parse_architecture(table, str(path))


def _read_ckpt(path: Path) -> dict[str, Tensor]:
    """The tensors of a PyTorch file: a bare mapping, or one under "state_dict" as Lightning writes it."""
    try:
        with _loading, torch_files.safe_globals(_stand_ins(path)):
            zipped = zipfile.is_zipfile(path)
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except UserError:
        raise
    except pickle.UnpicklingError:  # torch's own words advise to read it all the same
        raise UserError(
            f"{path} is cut off, damaged or no checkpoint: it holds more than tensors; nothing was run. "
            "Do not use this file: get the checkpoint from its publisher."
        ) from None
    except MemoryError:
        raise UserError(f"{path} asks for more memory than there is: it is no usable checkpoint.") from None
    except Exception as error:  # hostile or cut bytes: the reader raises many kinds
        raise UserError(
            f"{path} is cut off, damaged or no checkpoint ({text_line(error)}): get it again."
        ) from None
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict):
        raise UserError(f"{path} holds no mapping of names to tensors: it is no checkpoint.")
    return {k: v.detach() for k, v in loaded.items() if isinstance(k, str) and type(v) in _TENSORS}


_TENSORS = (Tensor, nn.Parameter)


class _Skipped:
    """Stands in for a class that is not ours to run: takes anything, keeps nothing."""

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class _SkippedDict:
    """The same for classes that are filled like dicts, which the reader allows of few types only."""

    def __new__(cls, *args: object) -> OrderedDict[str, object]:  # type: ignore[misc]
        return OrderedDict()


def _stand_ins(path: Path) -> list[Callable[..., object] | tuple[Callable[..., object], str]]:
    """For each foreign class that the pickle names, a stand-in that does nothing.

    What could run code (functions of the standard library but for a few harmless ones) refuses the file:
    nobody's training writes those.
    """
    if not zipfile.is_zipfile(path):
        return []
    with zipfile.ZipFile(path) as archive:
        pickles = [entry for entry in archive.infolist() if entry.filename.endswith("data.pkl")]
    if any(entry.file_size > MAX_PICKLE_BYTES for entry in pickles):
        raise UserError(f"{path} holds a pickle of more than {MAX_PICKLE_BYTES >> 20} MiB: refused.")
    foreign = torch_files.get_unsafe_globals_in_checkpoint(path)
    for name in foreign:
        module, _, rest = name.partition(".")
        good = module in HARMLESS or module not in sys.stdlib_module_names
        if not good and not (module == "builtins" and rest in HARMLESS_BUILTINS):
            raise UserError(
                f"{path} names {name}, which could run code; nothing was run. Do not use this file: get the "
                "checkpoint from its publisher."
            )
    return [(_SkippedDict if "dict" in name.lower() else _Skipped, name) for name in foreign]


@dataclass(frozen=True)
class Converted:
    """What was written: how many tensors, of how many bytes, and which of the two UNets."""

    tensors: int
    bytes: int
    weights: WeightKind


def convert(
    checkpoint: Path,
    out: Path,
    autoencoder: Path | None = None,
    architecture: Architecture | None = None,
    notes: Mapping[str, str] | None = None,
) -> Converted:
    """Write what inference needs, EMA weights and first stage, under the published names to `out`.

    The safetensors header keeps the architecture and `notes`. UserError as `load_networks`.
    """
    tensors, found = read_tensors(checkpoint)
    networks = load_networks(checkpoint, autoencoder, architecture)
    named, weights = unet_state(tensors, networks.unet, "ema")  # whole and finite, or an error
    key = ema_key if weights == "ema" else RAW.__add__
    kept = {key(name): tensor.contiguous() for name, tensor in named.items()}
    stage = join_first_stage(tensors, autoencoder)
    kept |= {FIRST_STAGE + name: tensor.contiguous() for name, tensor in stage.items()}
    header = {"architecture": asdict(networks.architecture), **(notes or {})}
    # one key: the order of several would be chance, and so the file's bytes
    write_safetensors(out, kept, {METADATA: json.dumps(header, sort_keys=True)})
    size = sum(tensor.numel() * tensor.element_size() for tensor in kept.values())
    return Converted(len(kept), size, weights)
