"""train: the command of the trainer. torch is loaded only inside it."""

from __future__ import annotations

import os
import tomllib
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ffhqref.cli.again import next_command
from ffhqref.cli.app import app
from ffhqref.cli.options import (
    AutoencoderOption,
    RecordedPhotosOption,
    SettingsOption,
    SqueezeOption,
    TrainingConfigOption,
    option,
)
from ffhqref.core.store import UserError, lock, recorded_images

if TYPE_CHECKING:
    from ffhqref.refldm.training.config import Config
    from ffhqref.refldm.training.stages import Perceptual
    from ffhqref.refldm.training.train import Given, TrainingResult

CONFIGURED = "the configuration's"
Table = dict[str, object]  # of TOML


@app.command()
def train(
    context: typer.Context,
    stage: Annotated[
        Literal["autoencoder", "ldm", "refldm"],
        typer.Argument(metavar="STAGE", help="What to train: each stage starts from the one before."),
    ],
    data: Annotated[Path, option("A built dataset (see build-refs).", "--data")],
    out: Annotated[Path, option("Folder of the run.", "--out")],
    images: RecordedPhotosOption = None,
    config: TrainingConfigOption = None,
    init: Annotated[Path | None, option("Checkpoint to start from; refldm starts from an LDM.")] = None,
    autoencoder: AutoencoderOption = None,
    identity: Annotated[Path | None, option("Embedder for the identity loss, an ONNX file.")] = None,
    level: Annotated[str, option("Level of the low-quality pictures.")] = "train",
    steps: Annotated[int | None, option("Steps in all.", default=CONFIGURED)] = None,
    batch_size: Annotated[
        int | None, option("Pictures per step, over all processes.", default=CONFIGURED)
    ] = None,
    lr: Annotated[float | None, option("Learning rate.", default=CONFIGURED)] = None,
    precision: Annotated[
        Literal["fp32", "tf32", "bf16", "fp16"] | None,
        option("Precision of the networks.", default=CONFIGURED),
    ] = None,
    set: SettingsOption = None,
    resume: Annotated[bool, option("Continue from the last checkpoint.", "--resume")] = False,
    unverified: Annotated[
        bool, option("Train even if `ffhqref verify` fails for the dataset.", "--unverified")
    ] = False,
    squeeze: SqueezeOption = False,
    device: Annotated[Literal["auto", "cpu"], option("auto: GPUs if there are any.")] = "auto",
    workers: Annotated[int, option("Processes that load pictures.", min=0, max=256)] = 2,
) -> None:
    """Train the autoencoder, the LDM or ReF-LDM on a built dataset.

    The weights depend on configuration, data and seed; --resume continues exactly. SIGTERM
    and Ctrl-C save a checkpoint first. Several GPUs: accelerate launch -m ffhqref train ...

    \b
    ffhqref train autoencoder --data mine --images photos --out runs/ae
    ffhqref train ldm --data mine --images photos --out runs/ldm \\
        --autoencoder runs/ae/checkpoints/step-00200000/model.safetensors
    ffhqref train refldm --data mine --images photos --out runs/refldm \\
        --init runs/ldm/checkpoints/step-00500000/model.safetensors \\
        --identity r50.onnx
    """
    _need_torch()
    images = images or recorded_images(data)
    _check_dataset(data, images, unverified)
    chosen = {"steps": steps, "batch_size": batch_size, "lr": lr, "precision": precision}
    options = {key: value for key, value in chosen.items() if value is not None}
    settings = configure(stage, config, {**options, **parse_settings(set or [])}, resume and out)
    given = _given(settings, init, autoencoder, identity)
    writer = int(os.environ.get("RANK", "0")) == 0  # of several processes only the first one writes
    with lock(out, f"train {stage}") if writer else nullcontext():
        result = _train(settings, given, data, images, out, level, resume, squeeze, device, workers)
    if writer:
        typer.echo(summary(result, settings, next_command(context, settings, result)))
    if result.stopped:
        raise typer.Exit(130)


def _train(
    config: Config, given: Given, data: Path, images: Path, out: Path, level: str, resume: bool,
    squeeze: bool, device: str, workers: int,
) -> TrainingResult:  # fmt: skip
    from ffhqref.degrade.operators import sampler
    from ffhqref.refldm.training import train as training
    from ffhqref.refldm.training.data import open_dataset

    degrade = None if config.stage == "autoencoder" else sampler(level, config.seed)
    source = open_dataset(data, images, config, degrade, squeeze)
    return training.train(config, source, out, given, resume=resume, device=device, workers=workers)


def summary(result: TrainingResult, config: Config, following: str) -> str:
    """The one line at the end."""
    model = result.checkpoint / "model.safetensors"
    loss = f"loss {result.losses['loss']:.4f}, " if "loss" in result.losses else ""
    best = f", best at step {result.best:,}" if result.best else ""
    skipped = f", {result.skipped:,} pictures could not be read" if result.skipped else ""
    done = f"{config.stage}: {result.step:,} of {config.steps:,} steps"
    return f"{done}, {loss}{model}{best}{skipped}. Next: {following}"


def _need_torch() -> None:
    from importlib.util import find_spec

    from ffhqref.restore.run import wait_passively

    missing = [name for name in ("torch", "accelerate", "safetensors", "tensorboard") if not find_spec(name)]
    if missing:
        raise UserError(f"{', '.join(missing)} is not installed: pip install 'ffhqref[train]'.")
    wait_passively()


def _check_dataset(data: Path, images: Path, unverified: bool) -> None:
    """UserError where the dataset is not proven sound, unless the user insists."""
    if unverified:
        return
    from ffhqref.dataset.build import recipe_of
    from ffhqref.dataset.verify import verify_dataset

    try:
        faults = verify_dataset(data, recipe_of(data), images=images).violations
    except UserError as error:
        faults = [str(error).rstrip(".")]
    if faults:
        raise UserError(
            f"{data} is not a dataset that `ffhqref verify` passes ({faults[0]}): fix it, or add "
            "--unverified."
        )


def parse_settings(texts: list[str]) -> Table:
    """`key=value` texts as a table; a value is TOML, or text where it is none."""
    table: Table = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set {text}: give key=value, such as --set references=3.")
        try:
            parsed = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            parsed = value.strip()
        for name in reversed(key.strip().split(".")):
            parsed = {name: parsed}
        table = _merged(table, parsed)
    return table


def configure(stage: str, name: str | None, options: Table, run: Path | bool) -> Config:
    """The named configuration (of a resumed run: its own) with the options in place of its values."""
    from ffhqref.core.recipe import locate
    from ffhqref.refldm.training.config import parse, read_config
    from ffhqref.refldm.training.runs import RunFolder

    if run and name is None:
        where = f"{run}/config.json"
        table = RunFolder(Path(str(run))).read_settings()
    else:
        path = locate(name or stage, "train")
        where, table = str(path), read_config(path)
    if table.setdefault("stage", stage) != stage:
        raise UserError(f"{where} is for `train {table['stage']}`, not for `train {stage}`.")
    return parse(_merged(table, options), where)


def _merged(table: Table, options: Table) -> Table:
    """`options` over `table`; tables inside are merged, too."""
    out = dict(table)
    for key, value in options.items():
        old = out.get(key)
        out[key] = _merged(old, value) if isinstance(value, dict) and isinstance(old, dict) else value
    return out


def _given(config: Config, init: Path | None, autoencoder: Path | None, identity: Path | None) -> Given:
    from ffhqref.refldm.training import onnx_torch
    from ffhqref.refldm.training.train import Given

    recognise = onnx_torch.load_recogniser(identity) if identity else None
    return Given(init=init, autoencoder=autoencoder, recognise=recognise, perceptual=_perceptual(config))


def _perceptual(config: Config) -> Perceptual | None:
    """LPIPS, where the autoencoder's loss asks for it."""
    if config.stage != "autoencoder" or not config.perceptual_weight:
        return None
    try:
        import pyiqa
    except ImportError:
        raise UserError(
            "perceptual_weight needs LPIPS: pip install pyiqa, or go without it by --set perceptual_weight=0."
        ) from None
    from ffhqref.refldm.training.losses import UnitRange

    return UnitRange(pyiqa.create_metric("lpips-vgg", as_loss=True))
