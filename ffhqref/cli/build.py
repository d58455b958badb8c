"""build-refs and its stages, each on the same folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
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
    RedrawOption,
    WorkersOption,
    after_building,
    next_line,
    option,
    recipe_options,
)
from ffhqref.core.terminal import shown

if TYPE_CHECKING:
    from ffhqref.core.recipe import Recipe
    from ffhqref.core.store import JsonObject, Receipt
    from ffhqref.dataset.build import Built
    from ffhqref.dataset.embed import Estimate

# Fields of a recipe that each stage reads and no stage before it
EMBED_FIELDS = (
    "detector", "embedder", "align", "landmarks", "faces", "crop", "crop_size", "crop_format", "min_eyes",
    "max_padding", "min_face", "min_score", "det_size", "exclude", "exclude_unmatched", "limit",
)  # fmt: skip
CLUSTER_FIELDS = ("distance", "min_distance", "grouping", "identities")
SPLIT_FIELDS = (
    "val_identities", "test_identities", "val", "test", "test_references", "dedupe", "splits", "targets",
    "labels", "balance", "seed", "join_across", "new_of_test",
)  # fmt: skip
REFERENCE_FIELDS = ("max_references", "order", "fps_start")


def _counts(statuses: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {status.replace('_', ' ')}" for status, count in statuses.items())


@app.command("build-refs")
@recipe_options(*EMBED_FIELDS, *CLUSTER_FIELDS, *SPLIT_FIELDS, *REFERENCE_FIELDS, default="photos")
def build_refs(
    images: PhotosOption,
    out: Annotated[Path, option("Folder of the dataset; a second run continues where it stopped.", "--out")],
    recipe: RecipeOptions,
    device: DeviceOption = "auto",
    workers: WorkersOption = CORES,
    batch_size: BatchSizeOption = 16,
    dry_run: DryRunOption = False,
    redraw: RedrawOption = False,
    report: Annotated[bool, option("Write report.html and the card, too.", "--report")] = False,
) -> None:
    """Build a reference dataset from photographs, and verify it.

    Runs embed, cluster, split, references and verify. If it is interrupted, run the same
    command again: it continues. A changed option redoes only what depends on it. When photos
    come or go, everybody who is known keeps their split; only new people are drawn.

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
    built = build.build_refs(
        images, out, chosen, device=device, workers=workers, batch_size=batch_size, redraw=redraw
    )
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


def _growth(split: JsonObject, fresh: bool = True) -> list[str]:
    """What became of people who were known and of new ones, and what a person must decide.

    What was asked of this run alone is not said of one that had nothing to do.
    """
    people, lines = split["people"], []
    if split["redrawn"] and fresh:
        lines.append(f"Drawn anew: {people['total']:,} people; earlier numbers and splits no longer hold.")
    elif people["draws"] > 1 or people["gone"]:
        lines.append(
            f"People: {people['total']:,}, who keep number and split; {people['newest']:,} came in draw "
            f"{people['draws']}, {people['gone']:,} have no photo here now."
        )
    if split["in_vain"] and fresh:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in split["in_vain"])
        lines.append(
            f"Changed: {options}. Known people keep their split all the same (--redraw starts over)."
        )
    for name, quota in split.get("quotas", {}).items():
        if quota["people"] < quota["wanted"]:
            why = f"{quota['eligible']:,} can be" + (" (see --test-references)" if name == "test" else "")
            if people["draws"] > 1:
                why = "only new people are drawn (--redraw starts over)"
            lines.append(
                f"{name}: {quota['wanted']:,} identities were wanted, {quota['people']:,} drawn: {why}."
            )
    return lines + _waiting(split)


def _waiting(split: JsonObject) -> list[str]:
    """The photos that are in no list, and the option that decides."""
    joining = [name for conflict in split["conflicts"] for name in conflict["photos"]]
    lines = []
    if joining and split["join_across"] == "train":
        lines.append(
            f"Conflicts: {len(joining):,} new photos join people of different splits; they are in train."
        )
    elif joining:
        more = " ..." if len(joining) > 3 else ""
        decide = ""
        if split["join_across"] == "hold":
            decide = " (decide: --join-across train or drop; receipts/split.json has them all)"
        lines.append(
            f"Conflicts: {len(joining):,} new photos join people of different splits and are in no list: "
            f"{', '.join(map(shown, joining[:3]))}{more}{decide}."
        )
    if kept := split["held"] - (len(joining) if split["join_across"] != "train" else 0):
        lines.append(f"Held out of test: {kept:,} new photos of its people (--new-of-test hold).")
    return lines


def _report(built: Built) -> list[str]:
    notes = {stage: receipt.notes for stage, receipt in built.receipts.items()}
    cluster, split, mapping = notes["cluster"], notes["split"], notes["references"]
    lines = [
        *_report_photos(notes["embed"]),
        f"Pairs below {cluster['distance']}: {cluster['pairs']:,}. Identities: {cluster['identities']:,}, "
        f"{cluster['identities_of_two_or_more']:,} of two photos or more.",
    ]
    if agreement := cluster.get("agreement"):
        lines.append(
            f"Identities were given; the grouping would have found them with pairwise F "
            f"{agreement['pair_f']:.4f} (precision {agreement['pair_precision']:.4f}), "
            f"BCubed F {agreement['bcubed_f']:.4f}."
        )
        share = agreement["wrong_references"] / max(agreement["references"], 1)
        lines.append(
            f"Of its {agreement['references']:,} references {agreement['wrong_references']:,} would be of "
            f"another person ({share:.3%}), and {agreement['people_in_several']:,} people in several groups."
        )
    if told := cluster.get("verdicts"):
        lines.append(f"Verdicts obeyed (verdicts.csv): {verdict_counts(told)}.")
    for kind, what in (("duplicates", "Copies"), ("suspects", "To look through")):
        if cluster[kind]:
            lines.append(f"{what}: {_counts(cluster[kind])} (tables/{kind}.parquet).")
    for name in ("train", "val", "test"):
        lines.append(
            f"{name}: {split[name]['photos']:,} photos of {split[name]['identities']:,} identities, "
            f"{mapping[name]['targets']:,} targets with {mapping[name]['references']:,} references."
        )
    lines += _growth(split, built.fresh)
    if passed_over := notes["embed"].get("passed_over"):
        lines.append(
            f"Passed over, as ffhqref wrote them: {', '.join(map(shown, passed_over[:3]))}"
            + (f" and {len(passed_over) - 3:,} more." if len(passed_over) > 3 else ".")
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
    lines.append(f"{done} {after_building(built.out)}")
    return lines


def _report_photos(notes: JsonObject) -> list[str]:
    """What became of the photographs: read, skipped, cut out."""
    from ffhqref.core.formats import describe_skipped
    from ffhqref.dataset.crops import describe

    lines = [f"Photos: {_counts(notes['statuses'])}."]
    if skipped := describe_skipped(notes.get("skipped") or {}):
        lines.append(shown(skipped))
    if measured := notes.get("framing"):
        lines.append(f"Frame: {describe(measured)}")
    if barred := notes.get("barred"):
        lines.append(f"Crops too small or too much padded for targets: {barred:,}, references only.")
    return lines


def verdict_counts(told: Mapping[str, int]) -> str:
    """Verdicts by kind in words; of those that are stale, why they are passed over."""
    words = [f"{count:,} {kind}" for kind, count in told.items() if kind != "stale"]
    if stale := told.get("stale"):
        words.append(f"{stale:,} passed over, about photos that are gone or changed")
    return ", ".join(words)


@app.command()
@recipe_options(*EMBED_FIELDS)
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

    embedding = partial(embed_photos, images, device=device, workers=workers, batch_size=batch_size)
    notes = _run(embedding, out, recipe)
    typer.echo(
        f"Embedded into {out}/tables/embeddings: {_counts(notes['statuses'])}. " + next_line("cluster", out)
    )


@app.command()
@recipe_options(*CLUSTER_FIELDS)
def cluster(out: OutArgument, recipe: RecipeOptions) -> None:
    """Embeddings -> pairs, identities, copies, suspects.

    \b
    ffhqref cluster mine --distance 0.6
    """
    from ffhqref.dataset.cluster import find_identities

    notes = _run(find_identities, out, recipe)
    told = notes.get("verdicts")
    obeyed = f"Verdicts obeyed: {verdict_counts(told)}. " if told else ""
    typer.echo(
        f"Found {notes['identities']:,} identities in {notes['photos']:,} photos from {notes['pairs']:,} "
        f"pairs below {notes['distance']}: {out}/tables/identities.parquet. {obeyed}"
        + next_line("split", out)
    )


@app.command()
@recipe_options(*SPLIT_FIELDS)
def split(out: OutArgument, recipe: RecipeOptions, redraw: RedrawOption = False) -> None:
    """Identities -> train, val and test.

    No person and no pair of photos below the distance is in two of them. Who was drawn
    before keeps their split, whatever photos come or go, until --redraw.

    \b
    ffhqref split mine --val-identities 300 --test-identities 150
    """
    from ffhqref.dataset.split import split_identities

    notes = _run(partial(split_identities, redraw=redraw), out, recipe)
    for line in _growth(notes):
        typer.echo(line)
    parts = ", ".join(f"{name} {notes[name]['photos']:,}" for name in ("train", "val", "test"))
    typer.echo(
        f"Split by identity into {parts} photos: {out}/id_based_ffhq_split. " + next_line("references", out)
    )


@app.command()
@recipe_options("min_distance", "test_references", *REFERENCE_FIELDS)
def references(out: OutArgument, recipe: RecipeOptions) -> None:
    """Pairs and splits -> reference mappings.

    They are CSV files in the published form; a target's best reference stands first.

    \b
    ffhqref references mine --order nearest --max-references 5
    """
    from ffhqref.dataset.references import write_references

    notes = _run(write_references, out, recipe)
    parts = ", ".join(f"{name} {notes[name]['targets']:,}" for name in ("train", "val", "test"))
    typer.echo(f"Targets with references: {parts}: {out}/reference_mapping. {next_line('verify', out)}")


def _run(stage: Callable[[Path, Recipe], Receipt], out: Path, given: RecipeOptions) -> JsonObject:
    """Run a stage by the named recipe, else the dataset's own, with the command's options, and keep it."""
    from ffhqref.core.recipe import load_recipe, with_known_distance
    from ffhqref.core.store import lock
    from ffhqref.dataset.build import recipe_of, write_recipe

    if given.name:
        chosen = with_known_distance(load_recipe(given.name, **given.changes))
    else:
        chosen = recipe_of(out, "photos", **given.changes)
    notes = stage(out, chosen).notes
    with lock(out, "build-refs"):
        write_recipe(out, chosen)
    return notes
