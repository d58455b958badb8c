"""degrade."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ffhqref.cli.app import app
from ffhqref.core.store import Receipt, UserError, recorded_images

Dataset = Annotated[
    Path | None, typer.Argument(metavar="[OUT]", help="A built dataset: its targets are degraded.")
]
Level = Annotated[
    list[str] | None,
    typer.Option(
        help="moderate, severe, train, gfpgan, codeformer, faceme, or a TOML FILE or FILE:NAME of the "
        "same form as manifests/levels.toml; may be given several times."
    ),
]
Images = Annotated[
    Path | None, typer.Option(help="The photographs. A dataset that was built here knows them.")
]
Out = Annotated[
    Path | None,
    typer.Option(help="Without a dataset: where to write (several levels: a folder each)."),
]
Names = Annotated[
    Path | None,
    typer.Option("--list", help="Names to degrade: text, one a line, or CSV (gt_image or image)."),
]
Format = Annotated[Literal["png", "webp"], typer.Option("--format", help="webp is lossless too, and slower.")]
Filter = Annotated[
    Literal["bicubic", "lanczos", "area", "bilinear"],
    typer.Option("--filter", help="How targets are resized; bicubic is the published loader's."),
]
Replay = Annotated[
    bool,
    typer.Option("--replay-published", help="The published order of draws (seed 2024, row by row)."),
]
FromTable = Annotated[Path | None, typer.Option(help="Make again what this degradations.parquet says.")]
Sheet = Annotated[
    Path | None, typer.Option(help="A PNG: clean and each level side by side, parameters beneath.")
]


@app.command(no_args_is_help=True)
def degrade(
    dataset: Dataset = None,
    level: Level = None,
    images: Images = None,
    out: Out = None,
    list_: Names = None,
    split: Annotated[Literal["test", "val"], typer.Option(help="Whose targets in a dataset.")] = "test",
    size: Annotated[int, typer.Option(help="Width and height of what is made, px.")] = 512,
    seed: Annotated[int, typer.Option(help="Another seed draws other parameters and noise.")] = 0,
    copies: Annotated[int, typer.Option(help="Low-quality images of each target.")] = 1,
    workers: Annotated[int | None, typer.Option(help="Threads; one a core where left out.")] = None,
    format_: Format = "png",
    filter_: Filter = "bicubic",
    replay_published: Replay = False,
    from_table: FromTable = None,
    sheet: Sheet = None,
) -> None:
    """Make low-quality images: blur, downscale, noise, JPEG, upscale.

    Each image is decided by the seed and its name, whatever else is degraded beside it. The drawn
    parameters go to tables/degradations.parquet. A second run makes what is missing.

    \b
    ffhqref degrade mine --level moderate --level severe
    ffhqref degrade --level severe --images photos --out lq --sheet look.png
    """
    from ffhqref.degrade import draws, stage
    from ffhqref.degrade.levels import load_level

    levels = [load_level(text) for text in level or []]
    _check(dataset, [one.name for one in levels], images, out, list_, sheet)
    options = draws.DegradeOptions(
        size=size, seed=seed, copies=copies, filter=filter_, format=format_, replay=replay_published,
        table=from_table, workers=workers,
    )  # fmt: skip
    folders: dict[str, tuple[Path, str]] = {}
    summaries = []
    for one in levels:
        if dataset is not None:
            receipt = stage.degrade_dataset(one, dataset, photos=images, split=split, options=options)
            folders[one.name] = (dataset, stage.dataset_folder(one, split))
        else:
            assert images is not None and out is not None
            target = out / one.name if len(levels) > 1 else out
            names = draws.read_names(list_) if list_ else None
            receipt = stage.degrade_folder(one, images, target, names=names, options=options)
            folders[one.name] = (target, "")
        summaries.append(_made(receipt, one.name, *folders[one.name], size))
    if sheet is not None:
        stage.sheet(sheet, folders, images or recorded_images(dataset or Path()), options)
        summaries.append(f"A look at them is {sheet}.")
    last = levels[-1].name
    typer.echo("\n".join(summaries) + f" Next: {_next(dataset, split, last, folders[last][0])}")


def _check(
    dataset: Path | None, levels: list[str], images: Path | None, out: Path | None, names: Path | None,
    sheet: Path | None,
) -> None:  # fmt: skip
    faults = [
        (not levels, "Give --level, e.g. --level severe."),
        (len(set(levels)) < len(levels), "Two levels have one name: rename one."),
        (dataset is not None and out is not None, "Give either a built dataset or --out, not both."),
        (dataset is None and out is None, "Give a built dataset, or --images and --out."),
        (out is not None and images is None, "Give --images with the folder of the photographs."),
        (dataset is not None and names is not None, "--list goes with --out: a dataset has its own targets."),
        (sheet is not None and sheet.suffix.lower() != ".png", f"--sheet {sheet} must end in .png."),
    ]
    for wrong, sentence in faults:
        if wrong:
            raise UserError(sentence)


def _made(receipt: Receipt, level: str, out: Path, prefix: str, size: int) -> str:
    statuses: dict[str, Any] = dict(receipt.notes["statuses"])
    good = statuses.pop("ok")
    left = ", ".join(f"{count} {status}" for status, count in statuses.items())
    bad = f"; left out: {left} (reasons in the table)" if left else ""
    squeezed = receipt.notes["squeezed"]
    shape = f"; {squeezed} not square, squeezed to {size} x {size} px" if squeezed else ""
    return f"{good} {level} images are in {out / prefix}{bad}{shape}, their parameters in {out}/tables."


def _next(dataset: Path | None, split: str, level: str, folder: Path) -> str:
    if dataset is None:
        return f"ffhqref restore --lq {folder} --refs-dir REFS --checkpoint refldm.ckpt --out restored"
    if split == "val":
        return f"ffhqref train refldm --data {dataset}"
    return f"ffhqref restore {dataset} --level {level} --checkpoint refldm.ckpt --out restored"
