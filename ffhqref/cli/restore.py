"""restore and convert: the commands of the restorer. torch is loaded only inside them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ffhqref.cli.app import app
from ffhqref.cli.options import (
    ArchitectureOption,
    AutoencoderOption,
    CheckpointOption,
    DatasetOrRefsArgument,
    InitialNoiseOption,
    MappedPhotosOption,
    PasteBackOption,
    PrecisionOption,
    ReferenceEncodingOption,
    RefsDirOption,
    RefsOption,
    RestoredOption,
    ScheduleOption,
    SqueezeOption,
    option,
)
from ffhqref.core.store import UserError, atomic, digest_file, recorded_images

if TYPE_CHECKING:
    from ffhqref.refldm.model.checkpoint import Architecture
    from ffhqref.restore.record import RestoreOutcome
    from ffhqref.restore.run import RestoreOptions


@app.command()
def restore(
    checkpoint: CheckpointOption,
    paths: DatasetOrRefsArgument = None,
    out: RestoredOption = None,
    autoencoder: AutoencoderOption = None,
    lq: Annotated[Path | None, option("Picture to restore, or a folder of them.")] = None,
    refs: RefsOption = None,
    refs_dir: RefsDirOption = None,
    references: Annotated[Path | None, option("Reference mapping, CSV; needs --images.")] = None,
    images: MappedPhotosOption = None,
    level: Annotated[str | None, option("Level of a dataset: severe, moderate or your own.")] = None,
    split: Annotated[Literal["test", "val"], option("Split of a dataset.")] = "test",
    steps: Annotated[int, option("DDIM steps.", min=1, max=1000)] = 50,
    schedule: ScheduleOption = "uniform_trailing",
    guidance: Annotated[float, option("How far to follow the conditions; 1 is no guidance.")] = 1.5,
    seed: Annotated[int, option("Seed of the initial noise.", min=0, max=2**62)] = 2024,
    noise: InitialNoiseOption = "shared",
    max_references: Annotated[int, option("Use at most N references.", min=1, max=64)] = 5,
    reference_encoding: ReferenceEncodingOption = "wide",
    precision: PrecisionOption = "fp32",
    batch_size: Annotated[int, option("Pictures restored together.", min=1, max=256)] = 1,
    device: Annotated[str, option("cpu, cuda or cuda:1.")] = "cpu",
    compile: Annotated[bool, option("Compile the denoiser first.", "--compile")] = False,
    shard: Annotated[str | None, option("Only every n-th picture, from the i-th.", metavar="I/N")] = None,
    sheet: Annotated[bool, option("Also draw all pictures side by side.", "--sheet")] = False,
    align: Annotated[bool, option("Find the face and crop it as FFHQ does.", "--align")] = False,
    paste_back: PasteBackOption = False,
    detector: Annotated[Path | None, option("SCRFD detector for --align, an ONNX file.")] = None,
    architecture: ArchitectureOption = None,
    squeeze: SqueezeOption = False,
) -> None:
    """Restore low-quality faces with references of the same person.

    Without references it restores from the picture alone. Pictures must be FFHQ-aligned
    squares; --align crops others. If it is interrupted, run it again: it continues.

    \b
    ffhqref restore --checkpoint refldm.ckpt --autoencoder vqgan.ckpt \\
        --lq old.png --refs new1.jpg new2.jpg --out restored
    ffhqref restore mine --level severe --images photos --checkpoint refldm.ckpt
    """
    dataset, more = _positional(list(paths or []), lq)
    shared = [*(refs or []), *more]
    _check_align(align, paste_back, detector)
    out = _destination(out, dataset, level)
    from ffhqref.restore.run import RestoreOptions, need_torch

    need_torch()
    options = RestoreOptions(
        steps=steps, schedule=schedule, guidance=guidance, reference_encoding=reference_encoding,
        max_references=max_references, seed=seed, noise=noise, precision=precision, device=device,
        batch_size=batch_size, compiled=compile, sheets=sheet, detector=detector, paste_back=paste_back,
        autoencoder=autoencoder, architecture=_architecture(architecture), shard=shard,
        squeeze=squeeze,
    )  # fmt: skip
    if dataset is None:
        outcome = _of_pictures(checkpoint, lq, shared, refs_dir, references, images, out, options)
    else:
        others = bool(lq or shared or refs_dir or references)
        outcome = _of_dataset(checkpoint, dataset, level, images, split, others, out, options)
    say(outcome, out)


def _of_dataset(
    checkpoint: Path, dataset: Path, level: str | None, images: Path | None, split: str, others: bool,
    out: Path, options: RestoreOptions,
) -> RestoreOutcome:  # fmt: skip
    from ffhqref.restore.run import restore_dataset

    if level is None or others:
        raise UserError(
            f"With the dataset {dataset} give --level (such as severe), and none of --lq, --refs, "
            "--refs-dir, --references."
        )
    photos = images or recorded_images(dataset)
    return restore_dataset(
        dataset, checkpoint, level=level, photos=photos, split=split, out=out, options=options
    )


def _of_pictures(
    checkpoint: Path, lq: Path | None, shared: list[Path], refs_dir: Path | None, mapping: Path | None,
    images: Path | None, out: Path, options: RestoreOptions,
) -> RestoreOutcome:  # fmt: skip
    from ffhqref.restore.run import restore_pictures

    if lq is None:
        raise UserError("Give --lq, a picture or a folder of them, or a built dataset and --level.")
    return restore_pictures(
        lq, checkpoint, out=out, references=shared, refs_dir=refs_dir, mapping=mapping, photos=images,
        options=options,
    )  # fmt: skip


def _check_align(align: bool, paste_back: bool, detector: Path | None) -> None:
    if (paste_back or detector) and not align:
        raise UserError("--paste-back and --detector go with --align.")
    if align and detector is None:
        raise UserError("--align needs --detector FILE, an SCRFD detector (ONNX) of InsightFace.")


def _destination(out: Path | None, dataset: Path | None, level: str | None) -> Path:
    """Where the results go."""
    if out is not None:
        return out
    if dataset is None:
        raise UserError("Give --out, the folder of the results.")
    return dataset / "restored" / f"{level}"


def _positional(paths: list[Path], lq: Path | None) -> tuple[Path | None, list[Path]]:
    """What stands without an option: more references after --lq, else the dataset."""
    if lq is not None:
        return None, paths
    if len(paths) > 1:
        raise UserError("Give one built dataset, or --lq and its --refs.")
    return (paths[0] if paths else None), []


def _architecture(path: Path | None) -> Architecture | None:
    if path is None:
        return None
    from ffhqref.core.recipe import load_toml
    from ffhqref.refldm.model.checkpoint import parse_architecture

    return parse_architecture(load_toml(path), str(path))


def say(outcome: RestoreOutcome, out: Path) -> None:
    """What became of the pictures; UserError where none could be restored."""
    for path in outcome.odd[:3]:
        typer.echo(f"Warning: {path} is not square; it was resized as published. See --align.", err=True)
    if len(outcome.odd) > 3:
        typer.echo(f"Warning: {len(outcome.odd) - 3:,} more pictures are not square.", err=True)
    for name, reason in list(outcome.failed.items())[:5]:
        typer.echo(f"Not restored: {name} {reason}.", err=True)
    if len(outcome.failed) > 5:
        typer.echo(f"Not restored: {len(outcome.failed) - 5:,} more, see run.json.", err=True)
    if outcome.gain:
        typer.echo(outcome.gain)
    if outcome.failed and not outcome.restored and not outcome.kept:
        raise UserError(f"No picture could be restored into {out}: see the reasons above.")
    counts = f"{len(outcome.restored):,} restored, {len(outcome.kept):,} kept, {len(outcome.failed):,} failed"
    typer.echo(f"{counts}: {out}. Next: look at them; --sheet lays all side by side.")


@app.command()
def convert(
    checkpoint: CheckpointOption,
    out: Annotated[Path, option("The .safetensors or .ckpt file to write.", "--out")],
    autoencoder: AutoencoderOption = None,
    architecture: ArchitectureOption = None,
) -> None:
    """Convert checkpoints to safetensors, or to the published form.

    A .safetensors file has the EMA weights and the first stage, 0.7 GB instead of 2.1, and
    no code. A .ckpt file has the layout of the published ones.

    \b
    ffhqref convert --checkpoint refldm.ckpt --autoencoder vqgan.ckpt \\
        --out refldm.safetensors
    ffhqref convert --checkpoint run/checkpoints/step-00150000/model.safetensors \\
        --out mine.ckpt
    """
    if out.suffix not in (".safetensors", ".ckpt"):
        raise UserError(f"{out} must end in .safetensors or .ckpt.")
    shape = _architecture(architecture)
    from ffhqref.restore.run import need_torch

    need_torch()
    from ffhqref.refldm.model.checkpoint import convert as write

    if out.suffix == ".ckpt":
        _publish(checkpoint, out, autoencoder, shape)
        return
    digests = {"checkpoint": digest_file(checkpoint)} if checkpoint.is_file() else {}
    with atomic(out) as part:
        written = write(checkpoint, part, autoencoder, shape, digests)
    typer.echo(
        f"{written.tensors:,} tensors ({written.weights} weights and first stage, "
        f"{written.bytes / 1e9:.2f} GB): {out}. Next: `ffhqref restore --checkpoint {out} ...`."
    )


def _publish(checkpoint: Path, out: Path, autoencoder: Path | None, shape: Architecture | None) -> None:
    from ffhqref.refldm.model.publish import publish

    with atomic(out) as part:
        written = publish(checkpoint, part, autoencoder, shape)
    kind = "refldm.ckpt" if written.whole else "vqgan.ckpt"
    typer.echo(
        f"{written.tensors:,} tensors, laid out as the published {kind}: {out}. Next: give it to the "
        "published code, or to `ffhqref restore --checkpoint`."
    )
