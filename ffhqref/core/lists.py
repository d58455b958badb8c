"""CSV files and lists of names: the published reference mappings, and what users bring."""

from __future__ import annotations

import ast
import csv
import io
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ffhqref.core.arrays import Float64
from ffhqref.core.store import UserError, read_text, write_text
from ffhqref.core.tables import DISTANCE, GT_IMAGE, IDENTITY, IMAGE, LQ_IMAGE, REF_IMAGE


def reference_csv(rows: Iterable[tuple[str, Sequence[str]]], with_lq: bool) -> str:
    """The published mapping's text: `gt_image[,lq_image],ref_image`, ref_image a Python list literal.

    Its dialect is that of pandas' `to_csv(index=False)`: minimal quoting, newline line ends.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([GT_IMAGE, LQ_IMAGE, REF_IMAGE] if with_lq else [GT_IMAGE, REF_IMAGE])
    for target, references in rows:
        lq = [Path(target).with_suffix(".png").as_posix()] if with_lq else []
        writer.writerow([target, *lq, str(list(references))])
    return text.getvalue()


def write_rates(path: Path, distances: Float64, true: Sequence[Float64], false: Sequence[Float64]) -> None:
    """calibration.csv: at each distance the true and the false match rate, each with its 95 % interval."""
    lines = [f"{DISTANCE},TAR,TAR_low,TAR_high,FAR,FAR_low,FAR_high"]
    for distance, *rates in zip(distances, *true, *false, strict=True):
        lines.append(f"{distance:.3f}," + ",".join(f"{rate:.9g}" for rate in rates))
    write_text(path, "\n".join(lines) + "\n")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV of these columns: minimal quoting, newline line ends."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_csv(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A user's CSV with at least these columns, every field as text; UserError where it is not one."""
    text = io.StringIO(read_text(path, "a CSV"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(text, dtype=str, keep_default_na=False, index_col=False)
    except pd.errors.ParserWarning:  # without index_col, pandas takes the first column for row names
        raise UserError(
            f"{path} has lines with more fields than its header names, such as a comma at their end: "
            "remove those commas, or name the columns."
        ) from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        raise UserError(f"{path} is not a CSV ({str(error).splitlines()[0]}).") from None
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        wanted = ", ".join(columns)
        raise UserError(f"{path} has no column {', '.join(missing)}: the header must name {wanted}.")
    return frame


def read_labels(path: Path) -> dict[str, str]:
    """A CSV of image and identity: who is known to be on each photograph."""
    frame = read_csv(path, [IMAGE, IDENTITY])
    return dict(zip(frame[IMAGE], frame[IDENTITY], strict=True))


@dataclass(frozen=True)
class MappingRow:
    """What a line of a reference mapping says of its target."""

    lq: str  # file name of the low-quality picture; the target's with `.png` where the line names none
    references: list[str]  # best first


def read_references(path: Path) -> dict[str, list[str]]:
    """A reference mapping, published or ours: target -> names of references, best first."""
    return {target: row.references for target, row in read_mapping(path).items()}


def read_mapping(path: Path) -> dict[str, MappingRow]:
    """A reference mapping, published or ours, with the low-quality picture that each line names."""
    frame = read_csv(path, [GT_IMAGE, REF_IMAGE])
    low = frame[LQ_IMAGE] if LQ_IMAGE in frame.columns else [""] * len(frame)
    mapping: dict[str, MappingRow] = {}
    lines = zip(frame[GT_IMAGE], low, frame[REF_IMAGE], strict=True)
    for line, (target, lq, literal) in enumerate(lines, 2):
        try:
            names = ast.literal_eval(literal)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            names = None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{path}, line {line}: ref_image must be a list of names such as ['a.png'].")
        if target in mapping:
            raise UserError(f"{path}, line {line}: {target} stands twice; a target has one line.")
        mapping[target] = MappingRow(lq or os.path.splitext(target)[0] + ".png", names)
    return mapping


def read_list(path: Path) -> list[str]:
    """A text file of image names, one a line; empty lines are passed over.

    Only what follows a name is stripped: a name may begin with a space, and ends in its suffix.
    """
    lines = read_text(path, "a text file with one image name a line").split("\n")
    return [line.rstrip() for line in lines if line.strip()]


def write_list(path: Path, names: Iterable[str]) -> None:
    """Write image names, one a line."""
    write_text(path, "".join(f"{name}\n" for name in names))
