"""evaluate and its like: scores of restored pictures, datasets compared, labels predicted."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ffhqref.cli.app import app
from ffhqref.cli.options import (
    CurvesOption,
    DeviceOption,
    EvaluatedPhotosOption,
    EvaluatedRefsOption,
    EvaluationLabelsOption,
    FidStatisticsOption,
    GroupsOption,
    JudgingDatasetOption,
    MethodsOption,
    MetricsOption,
    OutArgument,
    ParsingOption,
    PhotosOption,
    ProtocolOption,
    PublishedOption,
    RecipeOptions,
    RecordedPhotosOption,
    ScoringDetectorOption,
    ScoringEmbedderOption,
    TargetLandmarksOption,
    WorkersOption,
    option,
    recipe_options,
)
from ffhqref.core.store import UserError
from ffhqref.core.terminal import shown

if TYPE_CHECKING:
    from ffhqref.evaluate.cases import Cases
    from ffhqref.evaluate.run import Evaluation
    from ffhqref.evaluate.summary import Summary


@app.command(no_args_is_help=True)
def evaluate(
    data: JudgingDatasetOption = None,
    restored: MethodsOption = None,
    level: Annotated[str, option("Level of the dataset's low-quality pictures.")] = "severe",
    split: Annotated[Literal["test", "val"], option("Split of the dataset.")] = "test",
    images: EvaluatedPhotosOption = None,
    targets: Annotated[Path | None, option("Without --data: folder of the clean pictures.")] = None,
    lq: Annotated[Path | None, option("Without --data: folder of the low-quality pictures.")] = None,
    refs_dir: EvaluatedRefsOption = None,
    labels: EvaluationLabelsOption = None,
    metrics: MetricsOption = None,
    protocol: ProtocolOption = None,
    embedder: ScoringEmbedderOption = None,
    judge: Annotated[Path | None, option("Another recognition network as an independent judge.")] = None,
    detector: ScoringDetectorOption = None,
    landmarks: TargetLandmarksOption = None,
    parsing: ParsingOption = None,
    fid_statistics: FidStatisticsOption = "",
    by: CurvesOption = None,
    groups: GroupsOption = None,
    published: PublishedOption = None,
    size: Annotated[int, option("Pictures are compared at this width and height, px.")] = 512,
    max_references: Annotated[int, option("References of a target that count.", min=1, max=64)] = 5,
    workers: Annotated[int | None, option("Number of threads.", default="one per core")] = None,
    device: DeviceOption = "auto",
    out: Annotated[Path | None, option("Folder for scores and tables.", default="OUT/scores/LEVEL")] = None,
) -> None:
    """Score restored pictures, with intervals over people.

    Writes scores.parquet (a row a method, picture and metric), failures.csv, summary.csv,
    differences.csv, table.md and table.tex. The low-quality pictures are scored as a method
    of their own. If it is interrupted, run it again: it continues.

    \b
    ffhqref evaluate --data mine --level severe \\
        --restored ours=mine/restored/severe
    ffhqref evaluate --targets clean --lq lq --restored a --restored b \\
        --embedder w600k_mbf.onnx --out scores
    ffhqref evaluate --groups mine --labels people.csv
    """
    if groups is not None:
        return _judge_groups(groups, labels)
    from ffhqref.evaluate import run
    from ffhqref.evaluate.cases import parse_method
    from ffhqref.evaluate.summary import remarks, summarise, write_tables

    methods = [parse_method(text) for text in restored or []]
    cases = _cases(data, level, split, images, targets, lq, refs_dir, labels, max_references)
    out = _scores_folder(out, data, level)
    options = run.EvaluateOptions(
        metrics=_metrics(metrics, protocol), embedder=embedder or _own_embedder(data), judge=judge,
        detector=detector, landmarks=landmarks, parsing=parsing, size=size, device=device, workers=workers,
        fid_statistics=fid_statistics,
    )  # fmt: skip
    found = run.evaluate(cases, methods, out, options, dataset=data)
    write_tables(out, summary := summarise(found, published or ""), remarks(found))
    _say(found, summary, out)
    for name in by or []:
        _curve(name, found, cases, labels, data, out)
    typer.echo(f"Scores and tables: {out}. Next: cat {shlex.quote(str(out / 'table.md'))}")


def _cases(
    data: Path | None, level: str, split: str, images: Path | None, targets: Path | None, lq: Path | None,
    references: Path | None, labels: Path | None, most: int,
) -> Cases:  # fmt: skip
    from ffhqref.evaluate.cases import of_dataset, of_folders

    if data is not None:
        if targets or lq or references:
            raise UserError("Give either --data OUT, or --targets, --lq and --refs-dir.")
        return of_dataset(data, level=level, split=split, photos=images, most=most)
    return of_folders(targets=targets, lq=lq, references=references, labels=labels, most=most)


def _scores_folder(out: Path | None, data: Path | None, level: str) -> Path:
    if out is None and data is None:
        raise UserError("Give --out, the folder for the scores.")
    return out if out is not None else (data or Path()) / "scores" / level


def _metrics(metrics: str | None, protocol: str | None) -> tuple[str, ...]:
    from ffhqref.evaluate.run import OURS, PROTOCOLS

    if metrics and protocol:
        raise UserError("Give either --metrics or --protocol.")
    if protocol:
        return PROTOCOLS[protocol]
    return tuple(dict.fromkeys(name.strip() for name in metrics.split(","))) if metrics else OURS


def _own_embedder(data: Path | None) -> Path | None:
    """The network that the dataset was built with, if its file is still there."""
    from ffhqref.dataset.build import recipe_of, recipe_path

    if data is None or not recipe_path(data).is_file():
        return None
    file = recipe_of(data).embedder
    return Path(file) if file and Path(file).is_file() else None


def _say(found: Evaluation, summary: Summary, out: Path) -> None:
    from ffhqref.evaluate.summary import difference_lines, terminal

    typer.echo(f"{len(found.person):,} pictures of {len(set(found.person.values())):,} people; mean and 95 % "
               "interval over people:")  # fmt: skip
    typer.echo(terminal(summary))
    for line in difference_lines(summary, ("ids", "ids_aligned", "psnr", "ssim", "lpips")):
        typer.echo(line)
    for metric, limit in found.limits.items():
        if limit.similarity is not None:
            typer.echo(f"{metric}: {limit}, over {limit.pairs:,} pairs of two people.")
    for note in found.notes:
        typer.echo(f"Note: {note}", err=True)
    for method, count in found.resized.items():
        if count:
            typer.echo(
                f"Note: {count:,} pictures of {method} have another size; resized as published.", err=True
            )
    for method, image, status, reason in found.failures[:5]:
        typer.echo(f"Failed: {method}, {image}: {status} ({reason}).", err=True)
    if len(found.failures) > 5:
        typer.echo(f"Failed: {len(found.failures) - 5:,} more, see failures.csv.", err=True)


def _curve(
    by: str, found: Evaluation, cases: Cases, labels: Path | None, data: Path | None, out: Path
) -> None:
    from ffhqref.evaluate import curves
    from ffhqref.evaluate.views import stored_points

    group, order = curves.groups_of(by, cases, labels, stored_points(data) if data else {})
    drawn = [curves.curve(found, metric, by, group, order) for metric in found.metrics]
    table, picture = curves.write_curve(out, drawn)
    typer.echo(f"{drawn[0].metric} by {by} (table: {table}, plot: {picture}):")
    for line in curves.lines(drawn[0]):
        typer.echo(line)


def _judge_groups(groups: Path, labels: Path | None) -> None:
    from ffhqref.evaluate.groups import judge

    if labels is None:
        raise UserError("--groups needs --labels, a CSV (image, identity) of known people.")
    found = judge(groups, labels)
    typer.echo(f"{found.photos:,} photos of {found.people:,} known people; 95 % interval over people:")
    for name, share in found.shares.items():
        typer.echo(f"  {name:<20} {share}")
    if found.wrong_share is not None:
        typer.echo(
            f"Wrong references: {found.wrong_references:,} of {found.references:,}, {found.wrong_share}."
        )
    if groups.is_dir():
        crossing = ", ".join(map(shown, found.crossing[:5])) + (" ..." if len(found.crossing) > 5 else "")
        typer.echo(f"People in two splits: {len(found.crossing):,}{f' ({crossing})' if crossing else ''}.")
    typer.echo(f"Judged {groups} by {labels}. Next: ffhqref evaluate --help")


@app.command(no_args_is_help=True)
def demographics(
    dataset: OutArgument,
    network: Annotated[
        Path, option("FairFace's ResNet-34 (.pt) or InsightFace's genderage (.onnx).", "--network")
    ],
    images: RecordedPhotosOption = None,
    out: Annotated[Path | None, option("CSV to write.", default="OUT/demographics.csv")] = None,
    workers: Annotated[int | None, option("Number of threads.", default="one per core")] = None,
    device: DeviceOption = "auto",
) -> None:
    """Predict age, gender and race of a dataset's photos.

    Writes a CSV of labels for `split --labels --balance` and `evaluate --by`. They are
    predictions: shares are printed with what is known of the network's errors. If it is
    interrupted, run it again: it continues.

    \b
    ffhqref demographics mine --network genderage.onnx
    ffhqref split mine --labels mine/demographics.csv --balance gender
    """
    from ffhqref.evaluate.demographics import lines, predict

    found = predict(dataset, network, photos=images, file=out, device=device, workers=workers)
    for line in lines(found):
        typer.echo(line)
    if found.left_out:
        name, reason = next(iter(sorted(found.left_out.items())))
        typer.echo(
            f"Not labelled: {len(found.left_out):,} photos, the first {shown(name)} ({reason}).", err=True
        )
    labels = shlex.quote(str(found.path))
    typer.echo(
        f"{len(found.labels):,} photos labelled: {found.path}. "
        f"Next: ffhqref split {shlex.quote(str(dataset))} --labels {labels} --balance gender"
    )


@app.command(no_args_is_help=True)
def sweep(
    dataset: OutArgument,
    grid: Annotated[
        Path, option("TOML file: values of steps, guidance, max_references, order, ...", "--grid")
    ],
    out: Annotated[Path, option("Folder for results, scores, table and plot.", "--out")],
    level: Annotated[str, option("Level of the dataset's low-quality pictures.")] = "severe",
    split: Annotated[Literal["test", "val"], option("Split of the dataset.")] = "test",
    images: RecordedPhotosOption = None,
    metrics: Annotated[
        str | None, option("As for evaluate.", metavar="METRIC,...", default="ids,psnr,ssim")
    ] = None,
    embedder: Annotated[
        Path | None, option("ArcFace network (ONNX) for ids.", default="the dataset's own")
    ] = None,
    restore_device: Annotated[str, option("Where the restorer runs: cpu, cuda or cuda:1.")] = "cpu",
    workers: Annotated[int | None, option("Number of threads that score.", default="one per core")] = None,
) -> None:
    """Restore and score over a grid of settings.

    Every combination of the file's values is restored and scored; finished ones are kept.
    Keys: checkpoint, order, steps, guidance, max_references, seed, schedule,
    reference_encoding, noise, precision.

    \b
    ffhqref sweep mine --grid grid.toml --out swept
    """
    from ffhqref.core.store import recorded_images
    from ffhqref.dataset.build import recipe_of
    from ffhqref.demo import RESTORER
    from ffhqref.evaluate import sweep as sweeping
    from ffhqref.evaluate.run import EvaluateOptions

    options = EvaluateOptions(
        metrics=_metrics(metrics, None), embedder=embedder or _own_embedder(dataset), workers=workers
    )
    found = sweeping.sweep(
        dataset, sweeping.read_grid(grid), out, recipe_of(dataset), options, level=level, split=split,
        photos=images or recorded_images(dataset), demo=RESTORER, device=restore_device,
    )  # fmt: skip
    for line in sweeping.lines(found):
        typer.echo(line)
    typer.echo(f"Table: {found.table}, plot: {found.plot}. Next: cat {shlex.quote(str(found.table))}")


@app.command(no_args_is_help=True)
@recipe_options("detector", "embedder", "distance", "min_distance", "align", "order", default="celebahq")
def test_refs(
    images: PhotosOption,
    targets: Annotated[Path, option("Folder of the test set's clean pictures.", "--targets")],
    out: Annotated[Path, option("Folder of the dataset.", "--out")],
    recipe: RecipeOptions,
    lq: Annotated[Path | None, option("Folder of its low-quality pictures, named as the targets.")] = None,
    level: Annotated[str, option("Name for the low-quality pictures.")] = "published",
    device: DeviceOption = "auto",
    workers: WorkersOption = 2,
) -> None:
    """Build references for a published test set.

    Finds each target in a larger collection by its pixels or its face, builds the dataset
    with the photos found as its only targets, and puts the published low-quality pictures
    beside. CelebA-Test with CelebA-HQ gives CelebA-Test-Ref.

    \b
    ffhqref test-refs --images CelebA-HQ-img --targets celeba-test/targets \\
        --lq celeba-test/lq --embedder insightface_webface_r50.onnx \\
        --detector det_10g.onnx --out celeba-test-ref
    """
    from ffhqref.core.recipe import load_recipe
    from ffhqref.evaluate.testset import build_test_set

    chosen = load_recipe(recipe.name or "celebahq", **recipe.changes)
    made = build_test_set(images, targets, lq, out, chosen, level=level, device=device, workers=workers)
    ways = {way: sum(match.way == way for match in made.matches) for way in ("pixels", "face")}
    typer.echo(
        f"{len(made.matches):,} targets found ({ways['pixels']:,} by pixels, {ways['face']:,} by face), "
        f"{len(made.missing):,} not; {made.without_references:,} have no references."
    )
    typer.echo(
        f"{out} is built, with {made.placed:,} low-quality pictures. Next: ffhqref evaluate "
        f"--data {shlex.quote(str(out))} --level {level}"
    )
