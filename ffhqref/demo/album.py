"""Many drawn photographs at once: in worker processes, as files with their labels, or as aligned faces."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from ffhqref.core import images
from ffhqref.core.arrays import Float64
from ffhqref.core.images import BadImage, Rgb
from ffhqref.demo.portrait.camera import landmarks_of
from ffhqref.demo.portrait.people import Portrait, render_portrait
from ffhqref.demo.portrait.traits import generator, of_person, person
from ffhqref.faces.geometry import align

# Of what a portrait looks like: a higher one gives other names, so that older files are not taken for these.
DRAWING_REVISION = 1
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Wanted:
    """One photograph to draw: photo number `photo` of person `number` of the population `seed`."""

    seed: int
    number: int
    photo: int

    @property
    def identity(self) -> str:
        return f"person-{self.number:04d}"

    @property
    def name(self) -> str:
        """The picture's name; it says nothing about the person, so that nothing can cheat by it."""
        rng = generator(self.seed, self.identity, f"name {self.photo}, {DRAWING_REVISION}")
        return f"{int(rng.integers(16**8)):08x}.png"

    def portrait(self) -> Portrait:
        return render_portrait(self.seed, self.number, self.photo)


def album(seed: int, people: int, fewest: int = 1, most: int = 8) -> list[Wanted]:
    """The photographs of `people` people, `fewest` to `most` of each."""
    wanted = []
    for number in range(people):
        count = int(of_person(seed, number, "photos").integers(fewest, most + 1))
        wanted += [Wanted(seed, number, photo) for photo in range(count)]
    return wanted


def map_photos(work: Callable[[Wanted], Answer], wanted: Sequence[Wanted], workers: int) -> Iterator[Answer]:
    """`work` on each photograph, in order, in so many processes; 1 works in this one."""
    if workers <= 1:
        yield from map(work, wanted)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        yield from pool.map(work, wanted, chunksize=max(1, min(8, len(wanted) // workers)))


def aligned_face(wanted: Wanted) -> tuple[Rgb, int]:
    """The drawn face on ArcFace's template (112 x 112) and its person's number."""
    portrait = wanted.portrait()
    return align(portrait.image, portrait.landmarks.astype(np.float32)), wanted.number


@dataclass(frozen=True)
class Label:
    """What is known of a drawn photograph."""

    image: str
    identity: str
    age: int  # years
    gender: str
    skin_tone: str
    landmarks: Float64  # 5 x 2 px: eye, eye, nose tip, mouth corner, mouth corner, the picture's left first


def photograph(folder: Path, wanted: Wanted) -> Label:
    """Draw one photograph into the folder, unless a whole one is there, and label it.

    A name belongs to one seed, person, photo and revision, and files are written whole, so a picture
    that decodes (PNG has a checksum in each part) is the right one.
    """
    path = folder / wanted.name
    try:
        images.read(path)
        marks = landmarks_of(wanted.seed, wanted.number, wanted.photo)
    except BadImage:
        portrait = wanted.portrait()
        images.write(path, portrait.image)
        marks = portrait.landmarks
    who = person(wanted.seed, wanted.number)
    return Label(wanted.name, wanted.identity, who.age, who.gender, who.skin_tone, marks)
