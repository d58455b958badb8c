"""restore and convert: the commands of the restorer. torch is loaded only inside them."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ffhqref.cli.again import again
from ffhqref.cli.app import app
from ffhqref.cli.options import (
    ArchitectureOption,
    AutoencoderOption,
    CheckpointOption,
    DatasetOrRefsArgument,
    MappedPhotosOption,
    PasteBackOption,
    PrecisionOption,
    RefsDirOption,
    RefsOption,
    RestoredOption,
    SqueezeOption,
    option,
)
from ffhqref.cli.sampling import GIVEN_NONE, Sampling, sampling_options
from ffhqref.core.store import UserError, digest_file, read_receipt, recorded_images
from ffhqref.demo import RESTORER

if TYPE_CHECKING:
    from ffhqref.refldm.model.checkpoint import Architecture
    from ffhqref.restore.record import RestoreOutcome
    from ffhqref.restore.run import RestoreOptions


@app.command()
@sampling_options
def restore(
    context: typer.Context,
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
    references_of: Annotated[
        Literal["own", "wrong"], option("wrong: those of another person of the dataset, as a control.")
    ] = "own",
    sampling: Sampling = GIVEN_NONE,
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
    if references_of == "wrong" and dataset is None:
        raise UserError("--references-of wrong needs a built dataset: it knows who is another person.")
    out = _destination(out, dataset, level)
    from ffhqref.restore.run import need_torch

    need_torch()
    options = replace(
        sampling.options(), precision=precision, device=device, batch_size=batch_size, compiled=compile,
        sheets=sheet, detector=detector, paste_back=paste_back, autoencoder=autoencoder,
        architecture=_architecture(architecture), shard=shard, squeeze=squeeze,
    )  # fmt: skip
    _warn_of_demo(checkpoint, dataset or lq)
    if dataset is None:
        outcome = _of_pictures(checkpoint, lq, shared, refs_dir, references, images, out, options)
    else:
        others = bool(lq or shared or refs_dir or references)
        outcome = _of_dataset(checkpoint, dataset, level, images, split, others, references_of, out, options)
    say(outcome, out, "" if sheet else again(context, "--sheet"))


def _of_dataset(
    checkpoint: Path, dataset: Path, level: str | None, images: Path | None, split: str, others: bool,
    references_of: Literal["own", "wrong"], out: Path, options: RestoreOptions,
) -> RestoreOutcome:  # fmt: skip
    from ffhqref.restore.run import restore_dataset

    if level is None or others:
        raise UserError(
            f"With the dataset {dataset} give --level (such as severe), and none of --lq, --refs, "
            "--refs-dir, --references."
        )
    photos = images or recorded_images(dataset)
    return restore_dataset(
        dataset, checkpoint, level=level, photos=photos, split=split, out=out, references_of=references_of,
        options=options,
    )  # fmt: skip


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


def _warn_of_demo(checkpoint: Path, pictures: Path | None) -> None:
    """The demo's restorer takes any picture, and makes a drawn person of it."""
    if pictures is None or not checkpoint.is_file() or checkpoint.stat().st_size != RESTORER.stat().st_size:
        return
    place = pictures.resolve()
    drawn = any(read_receipt(folder, "draw") for folder in (place, *place.parents))
    if not drawn and digest_file(checkpoint) == digest_file(RESTORER):
        typer.echo(
            "Warning: the demo's restorer knows drawn people only, at 64 px: of photographs it makes masks. "
            "Take the published weights (`ffhqref download refldm`), or train your own.", err=True,
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


def say(outcome: RestoreOutcome, out: Path, next_command: str = "") -> None:
    """What became of the pictures, and what to run next; UserError where none could be restored."""
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
    drawn = f" Look at {out}/sheets." if (out / "sheets").is_dir() else ""
    typer.echo(f"{counts}: {out}." + (f" Next: {next_command}" if next_command else drawn))


@app.command()
def convert(
    checkpoint: CheckpointOption,
    out: Annotated[Path, option("The .safetensors or .ckpt file to write.", "--out")],
    autoencoder: AutoencoderOption = None,
    architecture: ArchitectureOption = None,
) -> None:
    """Convert checkpoints to safetensors, or to the published form.

    A .safetensors file has the EMA weights and the first stage, 0.7 GB instead of 2.1, and
    no code; training that starts from it starts from the average, since the raw weights are
    left out. A .ckpt file has the layout of the published ones, and both.

    \b
    ffhqref convert --checkpoint refldm.ckpt --autoencoder vqgan.ckpt \\
        --out refldm.safetensors
    ffhqref convert --checkpoint run/checkpoints/step-00150000/model.safetensors \\
        --out mine.ckpt
    """
    if out.suffix not in (".safetensors", ".ckpt"):
        raise UserError(f"{out} must end in .safetensors or .ckpt.")
    if out.resolve() in {path.resolve() for path in (checkpoint, autoencoder) if path}:
        raise UserError(f"--out {out} would overwrite the checkpoint itself: give another file.")
    shape = _architecture(architecture)
    from ffhqref.restore.run import need_torch

    need_torch()
    if out.suffix == ".ckpt":
        said = _publish(checkpoint, out, autoencoder, shape)
    else:
        said = _safetensors(checkpoint, out, autoencoder, shape)
    typer.echo(said)


def _safetensors(checkpoint: Path, out: Path, autoencoder: Path | None, shape: Architecture | None) -> str:
    from ffhqref.refldm.model.checkpoint import convert as write
    from ffhqref.refldm.model.tensor_files import replaced

    digests = {"checkpoint": digest_file(checkpoint)} if checkpoint.is_file() else {}
    with replaced(out) as part:
        written = write(checkpoint, part, autoencoder, shape, digests)
    return (
        f"{written.tensors:,} tensors ({written.weights} weights and first stage, "
        f"{_size(written.bytes)}): {out}. Next: {_restore_help(out)}"
    )


def _publish(checkpoint: Path, out: Path, autoencoder: Path | None, shape: Architecture | None) -> str:
    from ffhqref.refldm.model.publish import publish
    from ffhqref.refldm.model.tensor_files import replaced

    with replaced(out) as part:
        written = publish(checkpoint, part, autoencoder, shape)
    kind = "refldm.ckpt" if written.whole else "vqgan.ckpt"
    said = f"{written.tensors:,} tensors, laid out as the published {kind}: {out}."
    if not written.whole:
        return f"{said} It goes with a denoiser, as --autoencoder."
    return f"{said} Next: {_restore_help(out)}"


def _restore_help(checkpoint: Path) -> str:
    """How pictures are given with it is the user's to say."""
    return shlex.join(["ffhqref", "restore", "--checkpoint", str(checkpoint), "--help"])


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"
