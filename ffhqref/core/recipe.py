"""TOML files in manifests/ as frozen dataclasses: recipes and known networks."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ffhqref.core.store import UserError, digest_file, read_text

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Table = TypeVar("Table", bound="DataclassInstance")
V = TypeVar("V")
RECIPES = ("photos", "celebahq", "ffhq-ref")  # that are shipped for photographs; the first is the default
IN_WORDS: dict[object, str] = {
    int: "a whole number",
    float: "a number",
    str: "a string",
    bool: "true or false",
}

Align = Literal["detect", "landmarks", "crop"]
Faces = Literal["largest", "all"]
Grouping = Literal["components", "average"]
Order = Literal["fps", "nearest", "name", "pose", "quality", "random"]
Start = Literal["nearest", "farthest"]
Dedupe = Literal["off", "exact", "near"]
Unmatched = Literal["error", "ignore"]
Cropping = Literal["auto", "on", "off"]
CropFormat = Literal["png", "webp"]
CROP_SIZES = (512, 1024)
JoinAcross = Literal["hold", "train", "drop"]
NewOfTest = Literal["test", "hold"]


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
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid TOML: {_toml_fault(error)}.") from None


def _toml_fault(error: Exception) -> str:
    """What tomllib found: also nesting and numbers that no honest file has, which it meets unprepared."""
    if isinstance(error, RecursionError):
        return "its brackets are nested too deep"
    return str(error) if isinstance(error, tomllib.TOMLDecodeError) else "a number in it has too many digits"


def build(kind: type[Table], table: Mapping[str, object], where: str) -> Table:
    """A frozen dataclass from a TOML table: unknown keys and wrong values are UserErrors that name them."""
    hints = get_type_hints(kind)
    for key in table:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(hints)}"
            raise UserError(f"{where}: unknown key {key!r} ({hint}).")
    for item in fields(kind):
        if item.name not in table and item.default is MISSING and item.default_factory is MISSING:
            raise UserError(f"{where}: {item.name} is missing.")
    values = {key: _checked_value(value, hints[key], f"{where}: {key}") for key, value in table.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise UserError(f"{where}: {error}.") from None


def _checked_value(value: object, hint: object, where: str) -> object:
    """`value` if it fits the type hint (an int serves as a float, a list as a tuple), else UserError."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):  # written `kind | None` everywhere
        return None if value is None else _checked_value(value, parts[0], where)
    if origin is tuple and isinstance(value, (list, tuple)):
        return _checked_items(value, hint, where)
    if isinstance(hint, type) and is_dataclass(hint) and isinstance(value, Mapping):
        return build(hint, value, where)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if type(value) is hint or (origin is Literal and value in parts):
        return value
    raise UserError(f"{where} is {value!r}: give {_in_words(hint)}.")


def _checked_items(values: Sequence[object], hint: object, where: str) -> tuple[object, ...]:
    """A list as the tuple that the type hint wants; `tuple[kind, ...]` takes any number of items."""
    kinds = get_args(hint)
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(values)
    if len(kinds) != len(values):
        raise UserError(f"{where} is {values!r}: give {_in_words(hint)}.")
    return tuple(_checked_value(item, kind, where) for item, kind in zip(values, kinds, strict=True))


def _in_words(hint: object) -> str:
    """In words, what fits a type hint."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin is tuple:
        each = IN_WORDS.get(parts[0], "a table").removeprefix("a ") + "s"
        return f"a list of {each}" if parts[-1] is Ellipsis else f"{len(parts)} {each} in brackets"
    return IN_WORDS.get(hint, "a table")


def setting(
    default: V, help: str, *, file: bool = False, none: str = "",
    least: float | None = None, greatest: float | None = None,
) -> V:  # fmt: skip
    """A field of a recipe with what its option needs: the help, whether it names a file, what None means.

    Values outside `least` and `greatest` are refused.
    """
    metadata = {"help": help, "file": file, "none": none, "least": least, "greatest": greatest}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a dataset is built. Distances are the paper's: 1 - cosine similarity, strictly below.

    `distance` None means the one that `weights.toml` knows for the network. Quotas of identities are
    whole numbers (`val_identities`) or fractions of the identities that can be drawn (`val`).
    `test_references` is the least and the greatest number of references of a test target; 0 for the
    greatest means no bound. Each field but the name is an option of `build-refs`.
    """

    name: str
    align: Align = setting(
        "detect", "Find faces with the detector, by --landmarks, or take the photo's middle (crop)."
    )
    faces: Faces = setting("largest", "Use the largest face of a photo, or make a photo of each.")
    crop: Cropping = setting(
        "off", "Cut each face out as FFHQ frames it; auto: unless the photos are framed so already."
    )
    crop_size: int = setting(
        512, "Width and height of a crop, px: 512, or 1024 where the face is large enough.", least=1
    )
    crop_format: CropFormat = setting("png", "Format of the crops; webp is lossless, too, and slower.")
    min_eyes: float = setting(
        0.0, "Crops with fewer px between the eyes in the photo are references only.", least=0
    )
    max_padding: float = setting(
        1.0, "Crops of which a larger part lies outside the photo are references only.", least=0, greatest=1
    )
    min_face: int = setting(40, "Smallest face to use: shorter side of its box, px.", least=0)
    min_score: float = setting(0.5, "Lowest detector score to accept, 0 to 1.", least=0, greatest=1)
    det_size: int = setting(
        320, "Side of the square that the detector sees, px, a multiple of 32.", least=32, greatest=4096
    )
    detector: str | None = setting(None, "SCRFD detector with landmarks, an ONNX file.", file=True)
    embedder: str | None = setting(None, "ArcFace network, an ONNX file.", file=True)
    landmarks: str | None = setting(
        None, "For --align landmarks: FFHQ's JSON of 68 points, or a CSV of five.", file=True
    )
    identities: str | None = setting(
        None, "CSV (image, identity) of known people, instead of grouping.", file=True
    )
    splits: str | None = setting(None, "Folder of published {train,val,test}_image.txt to replay.", file=True)
    targets: str | None = setting(
        None, "List of the photos that may be targets; others are references only.", file=True
    )
    exclude: str | None = setting(None, "List of photos to leave out, one name per line.", file=True)
    exclude_unmatched: Unmatched = setting(
        "error", "Excluded names that are no photograph: an error, or ignored."
    )
    labels: str | None = setting(None, "CSV of labels by image, for --balance.", file=True)
    limit: int | None = setting(None, "Use only the first N photos.", none="all", least=1)
    distance: float | None = setting(
        None, "Photos strictly below this distance (1 - cosine) show one person.",
        none="the embedder's own, where known",
    )  # fmt: skip
    min_distance: float = setting(
        0.1, "Test references are at least this far away, so no near-duplicates.", least=0, greatest=2
    )
    grouping: Grouping = setting(
        "components", "Connected components, as in the paper, or average linkage, which does not chain."
    )
    dedupe: Dedupe = setting(
        "off", "Copies of a photo that are not targets: none, exact ones, near ones too."
    )
    val_identities: int | None = setting(None, "Number of identities in val.", least=0)
    test_identities: int | None = setting(None, "Number of identities in test.", least=0)
    val: float | None = setting(None, "Fraction of the eligible identities in val.", least=0, greatest=1)
    test: float | None = setting(None, "Fraction of the eligible identities in test.", least=0, greatest=1)
    test_references: tuple[int, int] = setting(
        (2, 9), "References of a test target, such as 2:9; 2: has no upper bound."
    )
    max_references: int | None = setting(
        None, "Keep at most N references per target, the best ones.", none="all", least=1
    )
    order: Order = setting(
        "fps",
        "Order of references: farthest point first, nearest first, by name, most like the target's pose, "
        "most pixels between the eyes, or by a hash of --seed.",
    )
    fps_start: Start = setting("nearest", "The reference that fps starts with.")
    balance: tuple[str, ...] = setting((), "Columns of --labels over which val and test are balanced.")
    seed: int = setting(0, "Seed of the random draw of val and test.")
    join_across: JoinAcross = setting(
        "hold", "New photos that join known people of two splits: held out and reported, train, or left out."
    )
    new_of_test: NewOfTest = setting(
        "test", "New photos of people in test: go to test, or are held out, so that it stays as it is."
    )

    def __post_init__(self) -> None:
        for item in fields(self):
            _check_range(item, getattr(self, item.name))
        distance, (low, high) = self.distance, self.test_references
        rules = [
            (distance is None or 0 < distance <= 2, "distance must be above 0 and at most 2"),
            (distance is None or self.min_distance < distance, "min_distance must be below distance"),
            (self.crop_size in CROP_SIZES, "crop_size must be 512 or 1024"),
            (self.det_size % 32 == 0, "det_size must be a multiple of 32"),
            ((self.val or 0) + (self.test or 0) <= 1, "val and test together must be at most 1"),
            (low >= 1, "test_references must start at 1 or more"),
            (high == 0 or low <= high, "test_references must not be reversed"),
        ]
        for good, fault in rules:
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


def _check_range(item: Field[object], value: float | None) -> None:
    """ValueError where a setting's value is outside its range, or not a number."""
    least, greatest = item.metadata.get("least"), item.metadata.get("greatest")
    if value is None or least is None:
        return
    if greatest is None and not value >= least:
        raise ValueError(f"{item.name} must be at least {least}")
    if greatest is not None and not least <= value <= greatest:
        raise ValueError(f"{item.name} must be from {least} to {greatest}")


FILES = tuple(item.name for item in fields(Recipe) if item.metadata.get("file"))


def load_recipe(name_or_file: str, **overrides: object) -> Recipe:
    """A recipe by name or file; overrides that are not None take its values' place.

    Files that a recipe names are below the recipe's own folder; those of overrides are the caller's.
    """
    path = locate(name_or_file)
    table = {"name": path.stem, **load_toml(path)}
    for key in FILES:
        if isinstance(table.get(key), str):
            table[key] = str((path.parent / table[key]).resolve())
    return override(build(Recipe, table, str(path)), **overrides)


def override(recipe: Recipe, **overrides: object) -> Recipe:
    """The recipe with the given values in place of its own; a whole-number quota replaces a fraction."""
    hints = get_type_hints(Recipe)
    given = {key: value for key, value in overrides.items() if value is not None}
    given |= {key: _absolute(key, given[key]) for key in FILES if key in given}
    changes: dict[str, Any] = {
        key: _checked_value(value, hints[key], f"--{key.replace('_', '-')}") for key, value in given.items()
    }
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


def _absolute(key: str, file: object) -> str:
    """A file's whole path, which is kept as text with the dataset."""
    whole = str(Path(str(file)).resolve())
    try:
        whole.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(
            f"--{key} {str(file)!r}: its path is not UTF-8 and cannot be kept; rename it."
        ) from None
    return whole


def to_toml(value: DataclassInstance) -> str:
    """A flat dataclass as TOML text (None is left out): what `load_recipe` reads back."""
    lines = []
    for key, item in asdict(value).items():
        if item is not None:
            lines.append(f"{key} = {_toml_value(item)}\n")
    return "".join(lines)


def _toml_value(item: object) -> str:
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
