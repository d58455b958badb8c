"""What commands are given. An option that several commands share is written here once, and the longer ones
of commands with many; those of a recipe come from the fields of `Recipe`, so that help, type, choices and
default stand nowhere else.

A help text ends with the default: Typer adds one that is a plain value, `default` says any other in words.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, fields
from functools import cache
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

import typer

from ffhqref.core.recipe import RECIPES, Recipe, load_recipe
from ffhqref.core.store import UserError
from ffhqref.core.terminal import LAW
from ffhqref.demo import RESTORER

HINTS = get_type_hints(Recipe)
FIELDS = {item.name: item for item in fields(Recipe)}
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def option(
    help: str, *names: str, default: str = "", min: float | None = None, max: float | None = None,
    metavar: str | None = None,
) -> object:  # fmt: skip
    """An option. Typer does not check whether a file is readable: the stages do, and say what to do."""
    text = f"{help}  [default: {default}]" if default else help
    return typer.Option(*names, help=text, min=min, max=max, metavar=metavar, readable=False)


def ask_terms(accepted: bool, name: str, terms: str) -> bool:
    """Show a source's terms, and whether they are accepted: by the option, or by a person who is asked."""
    typer.echo(f"{name}:\n{terms.strip()}\n{LAW}\n", err=True)
    return accepted or (sys.stdin.isatty() and typer.confirm("Do you accept these terms?", err=True))


def _known_checkpoint(path: Path) -> Path:
    """`demo` is the small restorer that comes with the demo (64 px, drawn people)."""
    return RESTORER if path == Path("demo") and not path.exists() else path


OutArgument = Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the dataset.")]
PhotosOption = Annotated[Path, option("Folder of photographs (PNG, JPEG, WebP; nested or flat).", "--images")]
RecordedPhotosOption = Annotated[
    Path | None, option("Folder of the photographs.", "--images", default="the one that embed read")
]
DeviceOption = Annotated[
    Literal["auto", "cpu", "cuda"], option("Where networks run; auto: on a GPU if there is one.", "--device")
]
WorkersOption = Annotated[int, option("Photos processed at a time.", "--workers", min=1, max=256)]
BatchSizeOption = Annotated[int, option("Faces embedded together.", "--batch-size", min=1, max=4096)]
RedrawOption = Annotated[  # of one run: never kept in the recipe
    bool, option("Forget who was in which split and draw everybody anew.", "--redraw")
]
DryRunOption = Annotated[bool, option("Say what would be done; write nothing.", "--dry-run")]
AcceptTermsOption = Annotated[bool, option("Accept the terms that are printed.", "--accept-terms")]
CheckpointOption = Annotated[
    Path,
    typer.Option(
        "--checkpoint", callback=_known_checkpoint, readable=False,
        help="Checkpoint as published, trained or converted; demo: a small one for drawn people.",
    ),
]  # fmt: skip
AutoencoderOption = Annotated[
    Path | None,
    option("First stage, if the checkpoint has none: vqgan.ckpt, or one of `train`.", "--autoencoder"),
]
ArchitectureOption = Annotated[
    Path | None,
    option("TOML file of the networks' sizes.", "--architecture", default="as published, or as trained"),
]
SqueezeOption = Annotated[bool, option("Squeeze pictures that are not square by more than 5 %.", "--squeeze")]
# of `restore` alone
DatasetOrRefsArgument = Annotated[
    list[Path] | None,
    typer.Argument(metavar="OUT", help="A built dataset (with --level), or more pictures for --refs."),
]
RestoredOption = Annotated[
    Path | None, option("Folder for the results.", default="OUT/restored/LEVEL for a dataset")
]
RefsOption = Annotated[
    list[Path] | None,
    option("Pictures of the same person; more may follow the first.", "--refs", metavar="FILE..."),
]
RefsDirOption = Annotated[
    Path | None, option("Folder that has a folder of references for each picture's name.")
]
MappedPhotosOption = Annotated[
    Path | None, option("Folder of the photographs that a mapping or dataset names.")
]
InitialNoiseOption = Annotated[
    Literal["shared", "per-image"],
    option("shared: one for all pictures, as published; per-image: by name."),
]
ReferenceEncodingOption = Annotated[
    Literal["wide", "separate"],
    option("wide: as published; separate: less memory, different results."),
]
PrecisionOption = Annotated[
    Literal["fp32", "auto", "bf16", "fp16", "tf32"],
    option("auto: bf16 where it is faster; fp16, tf32: GPUs only."),
]
PasteBackOption = Annotated[
    bool, option("With --align: paste the face back into the photograph.", "--paste-back")
]
# of `degrade` alone
DegradedDatasetArgument = Annotated[
    Path | None, typer.Argument(metavar="OUT", help="A built dataset, whose targets are degraded.")
]
LevelsOption = Annotated[
    list[str] | None,
    option(
        "moderate, severe, train, gfpgan, codeformer or faceme; or FILE or FILE:NAME, a TOML file of the "
        "form of manifests/levels.toml. May be repeated.",
        metavar="LEVEL",
    ),
]
DegradedOption = Annotated[
    Path | None, option("Without a dataset: folder to write to; several levels get a folder each.")
]
NamesListOption = Annotated[
    Path | None,
    option("Names to degrade: text, one per line, or CSV (gt_image or image).", "--list", default="all"),
]
FormatOption = Annotated[Literal["png", "webp"], option("webp is lossless, too, and slower.", "--format")]
FilterOption = Annotated[
    Literal["bicubic", "lanczos", "area", "bilinear"],
    option("How targets are resized; bicubic is the published loader's.", "--filter"),
]
ReplayOption = Annotated[
    bool, option("Draw in the published order (seed 2024, row by row).", "--replay-published")
]
FromTableOption = Annotated[
    Path | None, option("Draw nothing; use the parameters in this degradations.parquet.")
]
SheetFileOption = Annotated[
    Path | None, option("PNG to write: clean images beside each level, with parameters.")
]
# of `train` alone
TrainingConfigOption = Annotated[
    str | None, option("A name in manifests/train, or a TOML file.", default="the stage's, as in the paper")
]

LeastSpeedOption = Annotated[
    str,
    option("Bytes per second a server must send, on average over --timeout; 0: any.", metavar="LIMIT"),
]
SettingsOption = Annotated[
    list[str] | None,
    option("Change a key of the configuration; may be repeated.", "--set", metavar="KEY=VALUE"),
]
# of `evaluate`
JudgingDatasetOption = Annotated[
    Path | None, option("A built dataset, whose targets judge.", "--data", metavar="OUT")
]
MethodsOption = Annotated[
    list[str] | None,
    option(
        "A method's name and the folder of its results; may be repeated.",
        "--restored",
        metavar="NAME=DIR",
    ),
]
EvaluatedPhotosOption = Annotated[
    Path | None, option("Folder of the photographs.", default="the one that embed read")
]
EvaluatedRefsOption = Annotated[
    Path | None, option("Without --data: a folder of references for each picture's name.")
]
EvaluationLabelsOption = Annotated[
    Path | None, option("CSV by image: identity (without --data), or columns for --by.")
]
MetricsOption = Annotated[
    str | None,
    option(
        "Of ids, psnr, ssim, lpips, flpips, dists, niqe, musiq, clipiqa, maniqa, qalign, fid.",
        metavar="METRIC,...",
        default="ids,psnr,ssim",
    ),
]
ProtocolOption = Annotated[
    Literal["refldm", "ntire2026", "all"] | None, option("The metrics of a paper instead of --metrics.")
]
ScoringEmbedderOption = Annotated[
    Path | None, option("ArcFace network (ONNX) for ids.", default="the dataset's own")
]
ScoringDetectorOption = Annotated[
    Path | None, option("SCRFD detector (ONNX): results without a face count as failures.")
]
TargetLandmarksOption = Annotated[
    Path | None, option("Five points of the targets (CSV, FFHQ's JSON).", default="the dataset's own")
]
ParsingOption = Annotated[
    Path | None, option("For flpips: folder of CelebAMask-HQ label maps, or an ONNX parser.")
]
FidStatisticsOption = Annotated[
    str, option("Published statistics for fid, such as FFHQ:512:trainval70k.", default="the targets")
]
CurvesOption = Annotated[
    list[str] | None,
    option("Also by references, eyes, yaw, or a column of --labels; may be repeated.", metavar="NAME"),
]
GroupsOption = Annotated[
    Path | None,
    option("Judge a grouping (a dataset, or a CSV of image and identity) by --labels, nothing else."),
]
PublishedOption = Annotated[
    Literal["severe", "moderate", "celeba-test-ref"] | None,
    option("Put the paper's rows for this test set beside.", default="none"),
]


@dataclass(frozen=True)
class RecipeOptions:
    """What a command was given of a recipe: its name or file, and values in place of its own (None: none)."""

    name: str | None
    changes: Mapping[str, object]


def recipe_options(*names: str, default: str = "") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command --recipe and an option for each of these fields of `Recipe`.

    The command has one parameter for all of them, `recipe: RecipeOptions`. Typer reads the signature that is
    made here, in which the options stand in its place. `default` names the recipe that is used without
    --recipe; without one it is the dataset's own.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def run(**given: object) -> None:
            name = given.pop("recipe")
            changes = {field: given.pop(field) for field in names}
            recipe = RecipeOptions(str(name) if name is not None else None, changes)
            command(**given, recipe=recipe)

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        parameters: list[Parameter] = []
        for own in signature(command, eval_str=True).parameters.values():
            if own.name == "recipe":
                parameters += [_recipe_parameter(default), *map(_field_parameter, names)]
            else:
                parameters.append(own.replace(kind=Parameter.KEYWORD_ONLY))
        run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        return run

    return decorate


def _recipe_parameter(default: str) -> Parameter:
    help = f"Recipe with the defaults: {', '.join(RECIPES)} or a TOML file."
    if not default:
        help += f"  [default: the dataset's own, else {RECIPES[0]}]"
    info = typer.Option(
        default or None, "--recipe", help=help, metavar="NAME|FILE", autocompletion=lambda: list(RECIPES)
    )
    return Parameter("recipe", Parameter.KEYWORD_ONLY, default=info, annotation=str | None)


@cache
def _field_parameter(name: str) -> Parameter:
    """A recipe's field as a parameter that is None where the option is not given.

    Typer shows and completes choices but takes any word: `Recipe` refuses a wrong one, here as in a file.
    """
    item, hint = FIELDS[name], HINTS[name]
    choices = get_args(hint) if get_origin(hint) is Literal else ()
    metavar = f"<{'|'.join(choices)}>" if choices else METAVARS.get(name)
    kind = Path if item.metadata["file"] else str if metavar else hint
    default = _default(item)
    info = typer.Option(
        None, f"--{name.replace('_', '-')}", metavar=metavar, readable=False,
        help=item.metadata["help"] + (f"  [default: {default}]" if default else ""),
        parser=PARSERS.get(name), autocompletion=(lambda: list(choices)) if choices else None,
    )  # fmt: skip
    return Parameter(name, Parameter.KEYWORD_ONLY, default=info, annotation=kind | None)


def _default(item: Field[object]) -> str:
    """What holds where an option is not given, by recipe unless all agree; nothing where none has a value."""
    recipes: dict[str, list[str]] = {}
    for name in RECIPES:
        value = getattr(_shipped(name), item.name)
        recipes.setdefault(item.metadata["none"] if value is None else _shown(value), []).append(name)
    if len(recipes) == 1:
        return next(iter(recipes))
    return ", ".join(f"{value} ({', '.join(names)})" for value, names in recipes.items() if value)


@cache
def _shipped(name: str) -> Recipe:
    return load_recipe(name)


def _shown(value: object) -> str:
    """A recipe's value as its option is written."""
    match value:
        case (int(low), int(high)):
            return f"{low}:{high or ''}"
        case tuple():
            return ",".join(value)
        case float():
            return f"{value:g}"
    return str(value)


def _window(text: str) -> tuple[int, int]:
    """`2:9` -> (2, 9); `2:` has no upper bound, written 0."""
    low, colon, high = text.partition(":")
    try:
        return int(low), int(high or 0) if colon else int(low)
    except ValueError:
        raise UserError(f"--test-references {text}: give LEAST:MOST, such as 2:9.") from None


def _column_names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


METAVARS = {"test_references": "LEAST:MOST", "balance": "COLUMN,..."}
PARSERS: dict[str, Callable[[str], object]] = {"test_references": _window, "balance": _column_names}


def next_line(*words: object) -> str:
    """The end of a command's last line: the command to run next, which runs as it is printed."""
    return "Next: " + shlex.join(["ffhqref", *map(str, words)])


def after_building(out: Path) -> str:
    """What to run next on a built dataset, by the targets that it has."""
    from ffhqref.core.lists import read_mapping

    for split, more in (("test", ()), ("val", ("--split", "val"))):
        if read_mapping(out / "reference_mapping" / f"{split}_references.csv"):
            return next_line("degrade", "--level", "severe", *more, out)
    if read_mapping(out / "reference_mapping" / "train_references.csv"):
        return next_line("sheet", out)
    return next_line("doctor")
