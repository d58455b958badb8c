"""`ffhqref demo`: people are drawn, then the stages are called as their commands call them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from ffhqref.core import tables
from ffhqref.core.images import scan
from ffhqref.core.recipe import Recipe, load_recipe
from ffhqref.core.store import Receipt, UserError, finished, lock, need_space, write_receipt, write_text
from ffhqref.dataset.build import Built, build_refs
from ffhqref.dataset.sheet import contact_sheet
from ffhqref.degrade.draws import DegradeOptions
from ffhqref.degrade.levels import load_level
from ffhqref.degrade.stage import degrade_dataset
from ffhqref.demo import EMBEDDER
from ffhqref.demo.album import REVISION, Label, album, photographs
from ffhqref.download.sources import load_source
from ffhqref.download.stage import DownloadOptions, accept_terms, download
from ffhqref.identities.grouping import Agreement, agreement

PHOTO_BYTES = 420_000  # of a drawn PNG, about
PEOPLE = (5, 9999)
LEVELS = ("severe", "moderate")

Say = Callable[[str], None]
Accept = Callable[[str, str], bool]  # (name of a source, its terms) -> whether they are accepted


@dataclass(frozen=True)
class Result:
    """A finished demo: where its photographs and dataset are, and how right the found identities are."""

    photos: Path
    dataset: Path
    built: Built
    identities: Agreement  # found against drawn
    levels: tuple[str, ...]  # of low-quality test images that were made


def render_photos(out: Path, *, people: int = 60, seed: int = 0, workers: int = 2) -> Path:
    """Draw the photographs of a demo below `out`/photos, with labels.csv and landmarks.csv beside it.

    What an earlier run drew is kept; photographs of another seed or of more people are removed. The
    folder of photographs is returned.
    """
    wanted = album(seed, people)
    parameters = {"people": people, "seed": seed, "drawing": REVISION}
    receipt = Receipt(stage="draw", revision=1, parameters=parameters, inputs={})
    photos = out / "photos"
    with lock(out, "demo"):
        if finished(out, receipt) and {p.name for p in photos.iterdir()} == {w.name for w in wanted}:
            return photos
        need_space(out, 2 * PHOTO_BYTES * len(wanted), f"A demo of {people} people")
        photos.mkdir(exist_ok=True)
        for stale in {p.name for p in photos.glob("*.png")} - {w.name for w in wanted}:
            (photos / stale).unlink()
        each = photographs(photos, wanted, workers)
        labels = list(tqdm(each, total=len(wanted), desc="draw", unit="photo", disable=None))
        labels.sort(key=lambda label: label.image)
        write_text(out / "labels.csv", labels_csv(labels))
        write_text(out / "landmarks.csv", landmarks_csv(labels))
        outputs = [out / "labels.csv", out / "landmarks.csv", *(photos / label.image for label in labels)]
        write_receipt(out, receipt, outputs, {"photos": len(labels)})
    return photos


def labels_csv(labels: Sequence[Label]) -> str:
    """image, identity, age (years), gender, skin_tone; a line a photograph."""
    lines = [f"{x.image},{x.identity},{x.age},{x.gender},{x.skin_tone}" for x in labels]
    return "\n".join([f"{tables.IMAGE},{tables.IDENTITY},age,gender,skin_tone", *lines]) + "\n"


def landmarks_csv(labels: Sequence[Label]) -> str:
    """image and five points (px) as `--align landmarks --landmarks FILE` reads them."""
    lines = [",".join([x.image, *(f"{value:.2f}" for value in x.landmarks.ravel())]) for x in labels]
    return "\n".join([",".join([tables.IMAGE, *tables.LANDMARK_COLUMNS]), *lines]) + "\n"


def demo_recipe(out: Path, seed: int) -> Recipe:
    """manifests/demo.toml with the files of this demo."""
    files = {"embedder": EMBEDDER, "landmarks": out / "landmarks.csv", "labels": out / "labels.csv"}
    return load_recipe("demo", seed=seed, **{key: str(path) for key, path in files.items()})


def judged(dataset: Path, labels: Path) -> Agreement:
    """The identities that were found against those that are known (CSV of image and identity)."""
    known = tables.read_csv(labels, [tables.IMAGE, tables.IDENTITY])
    of = dict(zip(known[tables.IMAGE], known[tables.IDENTITY], strict=True))
    table = tables.read(
        tables.path_of(dataset, "identities"), tables.IDENTITIES, [tables.IMAGE, tables.IDENTITY]
    )
    found = dict(zip(tables.texts(table, tables.IMAGE), tables.texts(table, tables.IDENTITY), strict=True))
    both = [name for name in found if name in of]
    if not both:
        raise UserError(f"{labels} names no photograph of {dataset}: run the demo into a new folder.")
    return agreement([found[name] for name in both], [of[name] for name in both])


def run_demo(
    out: Path, *, people: int = 60, seed: int = 0, workers: int = 2, say: Say = lambda line: None
) -> Result:
    """Draw people, build a dataset of them, degrade its test images, lay out a contact sheet.

    `say` is given each line of the report as it is known. UserError where `people` is out of range.
    """
    if not PEOPLE[0] <= people <= PEOPLE[1]:
        raise UserError(f"--people {people}: give a number from {PEOPLE[0]} to {PEOPLE[1]}.")
    say(
        "These are drawn people and a demonstration network that knows drawn people only: "
        "nothing here is a photograph, and the network is of no use for real ones."
    )
    began = time.monotonic()
    photos = render_photos(out, people=people, seed=seed, workers=workers)
    drew = time.monotonic()
    count = len(list(photos.iterdir()))
    say(f"{count:,} drawn photos of {people} people ({drew - began:.0f} s): {photos}")
    dataset = out / "dataset"
    built = build_refs(photos, dataset, demo_recipe(out, seed), device="cpu", workers=workers)
    identities = judged(dataset, out / "labels.csv")
    levels = degrade_tests(dataset, photos, workers)
    contact_sheet(dataset, photos)
    say(f"Their dataset, verified, with low-quality test images ({time.monotonic() - drew:.0f} s): {dataset}")
    return Result(photos, dataset, built, identities, levels)


def degrade_tests(dataset: Path, photos: Path, workers: int) -> tuple[str, ...]:
    """Severe and moderate low-quality images of the test targets; the levels' names."""
    for level in LEVELS:
        degrade_dataset(load_level(level), dataset, photos=photos, options=DegradeOptions(workers=workers))
    return LEVELS


def closing_lines(out: Path, result: Result) -> list[str]:
    """What a finished demo tells: how right it is, what lies where, what to do with real photographs."""
    found = result.identities
    return [
        f"Identities against the known people, over pairs of photos: precision {found.pair_precision:.2%}, "
        f"recall {found.pair_recall:.2%}.",
        "",
        *tree(out),
        "",
        "Next, with photographs of your own:",
        "  ffhqref build-refs --images PHOTOS --out mine --detector det_500m.onnx --embedder w600k_mbf.onnx",
        f"Look at {result.dataset / 'contact-sheet.png'}; prove the dataset: ffhqref verify {result.dataset}",
    ]


REAL = ("lfw", "buffalo_sc")  # sources of the demo on real people


def run_real(out: Path, *, accept: Accept, workers: int = 2, say: Say = lambda line: None) -> Result:
    """The same on real people: LFW and InsightFace's smallest pack are downloaded, LFW's labels judge.

    `accept` is asked once with a source's name and terms. UserError where something cannot be had.
    """
    say("These are the photographs of Labeled Faces in the Wild and a small network for real faces.")
    downloads, dataset = out / "downloads", out / "dataset"
    sources = [load_source(name) for name in REAL]
    for source in sources:
        accept_terms(source, downloads, partial(accept, source.name))
    outcome = download(sources, downloads, DownloadOptions())
    if outcome.missing:
        path, reason = outcome.missing[0]
        raise UserError(
            f"{path} could not be downloaded ({reason}): run this again where a network reaches it."
        )
    photos = downloads / "lfw"
    began = time.monotonic()
    write_text(out / "labels.csv", people_of_folders(photos))
    networks = {"detector": "det_500m.onnx", "embedder": "w600k_mbf.onnx"}
    files = {key: str(downloads / "buffalo_sc" / name) for key, name in networks.items()}
    built = build_refs(photos, dataset, load_recipe("photos", **files), workers=workers)
    identities = judged(dataset, out / "labels.csv")
    levels = degrade_tests(dataset, photos, workers)
    contact_sheet(dataset, photos)
    say(f"Built the dataset in {time.monotonic() - began:.0f} s: {dataset}")
    return Result(photos, dataset, built, identities, levels)


def people_of_folders(photos: Path) -> str:
    """image, identity of photographs that lie in a folder for each person."""
    names = [photo.name for photo in scan(photos)]
    rows = [f"{name},{name.rpartition('/')[0]}" for name in names if "," not in name and "/" in name]
    return "\n".join([f"{tables.IMAGE},{tables.IDENTITY}", *rows]) + "\n"


EXPLAINED = {
    "downloads": "what was downloaded: LFW, two networks",
    "photos": "drawn photographs",
    "labels.csv": "who they show: identity, age, gender, skin tone",
    "landmarks.csv": "five points a face",
    "dataset/contact-sheet.png": "targets with their references",
    "dataset/reference_mapping": "target -> references, published form",
    "dataset/id_based_ffhq_split": "lists of train, val, test",
    "dataset/test_images": "low-quality test images",
    "dataset/restored": "what was restored of them, with and without references",
    "dataset/tables": "embeddings, pairs, identities, splits",
    "dataset/receipts": "what was done with what",
}


def tree(out: Path) -> list[str]:
    """What a demo made, a line each with what it is."""
    lines = [f"{out}/"]
    for name, what in EXPLAINED.items():
        path = out / name
        if path.exists():
            count = sum(1 for p in path.rglob("*") if p.is_file()) if path.is_dir() else 0
            shown = f"{name}/ ({count:,} files)" if count else name
            lines.append(f"  {shown:<42}{what}")
    return lines
