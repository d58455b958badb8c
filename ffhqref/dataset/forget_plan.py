"""What `forget` is about to do, written down first: which photos, and what hangs on them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ffhqref.core import lists, store, tables
from ffhqref.core.store import UserError
from ffhqref.dataset.references import csv_path
from ffhqref.dataset.trace import Traces

OURS = ("faces", "images512x512")  # folders below a dataset whose photographs were cut out by us


@dataclass(frozen=True)
class Plan:
    """What a run is to forget: names, digests of their pixels and crops, people who are named after them
    (and their new names), and restored pictures that were made with them as references."""

    names: tuple[str, ...]
    pixels: tuple[str, ...]
    crops: tuple[str, ...]
    relabel: Mapping[str, str]
    made_with: tuple[str, ...]
    references: bool  # whether there were mappings, which are to be made again


def plan_path(out: Path) -> Path:
    """Where the plan lies until its work is done."""
    return out / "receipts" / "forget-plan.json"


def read_plan(out: Path) -> Plan | None:
    """The plan of a run that did not end, if any; UserError where it is damaged."""
    path = plan_path(out)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        lists = {key: tuple(map(str, content[key])) for key in ("names", "pixels", "crops", "made_with")}
        return Plan(**lists, relabel=dict(content["relabel"]), references=bool(content["references"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UserError(
            f"{path} is damaged: remove it and run `ffhqref forget` with the same names."
        ) from None


def own_photographs(out: Path) -> Path | None:
    """The folder of photographs that `embed` read, as a path below `out` where it is there; None of crops."""
    receipt = store.read_receipt(out, "embed")
    folder = Path(str(receipt.notes.get("images", ""))) if receipt else Path()
    if not receipt or not folder.is_dir():
        return None
    root = out.resolve()
    if root in folder.parents:
        folder = out / folder.relative_to(root)
        return None if folder.relative_to(out).parts[0] in OURS else folder
    return folder


def rows_of(out: Path) -> list[tuple[str, str, str, str]]:
    """(name, pixels, crop, status) of every photo of the finished embeddings."""
    receipt = store.read_receipt(out, "embed")
    columns = (tables.IMAGE, tables.PIXELS, tables.CROP, tables.STATUS)
    rows: list[tuple[str, str, str, str]] = []
    for name in receipt.outputs if receipt else ():
        path = store.below(out, name)
        if path.is_file():
            table = tables.read(path, tables.EMBEDDINGS, columns)
            rows += zip(*(tables.texts(table, column) for column in columns), strict=True)
    return rows


def photos_of(out: Path, person: str) -> list[str]:
    """The photos of an identity."""
    path = tables.path_of(out, "identities")
    if not path.is_file():
        raise UserError(f"{out} has no identities yet: give names of photos, or run `ffhqref cluster` first.")
    known = tables.read_by_image(path, tables.IDENTITIES, tables.IDENTITY)
    return [name for name, identity in known.items() if identity == person]


def make_plan(out: Path, names: Sequence[str], person: str | None) -> Plan:
    rows = rows_of(out)
    wanted = _resolved(out, names, [row[0] for row in rows])
    if person is not None:
        found = photos_of(out, person)
        if not found:
            raise UserError(f"{out} has no identity {person!r}: take one from its tables/identities.parquet.")
        wanted |= set(found)
    if not wanted:
        raise UserError("Say what to forget: names of photos, --person, or --list with a file of names.")
    pixels = {row[1] for row in rows if row[0] in wanted and row[1]}
    wanted |= {row[0] for row in rows if row[1] in pixels}  # copies under other names
    if not any(status == "ok" for name, _, _, status in rows if name not in wanted):
        raise UserError(f"These are all photos of {out} that can be used: remove the whole folder instead.")
    crops = {row[2] for row in rows if row[0] in wanted and row[2]}
    return Plan(
        names=tuple(sorted(wanted)), pixels=tuple(sorted(pixels)), crops=tuple(sorted(crops)),
        relabel=_relabelled(out, wanted), made_with=tuple(sorted(_made_with(out, wanted))),
        references=csv_path(out, "train").is_file(),
    )  # fmt: skip


def _resolved(out: Path, names: Sequence[str], known: Sequence[str]) -> set[str]:
    """Names as the dataset has them, a photograph with its faces; UserError where one is not there."""
    there, found = set(known), set()
    for name in names:
        store.below(out, name)  # UserError where it would leave
        mine = {name} & there | {one for one in known if one.startswith(f"{name}/")}
        if not mine:
            example = f" such as {min(there)}" if there else ""
            raise UserError(
                f"{out} has no photo {name!r}, or has forgotten it already: give names as they stand in its "
                f"lists,{example} (nothing was changed)."
            )
        found |= {name} | mine
    return found


def _relabelled(out: Path, gone: set[str]) -> dict[str, str]:
    """People and components named after a photo that goes -> their first photo that stays, or nothing."""
    path = tables.path_of(out, "identities")
    if not path.is_file():
        return {}
    named: dict[str, str] = {}
    table = tables.read(path, tables.IDENTITIES)
    columns = [tables.texts(table, column) for column in tables.IDENTITIES.names]
    labels = {label for name, *both in zip(*columns, strict=True) if name in gone for label in both}
    for label in sorted(labels):
        left = [name for name, *both in zip(*columns, strict=True) if label in both and name not in gone]
        if not left:
            named[label] = ""
        elif label in gone or label.removeprefix("photo:") in gone:
            named[label] = left[0]
    return named


def _made_with(out: Path, gone: set[str]) -> set[str]:
    """Restored pictures of targets that have one of these as a reference."""
    return {
        row.lq
        for split in tables.SPLITS
        if csv_path(out, split).is_file()
        for target, row in lists.read_mapping(csv_path(out, split)).items()
        if target not in gone and gone.intersection(row.references)
    }


def traces_of(out: Path, plan: Plan) -> Traces:
    stay = {row[0] for row in rows_of(out)} - set(plan.names)
    return Traces(plan.names, (*plan.pixels, *plan.crops), stay)
