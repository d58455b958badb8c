"""The options of `restore` that decide what comes out, and the defaults that --like and --fast stand for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from inspect import Parameter, Signature, signature
from typing import TYPE_CHECKING, Annotated, Literal, get_type_hints

from ffhqref.cli.options import InitialNoiseOption, ReferenceEncodingOption, option
from ffhqref.core.store import UserError

if TYPE_CHECKING:
    from ffhqref.refldm.model.schedule import Schedule
    from ffhqref.refldm.model.solvers import Solver
    from ffhqref.restore.run import RestoreOptions


@dataclass(frozen=True)
class Preset:
    """What holds where the options are not given."""

    steps: int
    schedule: Schedule
    solver: Solver


LIKE = {
    "inference": Preset(50, "uniform_trailing", "ddim"),  # the published script for one picture
    "dataset": Preset(100, "uniform", "ddim"),  # and that for a dataset
}
FAST = Preset(12, "log_snr", "unipc")  # measured: see the README


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """What was given of them; None: the preset's."""

    like: Annotated[
        Literal["inference", "dataset"],
        option("Steps and schedule of the published script for one picture, or of that for a dataset."),
    ] = "inference"
    fast: Annotated[
        bool,
        option(f"{FAST.steps} steps of {FAST.solver}: near the same, in a quarter of the time.", "--fast"),
    ] = False
    steps: Annotated[
        int | None,
        option(
            "Steps of the solver.", min=1, max=1000, default=f"50; 100 like dataset; {FAST.steps} if --fast"
        ),
    ] = None
    schedule: Annotated[
        Literal["uniform_trailing", "uniform", "log_snr"] | None,
        option(
            "Which timesteps to take; log_snr is for few.",
            default=f"uniform_trailing; uniform like dataset; {FAST.schedule} for the other solvers",
        ),
    ] = None
    solver: Annotated[
        Literal["ddim", "dpmpp2m", "unipc"] | None,
        option("ddim as published; the others need fewer steps.", default=f"ddim; {FAST.solver} if --fast"),
    ] = None
    guidance: Annotated[float, option("How far to follow the conditions; 1 is no guidance.")] = 1.5
    guidance_from: Annotated[int, option("Guide from this timestep on; 0 is clean.", min=0, max=999)] = 0
    guidance_to: Annotated[int, option("Guide up to this timestep; 999 is noise.", min=0, max=999)] = 999
    seed: Annotated[int, option("Seed of the initial noise.", min=0, max=2**62)] = 2024
    noise: InitialNoiseOption = "shared"
    max_references: Annotated[int, option("Use at most N references.", min=1, max=64)] = 5
    reference_encoding: ReferenceEncodingOption = "wide"
    read: Annotated[
        Literal["whole", "published"],
        option("published: without turning as EXIF says, as the published code reads pictures."),
    ] = "whole"

    def options(self) -> RestoreOptions:
        """With the preset's values in place of None."""
        from ffhqref.restore.run import RestoreOptions

        if self.fast and self.like != "inference":
            raise UserError(f"Give one of --fast and --like {self.like}: each names steps and schedule.")
        preset = FAST if self.fast else LIKE[self.like]
        solver = self.solver or preset.solver
        even = preset.schedule if solver == "ddim" else FAST.schedule
        return RestoreOptions(
            steps=self.steps or preset.steps, schedule=self.schedule or even, solver=solver,
            guidance=self.guidance, guidance_from=self.guidance_from, guidance_to=self.guidance_to,
            seed=self.seed, noise=self.noise, max_references=self.max_references,
            reference_encoding=self.reference_encoding, read=self.read,
        )  # fmt: skip


GIVEN_NONE = Sampling()


def sampling_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command these options in place of its one parameter `sampling: Sampling`."""
    names = [item.name for item in fields(Sampling)]

    def run(**given: object) -> None:
        sampling = Sampling(**{name: given.pop(name) for name in names})  # type: ignore[arg-type]
        command(**given, sampling=sampling)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    parameters: list[Parameter] = []
    for own in signature(command, eval_str=True).parameters.values():
        of_it = _parameters() if own.name == "sampling" else [own.replace(kind=Parameter.KEYWORD_ONLY)]
        parameters += of_it
    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return run


def _parameters() -> list[Parameter]:
    hints = get_type_hints(Sampling, include_extras=True)
    return [
        Parameter(item.name, Parameter.KEYWORD_ONLY, default=item.default, annotation=hints[item.name])
        for item in fields(Sampling)
    ]
