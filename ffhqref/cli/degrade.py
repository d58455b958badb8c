"""degrade: clean images -> low-quality images."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from ffhqref.cli.app import app
from ffhqref.cli.options import (
    DegradedDatasetArgument,
    DegradedOption,
    FilterOption,
    FormatOption,
    FromTableOption,
    LevelsOption,
    NamesListOption,
    RecordedPhotosOption,
    ReplayOption,
    SheetFileOption,
    SqueezeOption,
    option,
)
from ffhqref.core.store import Receipt, UserError, recorded_images
from ffhqref.demo import RESTORER


@app.command(no_args_is_help=True)
def degrade(
    dataset: DegradedDatasetArgument = None,
    level: LevelsOption = None,
    images: RecordedPhotosOption = None,
    out: DegradedOption = None,
    list_: NamesListOption = None,
    split: Annotated[Literal["test", "val"], option("Split of the dataset to degrade.")] = "test",
    size: Annotated[int, option("Width and height of the results, px.")] = 512,
    seed: Annotated[int, option("Another seed draws other parameters and noise.")] = 0,
    copies: Annotated[int, option("Low-quality images per target.")] = 1,
    workers: Annotated[int | None, option("Number of threads.", default="one per core")] = None,
    format_: FormatOption = "png",
    filter_: FilterOption = "bicubic",
    replay_published: ReplayOption = False,
    from_table: FromTableOption = None,
    sheet: SheetFileOption = None,
    squeeze: SqueezeOption = False,
) -> None:
    """Make low-quality images: blur, downscale, noise, JPEG.

    What happens to an image depends on the seed and its name alone, not on what else is
    degraded. The parameters go to tables/degradations.parquet. A second run makes only what
    is missing.

    \b
    ffhqref degrade mine --level moderate --level severe
    ffhqref degrade --level severe --images photos --out lq --sheet look.png
    """
    from ffhqref.core.sheets import spare
    from ffhqref.degrade import draws, stage
    from ffhqref.degrade.levels import load_level

    levels = [load_level(text) for text in level or []]
    _check(dataset, [one.name for one in levels], images, out, list_, sheet)
    if sheet is not None:
        spare(sheet)
    options = draws.DegradeOptions(
        size=size, seed=seed, copies=copies, filter=filter_, format=format_, replay=replay_published,
        table=from_table, workers=workers, squeeze=squeeze,
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
        stage.level_sheet(sheet, folders, images or recorded_images(dataset or Path()), options)
        summaries.append(f"{sheet} shows them.")
    last = levels[-1].name
    following = _next(dataset, split, last, folders[last][0], images)
    typer.echo("\n".join(summaries) + f" Next: {following}")


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
    statuses: dict[str, int] = dict(receipt.notes["statuses"])
    good = statuses.pop("ok")
    left = ", ".join(f"{count} {status}" for status, count in statuses.items())
    bad = f"; left out: {left} (reasons in the table)" if left else ""
    squeezed = receipt.notes["squeezed"]
    shape = f"; {squeezed} not square, squeezed to {size} x {size} px" if squeezed else ""
    return f"{good} {level} images are in {out / prefix}{bad}{shape}, their parameters in {out}/tables."


def _next(dataset: Path | None, split: str, level: str, folder: Path, images: Path | None) -> str:
    """A command that runs as it is printed: restoring, with what is there to restore with."""
    from ffhqref.restore.run import has_torch

    photos = ["--images", str(images or recorded_images(dataset))] if dataset else []
    if not has_torch():
        return shlex.join(["ffhqref", "sheet", str(dataset), *photos]) if dataset else "ffhqref doctor"
    with_ = _checkpoint()
    if dataset is None:
        beside = f"{os.path.normpath(folder)}-restored"
        return shlex.join(["ffhqref", "restore", "--lq", str(folder), *with_, "--out", beside])
    place = ["--split", "val", "--out", str(dataset / "restored-val" / level)] if split == "val" else []
    return shlex.join(["ffhqref", "restore", str(dataset), "--level", level, *place, *photos, *with_])


def _checkpoint() -> list[str]:
    """Options that name a restorer in this folder, as `convert` or `download` leave one; else the demo's."""
    if os.path.isfile("refldm.safetensors"):
        return ["--checkpoint", "refldm.safetensors"]
    if os.path.isfile("refldm.ckpt") and os.path.isfile("vqgan.ckpt"):
        return ["--checkpoint", "refldm.ckpt", "--autoencoder", "vqgan.ckpt"]
    return ["--checkpoint", str(RESTORER) if os.path.lexists("demo") else "demo"]
