"""What "Next:" offers, which runs as printed: the same command again, or the next stage of training."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffhqref.core.store import UserError

if TYPE_CHECKING:
    from ffhqref.refldm.training.config import Config
    from ffhqref.refldm.training.train import TrainingResult

FOLLOWING = {"autoencoder": "ldm", "ldm": "refldm"}
STARTS_FROM = {"ldm": "--autoencoder", "refldm": "--init"}


def again(context: Any, *more: str) -> str:
    """The command of a Typer context as it was given, options by name, then `more` that it lacks."""
    arguments: list[str] = []
    options: list[str] = []
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name)
        if source is None or source.name != "COMMANDLINE":
            continue
        value = context.params[parameter.name]
        values = value if isinstance(value, (list, tuple)) else [value]
        if parameter.param_type_name == "argument":
            arguments += map(str, values)
        elif getattr(parameter, "is_flag", False):
            options += [parameter.opts[0]] if value else parameter.secondary_opts[:1]
        else:
            for one in values:
                options += [parameter.opts[0], str(one)]
    words = ["ffhqref", context.info_name, *arguments, *options]
    return shlex.join(words + [word for word in more if word not in words])


def next_command(context: Any, config: Config, result: TrainingResult) -> str:
    """The command of the stage that starts from a finished run; after the last, of restoring with it.

    A run that was stopped goes on.
    """
    if result.stopped:
        return again(context, "--resume")
    given, model = context.params, result.checkpoint / "model.safetensors"
    data, images = given["data"], given["images"]
    if config.stage not in FOLLOWING:
        if not (data / "test_images" / "severe_degrad").is_dir():
            return shlex.join(["ffhqref", "degrade", str(data), "--images", str(images), "--level", "severe"])
        words = ["restore", data, "--images", images, "--level", "severe", "--checkpoint", model]
        return shlex.join(["ffhqref", *map(str, words)])
    stage = FOLLOWING[config.stage]
    words = ["ffhqref", "train", stage, "--data", data, "--images", images]
    words += [STARTS_FROM[stage], model, "--out", _free(given["out"].parent / stage)]
    words += _configuration(given["config"], config, stage)
    words += _identity(given["identity"], data) if stage == "refldm" else []
    for name, usual in (("level", "train"), ("device", "auto")):
        words += [f"--{name}", given[name]] if given[name] != usual else []
    words += ["--unverified"] if given["unverified"] else []
    return shlex.join(map(str, words))


def _free(folder: Path) -> Path:
    """The folder, or the first of its name with a number where it is there already."""
    number, place = 1, folder
    while place.exists():
        number += 1
        place = folder.with_name(f"{folder.name}-{number}")
    return place


def _configuration(name: str | None, config: Config, stage: str) -> list[str]:
    """The neighbour of a configuration that was named (demo-ldm of demo-autoencoder), or its sizes."""
    from ffhqref.core.recipe import locate

    neighbour = name.replace(config.stage, stage) if name else None
    if neighbour and neighbour != name:
        try:
            locate(neighbour, "train")
        except UserError:
            neighbour = None
        if neighbour:
            return ["--config", neighbour]
    return [word for text in _sizes(config) for word in ("--set", text)]


def _sizes(config: Config) -> list[str]:
    """What differs from the published networks' sizes, as `--set` takes it."""
    from ffhqref.refldm.model.checkpoint import Architecture

    ours, published = _flat(asdict(config.architecture)), _flat(asdict(Architecture()))
    latent = config.architecture.autoencoder.latent  # an autoencoder's run knows of no denoiser
    if config.stage == "autoencoder":
        ours |= {"architecture.unet.in_channels": 2 * latent, "architecture.unet.out_channels": latent}
    return [f"{key}={json.dumps(value)}" for key, value in ours.items() if value != published[key]]


def _flat(table: dict[str, Any], before: str = "architecture") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{before}.{key}"
        out |= _flat(value, name) if isinstance(value, dict) else {name: value}
    return out


def _identity(given: Path | None, data: Path) -> list[str]:
    """The network of the identity loss: what was given, or the dataset's own embedder, or no such loss."""
    from ffhqref.dataset.build import recipe_of
    from ffhqref.refldm.training import onnx_torch

    try:
        network = given or Path(recipe_of(data).embedder or "")
        onnx_torch.load_recogniser(network)
    except (UserError, OSError):
        return ["--set", "identity_weight=0"]
    return ["--identity", str(network)]
