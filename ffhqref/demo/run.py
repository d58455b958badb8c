"""`ffhqref demo`: people are drawn, then the stages are called as their commands call them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ffhqref.core import lists, tables
from ffhqref.core.images import scan
from ffhqref.core.recipe import Recipe, load_recipe
from ffhqref.core.store import Receipt, UserError, finished, lock, need_space, write_receipt, write_text
from ffhqref.core.terminal import progress
from ffhqref.dataset.build import Built, build_refs
from ffhqref.dataset.sheet import contact_sheet
from ffhqref.degrade.draws import DegradeOptions
from ffhqref.degrade.levels import load_level
from ffhqref.degrade.stage import degrade_dataset
from ffhqref.demo import EMBEDDER
from ffhqref.demo.album import DRAWING_REVISION, Label, album, map_photos, photograph
from ffhqref.download.sources import load_source
from ffhqref.download.stage import DownloadOptions, accept_terms, download
from ffhqref.faces.networks import Device
from ffhqref.identities.grouping import Agreement, agreement

PHOTO_BYTES = 420_000  # of a drawn PNG, about
PEOPLE_RANGE = (5, 9999)
TEST_LEVELS = ("severe", "moderate")
REAL_SOURCES = ("lfw", "buffalo_sc")  # of the demo on real people

Say = Callable[[str], None]
Accept = Callable[[str, str], bool]  # (name of a source, its terms) -> whether they are accepted


@dataclass(frozen=True)
class DemoResult:
    """A finished demo: where its dataset is, and how right the identities found in it are."""

    dataset: Path
    built: Built
    identities: Agreement  # found against known


def render_photos(out: Path, *, people: int = 60, seed: int = 0, workers: int = 2) -> Path:
    """Draw the photographs of a demo into `out`/photos, which is returned, and write down who they show.

    What an earlier run drew is kept; photographs of another seed or of more people are removed.
    labels.csv and landmarks.csv lie beside the folder.
    """
    wanted = album(seed, people)
    parameters = {"people": people, "seed": seed, "drawing": DRAWING_REVISION}
    receipt = Receipt(stage="draw", revision=1, parameters=parameters, inputs={})
    photos = out / "photos"
    with lock(out, "demo"):
        if finished(out, receipt) and {p.name for p in photos.iterdir()} == {w.name for w in wanted}:
            return photos
        need_space(out, 2 * PHOTO_BYTES * len(wanted), f"A demo of {people} people")
        photos.mkdir(exist_ok=True)
        for stale in {p.name for p in photos.glob("*.png")} - {w.name for w in wanted}:
            (photos / stale).unlink()
        drawn = map_photos(partial(photograph, photos), wanted, workers)
        each = progress(drawn, "draw", "photo", len(wanted))
        labels = sorted(each, key=lambda label: label.image)
        write_text(out / "labels.csv", labels_csv(labels))
        write_text(out / "landmarks.csv", landmarks_csv(labels))
        outputs = [out / "labels.csv", out / "landmarks.csv", *(photos / label.image for label in labels)]
        write_receipt(out, receipt, outputs, {"photos": len(labels)})
    return photos


def labels_csv(labels: Sequence[Label]) -> str:
    """image, identity, age (years), gender, skin_tone; a line a photograph."""
    rows = ([x.image, x.identity, str(x.age), x.gender, x.skin_tone] for x in labels)
    return _csv([tables.IMAGE, tables.IDENTITY, "age", "gender", "skin_tone"], rows)


def landmarks_csv(labels: Sequence[Label]) -> str:
    """image and five points (px) as `--align landmarks --landmarks FILE` reads them."""
    rows = ([x.image, *(f"{value:.2f}" for value in x.landmarks.ravel())] for x in labels)
    return _csv([tables.IMAGE, *tables.LANDMARK_COLUMNS], rows)


def _csv(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "".join(",".join(row) + "\n" for row in (header, *rows))


def demo_recipe(out: Path, seed: int) -> Recipe:
    """manifests/demo.toml with the files of this demo."""
    files = {"embedder": EMBEDDER, "landmarks": out / "landmarks.csv", "labels": out / "labels.csv"}
    return load_recipe("demo", seed=seed, **{key: str(path) for key, path in files.items()})


def judged(dataset: Path, labels: Path) -> Agreement:
    """The identities that were found against those that are known (CSV of image and identity)."""
    known = lists.read_labels(labels)
    found = tables.read_by_image(tables.path_of(dataset, "identities"), tables.IDENTITIES, tables.IDENTITY)
    both = [name for name in found if name in known]
    if not both:
        raise UserError(f"{labels} names no photograph of {dataset}: run the demo into a new folder.")
    return agreement([found[name] for name in both], [known[name] for name in both])


def run_demo(
    out: Path, *, people: int = 60, seed: int = 0, workers: int = 2, say: Say = lambda line: None
) -> DemoResult:
    """Draw people, build a dataset of them, degrade its test images, lay out a contact sheet.

    `say` is given each line of the report as it is known. UserError where `people` is out of range.
    """
    fewest, most = PEOPLE_RANGE
    if not fewest <= people <= most:
        raise UserError(f"--people {people}: give a number from {fewest} to {most}.")
    say(
        "These are drawn people and a demonstration network that knows drawn people only: "
        "nothing here is a photograph, and the network is of no use for real ones."
    )
    began = time.monotonic()
    photos = render_photos(out, people=people, seed=seed, workers=workers)
    drew = time.monotonic()
    count = len(list(photos.iterdir()))
    say(f"{count:,} drawn photos of {people} people ({drew - began:.0f} s): {photos}")
    result = _dataset_of(photos, out, demo_recipe(out, seed), "cpu", workers)
    took = time.monotonic() - drew
    say(f"Their dataset, verified, with low-quality test images ({took:.0f} s): {result.dataset}")
    return result


def _dataset_of(photos: Path, out: Path, recipe: Recipe, device: Device, workers: int) -> DemoResult:
    """Build a dataset, judge it by labels.csv, degrade its test images, lay out a contact sheet."""
    dataset = out / "dataset"
    built = build_refs(photos, dataset, recipe, device=device, workers=workers)
    identities = judged(dataset, out / "labels.csv")
    for level in TEST_LEVELS:
        degrade_dataset(load_level(level), dataset, photos=photos, options=DegradeOptions(workers=workers))
    contact_sheet(dataset, photos)
    return DemoResult(dataset, built, identities)


def closing_lines(out: Path, result: DemoResult) -> list[str]:
    """What a finished demo tells: how right it is, what lies where, what to do with real photographs."""
    found = result.identities
    return [
        f"Identities against the known people, over pairs of photos: precision {found.pair_precision:.2%}, "
        f"recall {found.pair_recall:.2%}.",
        "",
        *tree(out),
        "",
        "With photographs of your own:",
        "  ffhqref build-refs --images PHOTOS --out mine --detector det_500m.onnx --embedder w600k_mbf.onnx",
        f"Look at {result.dataset / 'contact-sheet.png'}; prove the dataset: ffhqref verify {result.dataset}",
    ]


def run_real(out: Path, *, accept: Accept, workers: int = 2, say: Say = lambda line: None) -> DemoResult:
    """The same on real people: LFW and InsightFace's smallest pack are downloaded, LFW's labels judge.

    `accept` is asked once with each source's name and terms. UserError where something is unavailable.
    """
    say("These are the photographs of Labeled Faces in the Wild and a small network for real faces.")
    downloads = out / "downloads"
    sources = [load_source(name) for name in REAL_SOURCES]
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
    result = _dataset_of(photos, out, load_recipe("photos", **files), "auto", workers)
    say(f"Built the dataset in {time.monotonic() - began:.0f} s: {result.dataset}")
    return result


def people_of_folders(photos: Path) -> str:
    """image, identity of photographs in a folder for each person."""
    names = [photo.name for photo in scan(photos)]
    rows = ([name, name.rpartition("/")[0]] for name in names if "," not in name and "/" in name)
    return _csv([tables.IMAGE, tables.IDENTITY], rows)


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
            entry = f"{name}/ ({count:,} files)" if count else name
            lines.append(f"  {entry:<42}{what}")
    return lines
