"""TOML files in manifests/ as frozen dataclasses: recipes and known networks."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ffhqref.core.store import UserError, digest_file, read_text

T = TypeVar("T")
FILES = ("detector", "embedder", "landmarks", "identities", "splits", "targets", "exclude", "labels")

Align = Literal["detect", "landmarks", "crop"]
Faces = Literal["largest", "all"]
Grouping = Literal["components", "average"]
Order = Literal["fps", "nearest", "name"]
Start = Literal["nearest", "farthest"]
Dedupe = Literal["off", "exact", "near"]


def manifests() -> Path:
    """The folder of the shipped TOML files: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent.parent
    inside = package / "manifests"
    return inside if inside.is_dir() else package.parent / "manifests"


def locate(name_or_file: str, folder: str = "") -> Path:
    """A shipped manifest by its name, or a user's own TOML by its path; UserError where neither is there."""
    shipped = manifests() / folder / f"{name_or_file}.toml"
    if "/" not in name_or_file and shipped.is_file():
        return shipped
    if Path(name_or_file).is_file():
        return Path(name_or_file)
    known = ", ".join(sorted(path.stem for path in (manifests() / folder).glob("*.toml")))
    raise UserError(f"There is no file {name_or_file} and no manifest of that name (there are {known}).")


def load_toml(path: Path) -> dict[str, Any]:
    """A TOML file as nested dicts; UserError with the line where it is not TOML."""
    try:
        return tomllib.loads(read_text(path, "a TOML file"))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not valid TOML: {error}.") from None


def build(kind: type[T], table: Mapping[str, Any], where: str) -> T:
    """A frozen dataclass from a TOML table: unknown keys and wrong types are UserErrors that name them."""
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    for key in table:
        if key not in known:
            raise UserError(f"{where}: unknown key {key!r}; known are {', '.join(known)}.")
    hints = get_type_hints(kind)
    values = {key: _checked(value, hints[key], f"{where}: {key}") for key, value in table.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise UserError(f"{where}: {str(error).partition(') ')[2]}.") from None
    except ValueError as error:
        raise UserError(f"{where}: {error}.") from None


def _checked(value: Any, hint: Any, where: str) -> Any:
    """`value` if it fits the type hint (an int serves as a float, a list as a tuple), else UserError."""
    origin, options = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        fitting = [option for option in options if option is not type(None)]
        return None if value is None else _checked(value, fitting[0], where)
    if origin is Literal:
        if value in options:
            return value
        raise UserError(f"{where} is {value!r}: give one of {', '.join(map(str, options))}.")
    if origin is tuple and isinstance(value, (list, tuple)):
        items = options[:1] * len(value) if options[-1] is Ellipsis else options
        if len(items) == len(value):
            return tuple(_checked(item, kind, where) for item, kind in zip(value, items, strict=True))
    elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif isinstance(hint, type) and type(value) is hint:
        return value
    raise UserError(f"{where} is {value!r}: give {getattr(hint, '__name__', hint)}.")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a dataset is built. Distances are the paper's: 1 - cosine similarity, strictly below.

    `distance` None means the one that `weights.toml` knows for the network. Quotas of identities are
    whole numbers (`val_identities`) or fractions of the identities that can be drawn (`val`).
    `test_references` is the least and the greatest number of references of a test target; 0 for the
    greatest means no bound.
    """

    name: str
    align: Align = "detect"
    faces: Faces = "largest"
    min_face: int = 40  # px, shorter side of the face's box
    min_score: float = 0.5  # of the detector, 0..1
    det_size: int = 320  # px, side of the square the detector sees first
    detector: str | None = None  # files: the networks, and what the user gives beside the photographs
    embedder: str | None = None
    landmarks: str | None = None
    identities: str | None = None  # CSV (image, identity) of known people, in place of grouping
    splits: str | None = None  # folder of {train,val,test}_image.txt to replay
    targets: str | None = None  # list of who may be a target
    exclude: str | None = None  # list of who is left out
    labels: str | None = None  # CSV of labels to balance over
    limit: int | None = None  # the first so many photos only
    distance: float | None = None
    min_distance: float = 0.1
    grouping: Grouping = "components"
    dedupe: Dedupe = "off"
    val_identities: int | None = None
    test_identities: int | None = None
    val: float | None = None
    test: float | None = None
    test_references: tuple[int, int] = (2, 9)
    max_references: int | None = None
    order: Order = "fps"
    fps_start: Start = "nearest"
    balance: tuple[str, ...] = ()  # columns of the label CSV over which val and test are balanced
    seed: int = 0

    def __post_init__(self) -> None:
        checks = [
            (self.distance is None or 0 < self.distance <= 2, "distance must be above 0 and at most 2"),
            (0 <= self.min_distance <= 2, "min_distance must be from 0 to 2"),
            (self.min_distance < (self.distance or 9), "min_distance must be below distance"),
            (0 <= self.min_score <= 1, "min_score must be from 0 to 1"),
            (self.min_face >= 0, "min_face must not be negative"),
            (32 <= self.det_size <= 4096 and self.det_size % 32 == 0, "det_size must be a multiple of 32"),
            (0 <= (self.val or 0) <= 1 and 0 <= (self.test or 0) <= 1, "val and test must be from 0 to 1"),
            ((self.val or 0) + (self.test or 0) <= 1, "val and test together must be at most 1"),
            (min(self.val_identities or 0, self.test_identities or 0) >= 0, "quotas must not be negative"),
            (self.test_references[0] >= 1, "test_references must start at 1 or more"),
            (
                self.test_references[1] == 0 or self.test_references[0] <= self.test_references[1],
                "test_references must not be reversed",
            ),
            (self.max_references is None or self.max_references >= 1, "max_references must be at least 1"),
            (self.limit is None or self.limit >= 1, "limit must be at least 1"),
        ]
        for good, fault in checks:
            if not good:
                raise ValueError(fault)

    def needed_distance(self) -> float:
        """The distance; UserError where neither recipe, option nor known network gave one."""
        if self.distance is None:
            raise UserError(
                "This embedder is not in weights.toml, so no distance is known for it: give --distance "
                "(`ffhqref calibrate` finds one from photographs of known people)."
            )
        return self.distance


def load_recipe(name_or_file: str, **overrides: Any) -> Recipe:
    """A recipe by name or file; overrides that are not None take its values' place.

    Files that a recipe names are below the recipe's own folder; those of overrides are the caller's.
    """
    path = locate(name_or_file)
    table = {"name": path.stem, **load_toml(path)}
    for key in FILES:
        if isinstance(table.get(key), str):
            table[key] = str((path.parent / table[key]).resolve())
    return override(build(Recipe, table, str(path)), **overrides)


def override(recipe: Recipe, **overrides: Any) -> Recipe:
    """The recipe with the given values in place of its own; a whole-number quota replaces a fraction."""
    hints = get_type_hints(Recipe)
    given = {key: value for key, value in overrides.items() if value is not None}
    given |= {key: _absolute(key, given[key]) for key in FILES if key in given}
    changes = {key: _checked(value, hints[key], f"--{key.replace('_', '-')}") for key, value in given.items()}
    for part in ("val", "test"):
        if part in given and f"{part}_identities" in given:
            raise UserError(f"Give either --{part} or --{part}-identities, not both.")
        if part in given:
            changes[f"{part}_identities"] = None
        if f"{part}_identities" in given:
            changes[part] = None
    try:
        return replace(recipe, **changes)
    except ValueError as error:
        raise UserError(f"Recipe {recipe.name}: {error}.") from None


def _absolute(key: str, file: str) -> str:
    """A file's whole path, which is kept as text with the dataset."""
    whole = str(Path(file).resolve())
    try:
        whole.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"--{key} {file!r}: its path is not UTF-8 and cannot be kept; rename it.") from None
    return whole


def to_toml(value: object) -> str:
    """A flat dataclass as TOML text (None is left out): what `load_recipe` reads back."""
    lines = []
    for key, item in asdict(value).items():  # type: ignore[call-overload]
        if item is not None:
            lines.append(f"{key} = {_toml_value(item)}\n")
    return "".join(lines)


def _toml_value(item: Any) -> str:
    if isinstance(item, bool):
        return str(item).lower()
    if isinstance(item, (tuple, list)):
        return "[" + ", ".join(map(_toml_value, item)) + "]"
    if isinstance(item, str):
        return json.dumps(item, ensure_ascii=False).replace("\x7f", "\\u007f")  # a TOML basic string
    return repr(item)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A network that is known by the SHA-256 of its file.

    `distance` is the one below which two photos show one person *for this network* (embedders only).
    """

    name: str
    kind: Literal["embedder", "detector", "restorer", "labels"]
    file: str
    sha256: str = ""  # empty where nobody published it
    distance: float | None = None
    distance_from: str = ""  # where the distance comes from
    licence: str = ""
    source: str = ""
    download: str = ""  # the source of `ffhqref download` that brings it


def known_weights() -> list[Weights]:
    """Every network of weights.toml."""
    path = manifests() / "weights.toml"
    return [build(Weights, table, str(path)) for table in load_toml(path).get("network", [])]


def known_distance(file: Path) -> float | None:
    """The distance that belongs to an embedder's file, or None where the network is not known.

    A network is known by its SHA-256; where nobody published one, by its file's name.
    """
    digest = digest_file(file)
    for network in known_weights():
        if network.sha256 == digest or (not network.sha256 and network.file == file.name):
            return network.distance
    return None


def with_known_distance(recipe: Recipe) -> Recipe:
    """The recipe with the distance of its embedder, where none was given and the network is known."""
    if recipe.distance is not None or not recipe.embedder or not Path(recipe.embedder).is_file():
        return recipe
    return override(recipe, distance=known_distance(Path(recipe.embedder)))
