"""Reference CSV + folder of photographs -> samples. Each is a function of (seed, its number) alone.

Sample `number` counts every picture that training has seen, over all steps and processes: so neither
workers, nor processes, nor a resumed run change what comes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ffhqref.core import images, lists
from ffhqref.core.arrays import Int64
from ffhqref.core.images import BadImage, Rgb
from ffhqref.core.store import UserError
from ffhqref.refldm.restorer import resize_bicubic
from ffhqref.refldm.training import augment
from ffhqref.refldm.training.config import Config
from ffhqref.refldm.training.losses import keep_masks

Degrade = Callable[[Rgb, str, int], Rgb]  # picture, its name, a number -> low-quality picture, same size
Key = tuple[str, bool]  # of a picture that training sees: its name, whether it is mirrored
CONDITIONS = ("lq", "references")
TRIES = 20  # samples after one that cannot be read


@dataclass(frozen=True)
class ReferenceRow:
    """A target and the names of its references, best first."""

    target: str
    references: tuple[str, ...] = ()


def draw_seed(seed: int, number: int | str, purpose: str) -> int:
    """A number below 2^63 that depends on these three alone."""
    key = f"{seed}\0{number}\0{purpose}".encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 1


def read_mapping(path: Path) -> list[ReferenceRow]:
    """The rows of a reference CSV in the published form, in its order."""
    return [ReferenceRow(target, tuple(names)) for target, names in lists.read_references(path).items()]


@dataclass(frozen=True)
class Pictures:
    """Photographs below a folder, as pictures of one size."""

    root: Path
    height: int
    width: int

    def read(self, name: str) -> Rgb:
        """uint8 RGB of this size; BadImage where the file is no picture."""
        return resize_bicubic(images.read(images.find(self.root, name)), self.height, self.width)


@dataclass(frozen=True, kw_only=True)
class TrainingSource:
    """What a run is trained on: targets, where their files lie, and how they are degraded."""

    train: Sequence[ReferenceRow]
    validation: Sequence[ReferenceRow]
    pictures: Pictures
    degrade: Degrade | None = None  # not needed by the autoencoder

    def names(self) -> list[str]:
        """Every target and reference, by name."""
        rows = [*self.train, *self.validation]
        return sorted({name for row in rows for name in (row.target, *row.references)})

    def check(self) -> None:
        """UserError that names the pictures which are not there, or says that there are none."""
        if not self.train:
            raise UserError("The dataset has no training target: build it from more photographs.")
        names = self.names()
        missing = [name for name in names if not images.find(self.pictures.root, name).is_file()]
        if missing:
            shown = ", ".join(missing[:3]) + (" ..." if len(missing) > 3 else "")
            raise UserError(
                f"{len(missing):,} of {len(names):,} pictures are missing below {self.pictures.root} "
                f"({shown}): give --images the folder that the dataset was built from."
            )

    def digest(self) -> str:
        """Of lists and level: two runs with one digest train on the same samples."""
        level = repr(getattr(self.degrade, "level", None))
        text = level + repr(
            [(row.target, row.references) for rows in (self.train, self.validation) for row in rows]
        )
        return hashlib.sha256(text.encode()).hexdigest()


def open_dataset(
    data: Path, photos: Path, config: Config, degrade: Degrade | None = None, squeeze: bool = False
) -> TrainingSource:
    """The lists of a built dataset that a stage trains on; pictures have the architecture's size.

    The autoencoder and the LDM train on every photograph of the train split, ReF-LDM on those that have
    references; validation is on targets of val. UserError where pictures are of another
    shape than the networks, unless they may be squeezed.
    """
    mapping = data / "reference_mapping"
    if config.stage == "refldm":
        train = read_mapping(mapping / "train_references.csv")
        empty = [row.target for row in train if not row.references]
        if empty:
            raise UserError(f"{mapping / 'train_references.csv'}: {empty[0]} has no reference.")
    else:
        names = lists.read_list(data / "id_based_ffhq_split" / "train_image.txt")
        train = [ReferenceRow(name) for name in names]
    validation = read_mapping(mapping / "val_references.csv")[: config.validation_pictures]
    size = config.architecture
    pictures = Pictures(photos, size.height, size.width)
    source = TrainingSource(train=train, validation=validation, pictures=pictures, degrade=degrade)
    source.check()
    paths = (images.find(photos, name) for name in source.names())
    images.refuse_squeeze(paths, squeeze, aspect=size.width / size.height)
    return source


@lru_cache(maxsize=2)
def _order(count: int, seed: int, epoch: int) -> Int64:
    return np.random.Generator(np.random.PCG64(draw_seed(seed, epoch, "order"))).permutation(count)


@dataclass
class Sample:
    """A target with all that a step needs of it, its tensors by name."""

    tensors: dict[str, Tensor]
    key: Key
    reference_keys: list[Key] = field(default_factory=list)  # from left to right
    skipped: list[str] = field(default_factory=list)  # what could not be read in its place, and why


@dataclass
class Samples(Dataset[Sample]):
    """Samples by number, without end: a map-style dataset whose keys are sample numbers."""

    source: TrainingSource
    config: Config
    latent: tuple[int, int, int]  # of the noise

    def __getitem__(self, number: int) -> Sample:
        """Sample `number`; where its pictures cannot be read, the next one's, and why in `skipped`."""
        skipped: list[str] = []
        count = len(self.source.train)
        for after in range(TRIES):
            epoch, place = divmod(number + after, count)
            row = self.source.train[_order(count, self.config.seed, epoch)[place]]
            try:
                return replace(self.sample(row, number), skipped=skipped)
            except BadImage as error:
                skipped.append(f"{row.target}: {error}")
        raise UserError(f"{TRIES} samples in a row cannot be read, such as {skipped[-1]}: fix them.")

    def sample(self, row: ReferenceRow, number: int) -> Sample:
        """Pictures uint8 [H, W, 3], wide references [H, n * W, 3], noise, timestep, kept conditions."""
        config = self.config
        rng = np.random.Generator(np.random.PCG64(draw_seed(config.seed, number, "sample")))
        flipped = bool(rng.random() < config.flip)
        target = self.source.pictures.read(row.target)
        made = {"target": target}
        names: list[str] = []
        if config.stage != "autoencoder" and self.source.degrade is not None:
            made["lq"] = self.source.degrade(target, row.target, number)
        if config.stage == "refldm":
            names, made["references"] = self._references(row, rng)
        if flipped:
            made = {name: np.ascontiguousarray(picture[:, ::-1]) for name, picture in made.items()}
            names = names[::-1]
        tensors = {name: torch.from_numpy(picture) for name, picture in made.items()}
        if config.stage != "autoencoder":
            tensors |= diffusion_draws(config, number, self.latent)
        return Sample(tensors, (row.target, flipped), [(name, flipped) for name in names])

    def _references(self, row: ReferenceRow, rng: np.random.Generator) -> tuple[list[str], Rgb]:
        names = list(row.references)
        if self.config.shuffle:
            names = [names[i] for i in rng.permutation(len(names))]
        names = repeated(names, self.config.references)
        if self.config.own and rng.random() < self.config.own:
            names[0] = row.target
        read = self.source.pictures.read
        wide = np.concatenate([augment.reference(read(name), self.config, rng) for name in names], axis=1)
        return names, wide


def repeated(names: Sequence[str], count: int) -> list[str]:
    """Exactly `count` names: repeated from the start where there are fewer."""
    return [names[i % len(names)] for i in range(count)]


def diffusion_draws(config: Config, number: int, latent: tuple[int, int, int]) -> dict[str, Tensor]:
    """Noise [8, h, w], timestep [] int64 and kept conditions [2] of a sample."""
    generator = torch.Generator().manual_seed(draw_seed(config.seed, number, "diffusion"))
    kept = keep_masks(1, CONDITIONS, generator, config.drop)
    t = torch.randint(1000, (), generator=generator)
    noise = torch.randn(latent, generator=generator)
    if config.lq_drop:
        kept["lq"] = kept["lq"] * keep_masks(1, ["lq"], generator, config.lq_drop)["lq"]
    return {"noise": noise, "t": t, "keep": torch.cat([kept[name] for name in CONDITIONS])}


def validation_samples(source: TrainingSource, config: Config, latent: tuple[int, int, int]) -> list[Sample]:
    """The validation pictures: never mirrored or augmented, references in the file's order."""
    samples = []
    for row in source.validation:
        target = source.pictures.read(row.target)
        pictures = {"target": target}
        if source.degrade is not None:
            pictures["lq"] = source.degrade(target, row.target, 0)
        if config.stage == "refldm":
            names = repeated(row.references, config.references)
            pictures["references"] = np.concatenate([source.pictures.read(name) for name in names], 1)
        generator = torch.Generator().manual_seed(draw_seed(config.seed, row.target, "validation"))
        tensors = {name: torch.from_numpy(picture) for name, picture in pictures.items()}
        tensors["noise"] = torch.randn(latent, generator=generator)
        samples.append(Sample(tensors, (row.target, False)))
    return samples


@dataclass(frozen=True)
class StepBatchSampler:
    """Batches of sample numbers of one process, from a step on: a sampler without end."""

    batch_size: int  # of a step
    accumulate: int
    processes: int
    rank: int
    start: int = 0  # step

    def __iter__(self) -> Iterator[list[int]]:
        """Parts of steps: those of all processes and parts together are the step's numbers, each once."""
        part = self.batch_size // (self.processes * self.accumulate)
        step = self.start
        while True:
            for micro in range(self.accumulate):
                first = step * self.batch_size + (micro * self.processes + self.rank) * part
                yield list(range(first, first + part))
            step += 1


@dataclass
class Batch:
    """Samples put together, on a device."""

    tensors: Mapping[str, Tensor]
    keys: list[Key]
    skipped: list[str] = field(default_factory=list)
    reference_keys: list[list[Key]] = field(default_factory=list)  # from left to right

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in self.tensors.items()}
        return Batch(moved, self.keys, self.skipped, self.reference_keys)

    def pictures(self, name: str) -> Tensor:
        """uint8 [B, H, W, 3] => float32 [B, 3, H, W] in [-1, 1]."""
        return self.tensors[name].permute(0, 3, 1, 2).float() / 127.5 - 1


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples -> a batch."""
    names = samples[0].tensors
    return Batch(
        {name: torch.stack([sample.tensors[name] for sample in samples]) for name in names},
        [sample.key for sample in samples],
        [line for sample in samples for line in sample.skipped],
        [sample.reference_keys for sample in samples],
    )
