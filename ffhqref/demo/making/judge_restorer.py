"""How the demo's first stage and restorer are judged: on people of another population than the training's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ffhqref.core import images, sheets
from ffhqref.core.images import Rgb
from ffhqref.core.terminal import progress
from ffhqref.degrade.operators import sampler
from ffhqref.demo import EMBEDDER
from ffhqref.demo.album import Wanted, map_photos
from ffhqref.demo.likeness import mean_over_people, target_similarities
from ffhqref.demo.portrait.people import Portrait
from ffhqref.demo.portrait.raster import FRAME
from ffhqref.faces.networks import Embedder
from ffhqref.refldm.model import checkpoint
from ffhqref.refldm.model.autoencoder import Autoencoder
from ffhqref.refldm.model.unet import ReferenceCache
from ffhqref.refldm.restorer import Restorer, SamplingOptions, as_picture, resize_bicubic
from ffhqref.refldm.training import data

JUDGING_POPULATION = 77004  # seed; neither the training population nor the demo's own default
REFERENCE_COUNTS = (0, 1, 3, 5)  # of references, as in the paper's Table 5
TARGETS = 2  # of a judged person, beside the references
SAMPLES = 16  # pictures restored at a time
SHOWN_PEOPLE, SIDE = 5, 128  # people on the sheet, px of a picture there
SIMILARITY = "similarity [mean, 95 % interval over people]"  # key of the reports


def normalised(picture: Rgb) -> torch.Tensor:
    """[1, 3, H, W] in [-1, 1], as training has it."""
    return data.Batch({"picture": torch.from_numpy(picture)[None]}, []).pictures("picture")


@torch.no_grad()
def judge_first_stage(
    autoencoder: Autoencoder, size: tuple[int, int], workers: int, people: int = 40
) -> dict[str, object]:
    """What pictures of unseen people lose in it: similarity to the target, mean distance of [-1, 1]."""
    wanted = [Wanted(JUDGING_POPULATION, number, photo) for number in range(people) for photo in range(2)]
    portraits = list(map_photos(Wanted.portrait, wanted, workers))
    made: dict[str, list[Rgb]] = {"at 64 px": [], "through the first stage": []}
    distances = []
    for portrait in portraits:
        small = resize_bicubic(portrait.image, *size)
        x = normalised(small)
        back = autoencoder.decode(autoencoder.encode(x))
        distances.append(float((back - x).abs().mean()))
        made["at 64 px"].append(small)
        made["through the first stage"].append(as_picture(back[0]))
    found = to_targets(portraits, made)
    return {"people": people, "pictures": len(portraits), "population": JUDGING_POPULATION,
            "mean distance, of [-1, 1]": round(float(np.mean(distances)), 4),
            SIMILARITY: rounded(found, [one.identity for one in wanted])}  # fmt: skip


def to_targets(targets: Sequence[Portrait], made: Mapping[str, Sequence[Rgb]]) -> dict[str, list[float]]:
    """Similarity of each picture to the portrait that it shows, for every kind in `made`."""
    marks = [portrait.landmarks * (FRAME / portrait.image.shape[0]) for portrait in targets]
    return target_similarities(Embedder(EMBEDDER, "cpu"), [p.image for p in targets], made, marks)


def rounded(found: Mapping[str, Sequence[float]], who: Sequence[str]) -> dict[str, list[float]]:
    """Mean and interval over people, for every kind."""
    means = {kind: mean_over_people(values, who) for kind, values in found.items()}
    return {kind: [round(value, 4) for value in (m.mean, m.low, m.high)] for kind, m in means.items()}


@dataclass(frozen=True)
class Case:
    """A person to judge by: portraits to restore, their low-quality pictures, references."""

    person: str
    targets: list[Portrait]
    lq: list[Rgb]
    references: list[Rgb]


def cases(people: int, size: tuple[int, int], workers: int) -> list[Case]:
    """Unseen people, severely degraded at 512 px as the dataset's test images are."""
    each = TARGETS + max(REFERENCE_COUNTS)
    wanted = [Wanted(JUDGING_POPULATION, number, photo) for number in range(people) for photo in range(each)]
    portraits = list(progress(map_photos(Wanted.portrait, wanted, workers), "draw", "photo", len(wanted)))
    degrade = sampler("severe")
    found = []
    for first in range(0, len(wanted), each):
        targets = portraits[first : first + TARGETS]
        lq = [degrade(p.image, w.name) for p, w in zip(targets, wanted[first:], strict=False)]
        references = [resize_bicubic(p.image, *size) for p in portraits[first + TARGETS : first + each]]
        found.append(Case(wanted[first].identity, targets, lq, references))
    return found


def restored(
    restorer: Restorer, judged: Sequence[Case], cached: Sequence[ReferenceCache], what: str
) -> list[Rgb]:
    """Every target of every case, restored with the references that are `cached` for the case."""
    jobs = [
        (resize_bicubic(lq, *restorer.size), one)
        for case, one in zip(judged, cached, strict=True)
        for lq in case.lq
    ]
    pictures: list[Rgb] = []
    noise = restorer.noise(2024)
    for start in progress(range(0, len(jobs), SAMPLES), what, "batch"):
        batch = jobs[start : start + SAMPLES]
        pictures += restorer.restore(
            [lq for lq, _ in batch], [cached for _, cached in batch], [noise] * len(batch), SamplingOptions()
        )
    return pictures


def with_references(restorer: Restorer, judged: Sequence[Case]) -> dict[str, list[Rgb]]:
    """Restored by number of references; and what shows that it is the person in them who counts."""
    made = {}
    for count in REFERENCE_COUNTS:
        kind = f"{count} references"
        cached = [restorer.cache_references(case.references[:count]) for case in judged]
        made[kind] = restored(restorer, judged, cached, kind)
    others = [*cached[1:], cached[0]]
    made[f"{kind} of another person"] = restored(restorer, judged, others, "of another person")
    null = restorer.cache_latents(torch.zeros(1, *restorer.latent))
    made["null condition"] = restored(restorer, judged, [null] * len(judged), "null condition")
    return made


def judge(path: Path, ldm: Path, people: int, workers: int, sheet: Path) -> dict[str, object]:
    """Similarity to the targets by number of references, with intervals over people.

    Without references two others stand beside: the LDM that `path` was trained from, and the null condition,
    which is what training shows in place of references. The first people are shown on `sheet`.
    """
    restorer, plain = Restorer(checkpoint.load_networks(path)), Restorer(checkpoint.load_networks(ldm))
    judged = cases(people, restorer.size, workers)
    targets = [portrait for case in judged for portrait in case.targets]
    who = [case.person for case in judged for _ in case.targets]
    made: dict[str, list[Rgb]] = {
        "low quality": [lq for case in judged for lq in case.lq],
        "target at the restorer's size": [resize_bicubic(p.image, *restorer.size) for p in targets],
        "target through the autoencoder": [
            restorer.decode(restorer.encode(resize_bicubic(p.image, *restorer.size)[None]))[0]
            for p in targets
        ],
    }
    made["LDM"] = restored(plain, judged, [ReferenceCache()] * len(judged), "LDM")
    made |= with_references(restorer, judged)
    images.write(sheet, show(judged, made, restorer.size))
    found = to_targets(targets, made)
    most = found[f"{REFERENCE_COUNTS[-1]} references"]
    for none in ("0 references", "null condition", "LDM"):
        found[f"gain of {REFERENCE_COUNTS[-1]} references over {none}"] = list(np.subtract(most, found[none]))
    return {"level": "severe", "people": people, "pictures": len(targets), "population": JUDGING_POPULATION,
            SIMILARITY: rounded(found, who)}  # fmt: skip


def show(judged: Sequence[Case], made: Mapping[str, Sequence[Rgb]], size: tuple[int, int]) -> Rgb:
    """A row a person: low quality, restored without and with references, the target, references."""
    most = f"{REFERENCE_COUNTS[-1]} references"
    rows = []
    for at, case in enumerate(judged[:SHOWN_PEOPLE]):
        first = at * TARGETS  # the case's pictures follow each other
        shown = [resize_bicubic(case.lq[0], *size), made["0 references"][first], made[most][first],
                 resize_bicubic(case.targets[0].image, *size), *case.references[:3]]  # fmt: skip
        rows.append([sheets.Panel(picture) for picture in shown])
    titles = ["low quality", "alone", most, "target", "references"]
    return sheets.compose(rows, titles, side=SIDE)
