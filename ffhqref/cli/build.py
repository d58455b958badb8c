"""build-refs and its stages, each on the same folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ffhqref.cli.app import app
from ffhqref.cli.options import (
    CORES,
    BatchSizeOption,
    DeviceOption,
    DryRunOption,
    OutArgument,
    PhotosOption,
    RecipeOptions,
    WorkersOption,
    option,
    recipe_options,
)

if TYPE_CHECKING:
    from ffhqref.core.recipe import Recipe
    from ffhqref.dataset.build import Built
    from ffhqref.dataset.embed import Estimate

# Fields of a recipe that each stage reads and no stage before it
EMBEDDING = (
    "detector", "embedder", "align", "landmarks", "faces", "min_face", "min_score", "det_size", "exclude",
    "limit",
)  # fmt: skip
CLUSTERING = ("distance", "min_distance", "grouping", "identities")
SPLITTING = (
    "val_identities", "test_identities", "val", "test", "test_references", "dedupe", "splits", "targets",
    "labels", "balance", "seed",
)  # fmt: skip
REFERRING = ("max_references", "order", "fps_start")


def _counts(statuses: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {status.replace('_', ' ')}" for status, count in statuses.items())


@app.command("build-refs")
@recipe_options(*EMBEDDING, *CLUSTERING, *SPLITTING, *REFERRING, default="photos")
def build_refs(
    images: PhotosOption,
    out: Annotated[Path, option("Folder of the dataset; a second run continues where it stopped.", "--out")],
    recipe: RecipeOptions,
    device: DeviceOption = "auto",
    workers: WorkersOption = CORES,
    batch_size: BatchSizeOption = 16,
    dry_run: DryRunOption = False,
    report: Annotated[bool, option("Write report.html and the card, too.", "--report")] = False,
) -> None:
    """Build a reference dataset from photographs, and verify it.

    Runs embed, cluster, split, references and verify. If it is interrupted, run the same
    command again: it continues. A changed option redoes only what depends on it.

    \b
    ffhqref build-refs --images photos --out mine \\
        --detector det_500m.onnx --embedder w600k_mbf.onnx
    """
    from ffhqref.core.recipe import load_recipe
    from ffhqref.dataset import build

    chosen = load_recipe(recipe.name or "photos", **recipe.changes)
    if dry_run:
        _say_estimate(build.dry_run(images, out, chosen, device=device, workers=workers), out)
        return
    built = build.build_refs(images, out, chosen, device=device, workers=workers, batch_size=batch_size)
    for line in _report(built):
        typer.echo(line)
    if report:
        from ffhqref.report.write import write_report

        page = write_report(out, images).path
        typer.echo(f"Look at it: {page}. Next: ffhqref review {out}")


def _say_estimate(estimate: Estimate, out: Path) -> None:
    typer.echo(
        f"Would embed {estimate.to_embed:,} of {estimate.photos:,} photos (about {estimate.seconds / 60:.1f} "
        f"minutes here, by a trial of a few), then cluster, split, write references and verify."
    )
    typer.echo(f"Would write about {estimate.bytes / 1e6:.1f} MB to {out}. Nothing was written.")


def _report(built: Built) -> list[str]:
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
@recipe_options(*EMBEDDING)
def embed(
    out: OutArgument,
    images: PhotosOption,
    recipe: RecipeOptions,
    device: DeviceOption = "auto",
    workers: WorkersOption = CORES,
    batch_size: BatchSizeOption = 16,
) -> None:
    """Photographs -> embeddings, one row per photo with its status.

    \b
    ffhqref embed mine --images photos \\
        --detector det_500m.onnx --embedder w600k_mbf.onnx
    """
    from ffhqref.dataset.embed import embed_photos

    chosen = _recipe(out, recipe)
    receipt = embed_photos(images, out, chosen, device=device, workers=workers, batch_size=batch_size)
    _keep(out, chosen)
    typer.echo(
        f"Embedded into {out}/tables/embeddings: {_counts(dict(receipt.notes['statuses']))}. "
        f"Next: ffhqref cluster {out}"
    )


@app.command()
@recipe_options(*CLUSTERING)
def cluster(out: OutArgument, recipe: RecipeOptions) -> None:
    """Embeddings -> pairs, identities, copies, suspects.

    \b
    ffhqref cluster mine --distance 0.6
    """
    from ffhqref.dataset.cluster import find_identities

    chosen = _recipe(out, recipe)
    notes = find_identities(out, chosen).notes
    _keep(out, chosen)
    typer.echo(
        f"Found {notes['identities']:,} identities in {notes['photos']:,} photos from {notes['pairs']:,} "
        f"pairs below {notes['distance']}: {out}/tables/identities.parquet. Next: ffhqref split {out}"
    )


@app.command()
@recipe_options(*SPLITTING)
def split(out: OutArgument, recipe: RecipeOptions) -> None:
    """Identities -> train, val and test.

    No person and no pair of photos below the distance is in two of them.

    \b
    ffhqref split mine --val-identities 300 --test-identities 150
    """
    from ffhqref.dataset.split import split_identities

    chosen = _recipe(out, recipe)
    notes = split_identities(out, chosen).notes
    _keep(out, chosen)
    parts = ", ".join(f"{name} {notes[name]['photos']:,}" for name in ("train", "val", "test"))
    typer.echo(
        f"Split by identity into {parts} photos: {out}/id_based_ffhq_split. Next: ffhqref references {out}"
    )


@app.command()
@recipe_options("min_distance", "test_references", *REFERRING)
def references(out: OutArgument, recipe: RecipeOptions) -> None:
    """Pairs and splits -> reference mappings.

    They are CSV files in the published form; a target's best reference stands first.

    \b
    ffhqref references mine --order nearest --max-references 5
    """
    from ffhqref.dataset.references import write_references

    chosen = _recipe(out, recipe)
    notes = write_references(out, chosen).notes
    _keep(out, chosen)
    parts = ", ".join(f"{name} {notes[name]['targets']:,}" for name in ("train", "val", "test"))
    typer.echo(f"Targets with references: {parts}: {out}/reference_mapping. Next: ffhqref verify {out}")


def _recipe(out: Path, given: RecipeOptions) -> Recipe:
    """The named recipe, else the dataset's own, with the command's options."""
    from ffhqref.core.recipe import load_recipe, with_known_distance
    from ffhqref.dataset.build import recipe_of

    if given.name:
        return with_known_distance(load_recipe(given.name, **given.changes))
    return recipe_of(out, "photos", **given.changes)


def _keep(out: Path, recipe: Recipe) -> None:
    from ffhqref.core.store import lock
    from ffhqref.dataset.build import write_recipe

    with lock(out, "build-refs"):
        write_recipe(out, recipe)
