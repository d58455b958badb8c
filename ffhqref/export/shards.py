"""`webdataset`: tar files of samples in an order drawn by the seed; and how samples are shared out."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ffhqref.core.journal import Made
from ffhqref.core.store import atomic, below, digest_file, seed_for
from ffhqref.export.contents import Contents, Sample
from ffhqref.export.entries import Entry, keyed, packed


def size_about(samples: Sequence[Sample], size: int) -> int:
    """How many bytes the pictures of samples take, roughly."""
    pictures = [p for s in samples for p in (s.target, *s.references, *([s.lq] if s.lq else []))]
    return sum(picture.bytes_about(size) for picture in pictures)


def shares(samples: Sequence[Sample], total: int, megabytes: int) -> list[Sequence[Sample]]:
    """Samples in order in parts of about so many MB, whose lengths differ by one at most."""
    count = min(len(samples), -(-total // (megabytes * 1_000_000))) or 1
    cuts = [round(at * len(samples) / count) for at in range(count + 1)]
    return [samples[low:high] for low, high in zip(cuts, cuts[1:], strict=False)]


def sample_key(samples: Sequence[Sample], size: int) -> str:
    """The digest of what decides a shard's bytes."""
    rows: list[object] = []
    for sample in samples:
        rows.append([sample.split, sample.identity])
        pictures = [sample.target, sample.lq, *sample.references]
        rows.append([[p.name, str(p.path), p.stamp] if p else None for p in pictures])
    return keyed(rows, size)


def plan(contents: Contents) -> Iterator[Entry]:
    """SPLIT-000000.tar and so on: KEY.gt.png, KEY.lq.png where there is one, KEY.ref0.png ..., KEY.json.

    KEY is the sample's place in the order, which depends on the seed and the targets' names alone.
    """
    options = contents.options
    for split in contents.mappings:
        samples = contents.samples(split)
        samples.sort(key=lambda sample: seed_for(options.seed, sample.target.name, "webdataset"))
        if not samples:
            continue
        first = 0
        for number, part in enumerate(shares(samples, size_about(samples, options.size), options.shard_mb)):
            yield TarEntry(f"{split}-{number:06d}.tar", tuple(part), first, options.size)
            first += len(part)


@dataclass(frozen=True)
class TarEntry:
    """A shard; `first` is the place of its first sample."""

    file: str
    samples: tuple[Sample, ...]
    first: int
    size: int

    @property
    def key(self) -> str:
        return keyed(sample_key(self.samples, self.size), self.first)

    @property
    def origin(self) -> str:
        return self.file

    @property
    def about(self) -> int:
        return size_about(self.samples, self.size)

    def make(self, out: Path) -> Made:
        path = below(out, self.file)
        with atomic(path) as part, tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as tar:
            for place, sample in enumerate(self.samples, self.first):
                for extension, data in self._members(sample):
                    member = tarfile.TarInfo(f"{place:09d}.{extension}")  # time, owner: 0
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        return Made(self.key, digest_file(path))

    def _members(self, sample: Sample) -> Iterator[tuple[str, bytes]]:
        yield "gt.png", packed(sample.target, self.size)
        if sample.lq:
            yield "lq.png", packed(sample.lq, self.size)
        for number, reference in enumerate(sample.references):
            yield f"ref{number}.png", packed(reference, self.size)
        about = {
            "name": sample.target.name, "split": sample.split, "identity": sample.identity,
            "references": [reference.name for reference in sample.references],
        }  # fmt: skip
        yield "json", json.dumps(about).encode()
