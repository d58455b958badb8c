"""build-refs and its stages, each on the same folder."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ffhqref.cli.app import app
from ffhqref.core.store import UserError

if TYPE_CHECKING:
    from ffhqref.core.recipe import Recipe

WORKERS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def _option(help: str, *names: str, **more: Any) -> Any:
    """An option; files are judged by the stages, whose errors say what to do (`readable` is for paths)."""
    return typer.Option(*names, help=help, show_default=False, readable=False, **more)


Images = Annotated[Path, _option("Folder of photographs (PNG, JPEG, WebP; nested or flat).", "--images")]
Out = Annotated[Path, typer.Argument(help="The dataset's folder.", show_default=False)]
RecipeName = Annotated[
    str | None, _option("A recipe: photos, ffhq-ref, celebahq, or a TOML file.", "--recipe")
]
Detector = Annotated[Path | None, _option("SCRFD detector with landmarks, an ONNX file.")]
Embedder = Annotated[Path | None, _option("ArcFace network, an ONNX file.")]
Align = Annotated[str | None, _option("How faces are found: detect, landmarks or crop.")]
Landmarks = Annotated[
    Path | None, _option("FFHQ's JSON of 68 points, or a CSV of five, for --align landmarks.")
]
Faces = Annotated[str | None, _option("largest: one face a photo; all: each face a photo of its own.")]
MinFace = Annotated[int | None, _option("Least shorter side of a face's box, px.")]
DetSize = Annotated[int | None, _option("Side of the square that the detector sees, px, by 32.")]
MinScore = Annotated[float | None, _option("Least detector score, 0 to 1.")]
Exclude = Annotated[Path | None, _option("List of photos to leave out, one name a line.")]
Limit = Annotated[int | None, _option("Only the first so many photos.")]
Distance = Annotated[float | None, _option("Two photos strictly below it show one person (1 - cosine).")]
MinDistance = Annotated[float | None, _option("Test references are at least this far (near-duplicates out).")]
Grouping = Annotated[str | None, _option("components (the paper's) or average (does not chain).")]
Identities = Annotated[Path | None, _option("CSV (image, identity) of known people, in place of grouping.")]
Dedupe = Annotated[str | None, _option("off, exact, or near: which copies are no targets.")]
ValIdentities = Annotated[int | None, _option("How many identities go to val.")]
TestIdentities = Annotated[int | None, _option("How many identities go to test.")]
Val = Annotated[float | None, _option("Val as a fraction of the identities that can be drawn.")]
Test = Annotated[float | None, _option("Test as a fraction of the identities that can be drawn.")]
TestReferences = Annotated[
    str | None, _option("References of a test target, least:most (2:9; 2: has no most).")
]
MaxReferences = Annotated[int | None, _option("Keep at most so many references a target, best first.")]
Order = Annotated[str | None, _option("fps (varied first), nearest or name.")]
FpsStart = Annotated[str | None, _option("Where fps begins: nearest or farthest.")]
Splits = Annotated[Path | None, _option("Folder of published {train,val,test}_image.txt to replay.")]
Targets = Annotated[Path | None, _option("List of who may be a target; the others are references only.")]
Labels = Annotated[Path | None, _option("CSV of labels by image, to balance val and test over.")]
Balance = Annotated[str | None, _option("Columns of --labels to balance over, comma between.")]
Seed = Annotated[int | None, _option("Seed of the draw of val and test.")]
DeviceChoice = Annotated[Device, typer.Option("--device", help="Where networks run.")]
Workers = Annotated[int, typer.Option("--workers", min=1, max=256, help="Photos at a time.")]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, max=4096, help="Faces embedded together.")]


def _window(text: str | None) -> tuple[int, int] | None:
    """`2:9` -> (2, 9); `2:` has no upper bound, written 0."""
    if text is None:
        return None
    low, colon, high = text.partition(":")
    try:
        return int(low), int(high or 0) if colon else int(low)
    except ValueError:
        raise UserError(f"--test-references {text}: give least:most, such as 2:9.") from None


def _overrides(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a command that name fields of a recipe."""
    from dataclasses import fields

    from ffhqref.core.recipe import Recipe

    names = {field.name for field in fields(Recipe)}
    given = {key: value for key, value in options.items() if key in names and value is not None}
    if "test_references" in given:
        given["test_references"] = _window(given["test_references"])
    if "balance" in given:
        given["balance"] = tuple(given["balance"].split(","))
    return {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}


def _counts(statuses: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {status.replace('_', ' ')}" for status, count in statuses.items())


@app.command("build-refs")
def build_refs(
    images: Images,
    out: Annotated[Path, _option("The dataset's folder; running again goes on where it stopped.", "--out")],
    recipe: RecipeName = None,
    detector: Detector = None,
    embedder: Embedder = None,
    align: Align = None,
    landmarks: Landmarks = None,
    faces: Faces = None,
    min_face: MinFace = None,
    min_score: MinScore = None,
    det_size: DetSize = None,
    distance: Distance = None,
    min_distance: MinDistance = None,
    grouping: Grouping = None,
    identities: Identities = None,
    dedupe: Dedupe = None,
    val_identities: ValIdentities = None,
    test_identities: TestIdentities = None,
    val: Val = None,
    test: Test = None,
    test_references: TestReferences = None,
    max_references: MaxReferences = None,
    order: Order = None,
    fps_start: FpsStart = None,
    splits: Splits = None,
    targets: Targets = None,
    labels: Labels = None,
    balance: Balance = None,
    exclude: Exclude = None,
    seed: Seed = None,
    limit: Limit = None,
    device: DeviceChoice = Device.auto,
    workers: Workers = WORKERS,
    batch_size: BatchSize = 16,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")
    ] = False,
) -> None:
    """Photographs -> a reference dataset, verified.

    Runs embed, cluster, split, references and verify. Killed or run again, it goes on
    where it stopped; a changed option redoes only what depends on it.

    \b
    ffhqref build-refs --images photos --out mine \\
        --detector det_500m.onnx --embedder w600k_mbf.onnx
    """
    options = dict(locals())
    from ffhqref.core.recipe import load_recipe
    from ffhqref.dataset import build

    chosen = load_recipe(
        recipe or "photos", **_overrides({k: v for k, v in options.items() if k != "recipe"})
    )
    if dry_run:
        _say_estimate(build.dry_run(images, out, chosen, device=device.value, workers=workers), out)
        return
    built = build.build_refs(images, out, chosen, device=device.value, workers=workers, batch_size=batch_size)
    for line in _report(built):
        typer.echo(line)


def _say_estimate(estimate: Any, out: Path) -> None:
    typer.echo(
        f"Would embed {estimate.to_embed:,} of {estimate.photos:,} photos (about {estimate.seconds / 60:.1f} "
        f"minutes here, by a trial of a few), then cluster, split, write references and verify."
    )
    typer.echo(f"Would write about {estimate.bytes / 1e6:.1f} MB to {out}. Nothing was written.")


def _report(built: Any) -> list[str]:
    notes = {stage: receipt.notes for stage, receipt in built.receipts.items()}
    cluster, split, mapping = notes["cluster"], notes["split"], notes["references"]
    lines = [
        f"Photos: {_counts(notes['embed']['statuses'])}.",
        f"Pairs below {cluster['distance']}: {cluster['pairs']:,}. Identities: {cluster['identities']:,}, "
        f"{cluster['identities_of_two_or_more']:,} of two photos or more.",
    ]
    if agreement := cluster.get("agreement"):
        lines.append(
            f"Identities were given; the grouping would have found them with pairwise F "
            f"{agreement['pair_f']:.4f} (precision {agreement['pair_precision']:.4f}), "
            f"BCubed F {agreement['bcubed_f']:.4f}."
        )
    for kind, what in (("duplicates", "Copies"), ("suspects", "To look through")):
        if cluster[kind]:
            lines.append(f"{what}: {_counts(cluster[kind])} (tables/{kind}.parquet).")
    for name in ("train", "val", "test"):
        lines.append(
            f"{name}: {split[name]['photos']:,} photos of {split[name]['identities']:,} identities, "
            f"{mapping[name]['targets']:,} targets with {mapping[name]['references']:,} references."
        )
    if split["replayed"]:
        lines.append(
            f"Lists were replayed: {split['listed_but_absent']:,} listed photos are not here, "
            f"{split['in_no_list']:,} photos were in no list and went to train."
        )
    if built.warnings:
        lines.append(f"Warnings: {len(built.warnings):,} people or pairs cross the given splits.")
    done = (
        f"Built and verified {built.out}."
        if built.fresh
        else f"Nothing to do: {built.out} is finished and verified."
    )
    lines.append(f"{done} Next: ffhqref degrade --level severe {built.out}")
    return lines


@app.command()
def embed(
    out: Out,
    images: Images,
    recipe: RecipeName = None,
    detector: Detector = None,
    embedder: Embedder = None,
    align: Align = None,
    landmarks: Landmarks = None,
    faces: Faces = None,
    min_face: MinFace = None,
    min_score: MinScore = None,
    det_size: DetSize = None,
    exclude: Exclude = None,
    limit: Limit = None,
    device: DeviceChoice = Device.auto,
    workers: Workers = WORKERS,
    batch_size: BatchSize = 16,
) -> None:
    """Photographs -> embeddings, a row a photo with its status.

    \b
    ffhqref embed mine --images photos --detector det_500m.onnx --embedder w600k_mbf.onnx
    """
    options = dict(locals())
    from ffhqref.dataset.embed import embed_photos

    chosen = _recipe(out, options)
    receipt = embed_photos(images, out, chosen, device=device.value, workers=workers, batch_size=batch_size)
    _keep(out, chosen)
    typer.echo(
        f"Embedded into {out}/tables/embeddings: {_counts(dict(receipt.notes['statuses']))}. "
        f"Next: ffhqref cluster {out}"
    )


@app.command()
def cluster(
    out: Out,
    recipe: RecipeName = None,
    distance: Distance = None,
    min_distance: MinDistance = None,
    grouping: Grouping = None,
    identities: Identities = None,
) -> None:
    """Embeddings -> pairs, identities, copies, suspects.

    \b
    ffhqref cluster mine --distance 0.6
    """
    chosen = _recipe(out, locals())
    from ffhqref.dataset.cluster import find_identities

    notes = find_identities(out, chosen).notes
    _keep(out, chosen)
    typer.echo(
        f"Found {notes['identities']:,} identities in {notes['photos']:,} photos by {notes['pairs']:,} pairs "
        f"below {notes['distance']}: {out}/tables/identities.parquet. Next: ffhqref split {out}"
    )


@app.command()
def split(
    out: Out,
    recipe: RecipeName = None,
    val_identities: ValIdentities = None,
    test_identities: TestIdentities = None,
    val: Val = None,
    test: Test = None,
    test_references: TestReferences = None,
    dedupe: Dedupe = None,
    splits: Splits = None,
    targets: Targets = None,
    labels: Labels = None,
    balance: Balance = None,
    seed: Seed = None,
) -> None:
    """Identities -> train, val and test.

    No person and no pair below the distance crosses them.

    \b
    ffhqref split mine --val-identities 300 --test-identities 150
    """
    chosen = _recipe(out, locals())
    from ffhqref.dataset.split import split_identities

    notes = split_identities(out, chosen).notes
    _keep(out, chosen)
    parts = ", ".join(f"{name} {notes[name]['photos']:,}" for name in ("train", "val", "test"))
    typer.echo(
        f"Split by identity into {parts} photos: {out}/id_based_ffhq_split. Next: ffhqref references {out}"
    )


@app.command()
def references(
    out: Out,
    recipe: RecipeName = None,
    min_distance: MinDistance = None,
    test_references: TestReferences = None,
    max_references: MaxReferences = None,
    order: Order = None,
    fps_start: FpsStart = None,
) -> None:
    """Pairs and splits -> reference mappings.

    CSV in the published form; a target's references stand best first.

    \b
    ffhqref references mine --order nearest --max-references 5
    """
    chosen = _recipe(out, locals())
    from ffhqref.dataset.references import write_references

    notes = write_references(out, chosen).notes
    _keep(out, chosen)
    parts = ", ".join(f"{name} {notes[name]['targets']:,}" for name in ("train", "val", "test"))
    typer.echo(f"Targets with references: {parts}: {out}/reference_mapping. Next: ffhqref verify {out}")


def _recipe(out: Path, options: dict[str, Any]) -> Recipe:
    """The recipe of the dataset (or the named one), with this command's options."""
    from ffhqref.core.recipe import load_recipe, with_known_distance
    from ffhqref.dataset.build import recipe_of

    given = _overrides({key: value for key, value in options.items() if key != "recipe"})
    if name := options.get("recipe"):
        return with_known_distance(load_recipe(name, **given))
    return recipe_of(out, **given)


def _keep(out: Path, recipe: Recipe) -> None:
    from ffhqref.core.store import lock
    from ffhqref.dataset.build import write_recipe

    with lock(out, "build-refs"):
        write_recipe(out, recipe)
