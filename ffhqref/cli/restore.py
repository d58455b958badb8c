"""restore and convert: the commands of the restorer. torch is loaded only inside them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ffhqref.cli.app import app
from ffhqref.core.store import UserError, atomic, digest_file
from ffhqref.demo import RESTORER

if TYPE_CHECKING:
    from ffhqref.refldm.model.checkpoint import Architecture
    from ffhqref.restore.record import RestoreOutcome


class Schedule(StrEnum):
    uniform_trailing = "uniform_trailing"
    uniform = "uniform"


class Noise(StrEnum):
    shared = "shared"
    per_image = "per-image"


class Encoding(StrEnum):
    wide = "wide"
    separate = "separate"


class Precision(StrEnum):
    fp32 = "fp32"
    auto = "auto"
    bf16 = "bf16"
    fp16 = "fp16"


def _option(help: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, show_default=False, **more)


def _named(path: Path) -> Path:
    """`demo` is the small restorer that comes with the demo (64 px, drawn people)."""
    return RESTORER if path == Path("demo") and not path.exists() else path


Checkpoint = Annotated[
    Path,
    _option(
        "refldm.ckpt, what `convert` wrote, or demo: a small one for drawn people.",
        "--checkpoint",
        callback=_named,
    ),
]
FirstStage = Annotated[
    Path | None, _option("vqgan.ckpt, where the checkpoint holds no first stage.", "--autoencoder")
]
Shape = Annotated[Path | None, _option("TOML of another network's sizes than the published.")]
Lq = Annotated[Path | None, _option("Picture to restore, or a folder of them.")]
Refs = Annotated[
    list[Path] | None, _option("Pictures of the same person; more may follow the first.", "--refs")
]
RefsDir = Annotated[Path | None, _option("Folder with a folder of references for each name.")]
References = Annotated[Path | None, _option("Reference mapping, CSV; needs --images.")]
Images = Annotated[Path | None, _option("Folder of the photographs that a CSV or dataset names.")]
Paths = Annotated[
    list[Path] | None,
    typer.Argument(help="A built dataset (with --level), or more pictures for --refs.", metavar="[OUT]"),
]
Out = Annotated[
    Path | None, _option("Folder of the results; a dataset's are by default OUT/restored/LEVEL.", "--out")
]
ReferenceEncoding = Annotated[
    Encoding, typer.Option(help="wide: as published; separate: less memory, other numbers.")
]
PasteBack = Annotated[
    bool, typer.Option("--paste-back", help="With --align: put results into the photographs.")
]


@app.command()
def restore(
    checkpoint: Checkpoint,
    paths: Paths = None,
    out: Out = None,
    autoencoder: FirstStage = None,
    lq: Lq = None,
    refs: Refs = None,
    refs_dir: RefsDir = None,
    references: References = None,
    images: Images = None,
    level: Annotated[str | None, _option("Of a built dataset: severe, moderate or your own.")] = None,
    split: Annotated[str, typer.Option(help="Of a built dataset: test or val.")] = "test",
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Steps of DDIM.")] = 50,
    schedule: Annotated[Schedule, typer.Option(help="Which timesteps.")] = Schedule.uniform_trailing,
    guidance: Annotated[float, typer.Option(help="Towards the references; 1 is off.")] = 1.5,
    seed: Annotated[int, typer.Option(min=0, max=2**62, help="Of the noise it starts from.")] = 2024,
    noise: Annotated[Noise, typer.Option(help="One noise for all (published), or by name.")] = Noise.shared,
    max_references: Annotated[int, typer.Option(min=1, max=64, help="The first so many.")] = 5,
    reference_encoding: ReferenceEncoding = Encoding.wide,
    precision: Annotated[Precision, typer.Option(help="auto: bf16 where faster.")] = Precision.fp32,
    batch_size: Annotated[int, typer.Option(min=1, max=256, help="Pictures at a time.")] = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")] = "cpu",
    compile: Annotated[bool, typer.Option("--compile", help="Compile the denoiser first.")] = False,
    shard: Annotated[str | None, _option("i/n: only every n-th picture from the i-th.")] = None,
    sheet: Annotated[bool, typer.Option("--sheet", help="Also write all side by side.")] = False,
    align: Annotated[bool, typer.Option("--align", help="Find faces and frame them first.")] = False,
    paste_back: PasteBack = False,
    detector: Annotated[Path | None, _option("SCRFD detector for --align, an ONNX file.")] = None,
    architecture: Shape = None,
) -> None:
    """Low-quality faces + references of the same people -> restored faces.

    Without references it restores from the picture alone. Pictures are FFHQ-aligned
    squares; --align frames others. Finished results are kept when run again.

    \b
    ffhqref restore --checkpoint refldm.ckpt --autoencoder vqgan.ckpt \\
        --lq old.png --refs new1.jpg new2.jpg --out restored
    ffhqref restore mine --level severe --images photos --checkpoint refldm.ckpt
    """
    dataset, more = _positional(list(paths or []), lq)
    shared = [*(refs or []), *more]
    _check_align(align, paste_back, detector)
    out = _destination(out, dataset, level)
    from ffhqref.restore import run

    run.need_torch()
    options = run.RestoreOptions(
        steps=steps, schedule=schedule.value, guidance=guidance, reference_encoding=reference_encoding.value,
        max_references=max_references, seed=seed, noise=noise.value, precision=precision.value, device=device,
        batch_size=batch_size, compiled=compile, sheets=sheet, detector=detector, paste_back=paste_back,
        autoencoder=autoencoder, architecture=_architecture(architecture), shard=shard,
    )  # fmt: skip
    if dataset is not None:
        if level is None or lq or shared or refs_dir or references or images is None:
            raise UserError(
                f"With the dataset {dataset} give --level (such as severe) and --images, the folder of its "
                "photographs, and none of --lq, --refs, --refs-dir, --references."
            )
        outcome = run.restore_dataset(
            dataset, checkpoint, level=level, photos=images, split=split, out=out, options=options
        )
    else:
        if lq is None:
            raise UserError("Give --lq, a picture or a folder of them, or a built dataset and --level.")
        outcome = run.restore_pictures(
            lq, checkpoint, out=out, references=shared, refs_dir=refs_dir, mapping=references, photos=images,
            options=options,
        )  # fmt: skip
    say(outcome, out)


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
    checkpoint: Checkpoint,
    out: Annotated[Path, _option("The .safetensors or .ckpt file to write.", "--out")],
    autoencoder: FirstStage = None,
    architecture: Shape = None,
) -> None:
    """A published checkpoint -> safetensors with what restoring needs, and no code.

    EMA weights and first stage: 0.7 GB instead of 2.1. The other way round, --out FILE.ckpt
    writes a checkpoint of `train` as the published files are laid out.

    \b
    ffhqref convert --checkpoint refldm.ckpt --autoencoder vqgan.ckpt --out refldm.safetensors
    ffhqref convert --checkpoint run/checkpoints/step-00150000/model.safetensors --out mine.ckpt
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
        f"{written['tensors']:,} tensors ({written['weights']} weights and first stage, "
        f"{written['bytes'] / 1e9:.2f} GB): {out}. Next: `ffhqref restore --checkpoint {out} ...`."
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
