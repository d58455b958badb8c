"""Many drawn photographs at once: in worker processes, as files with their labels, or as aligned faces."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from ffhqref.demo.people import draw_portrait
from ffhqref.demo.traits import generator
from ffhqref.images import Rgb


@dataclass(frozen=True)
class Wanted:
    """One photograph to draw: photo number `photo` of person `number` in the world `seed`."""

    seed: int
    number: int
    photo: int

    @property
    def identity(self) -> str:
        return f"person-{self.number:04d}"

    @property
    def name(self) -> str:
        """The picture's name; it says nothing of the person, so that nothing can cheat by it."""
        code = int(generator(self.seed, self.identity, f"name {self.photo}").integers(16**8))
        return f"{code:08x}.png"


def album(seed: int, people: int, photos: tuple[int, int] = (3, 7), first: int = 0) -> list[Wanted]:
    """Photographs of `people` people, from the least to the greatest number of photos each."""
    wanted = []
    for number in range(first, first + people):
        count = int(generator(seed, f"person {number}", "photos").integers(photos[0], photos[1] + 1))
        wanted += [Wanted(seed, number, photo) for photo in range(count)]
    return wanted


def _single_thread() -> None:
    cv2.setNumThreads(1)


def drawn(work: Callable[[Wanted], object], wanted: Sequence[Wanted], workers: int) -> Iterator[object]:
    """`work` on each photograph, in order, in so many processes; 1 draws here."""
    if workers <= 1:
        yield from map(work, wanted)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_single_thread) as pool:
        yield from pool.map(work, wanted, chunksize=max(1, min(8, len(wanted) // workers)))


def aligned_face(wanted: Wanted) -> tuple[Rgb, int]:
    """The drawn face on ArcFace's template (112 x 112) and its person's number."""
    from ffhqref.faces import align

    portrait = draw_portrait(wanted.seed, wanted.number, wanted.photo)
    return align(portrait.image, portrait.landmarks.astype(np.float32)), wanted.number
