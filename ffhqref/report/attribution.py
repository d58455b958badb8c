"""Who made the photographs and under which licences: what `download` kept, for the photos of a dataset."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ffhqref.core import lists, tables
from ffhqref.report.facts import Facts


@dataclass(frozen=True)
class Attribution:
    """The rows of a dataset's photos, ordered by name, and how many photos no row is about."""

    rows: list[tables.TableRow]
    missing: int

    def licences(self) -> list[tuple[str, str, int]]:
        """(licence, its address, photographs) of every licence, the commonest first."""
        counts = Counter((row[tables.LICENCE] or "", row[tables.LICENCE_URL] or "") for row in self.rows)
        return [(*key, count) for key, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]


def read(known: Facts) -> Attribution | None:
    """What is known of the photos' authors, or None where `download` left nothing in or above the folder."""
    for folder in (known.images, *known.images.parents[:2]):
        path = folder / tables.ATTRIBUTION_FILE
        if path.is_file():
            inside = known.images.relative_to(folder)
            names = {(inside / name).as_posix(): name for name in known.faces.names}
            table = tables.read(path, tables.ATTRIBUTION).to_pylist()
            rows = [
                {**row, tables.IMAGE: names[row[tables.IMAGE]]} for row in table if row[tables.IMAGE] in names
            ]
            rows.sort(key=lambda row: str(row[tables.IMAGE]))
            return Attribution(rows, len(names) - len(rows)) if rows else None
    return None


def path_of(out: Path) -> Path:
    """Where the list of authors of the dataset `out` lies."""
    return out / "attribution.csv"


def write(known: Facts) -> Attribution | None:
    """Write OUT/attribution.csv where anything is known; an old one goes where nothing is."""
    found = read(known)
    columns = tables.ATTRIBUTION.names
    if found is None:
        path_of(known.out).unlink(missing_ok=True)
    else:
        lists.write_csv(path_of(known.out), columns, ([row[name] for name in columns] for row in found.rows))
    return found
