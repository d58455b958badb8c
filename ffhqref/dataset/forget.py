"""forget: photos leave a dataset without a trace, and nobody else moves.

A plan is written first, so that a killed run goes on; it is the last file that holds the names, and is
removed when a scan of all others has found none. Groups and splits are what they were, less the photos;
references are chosen again, so that other targets get others in place of those that are gone.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ffhqref.core import images, lists, store, tables
from ffhqref.core.store import Receipt, UserError
from ffhqref.dataset import crops, people, shards, tombstones, trace, verdicts
from ffhqref.dataset.build import recipe_of
from ffhqref.dataset.cluster import find_duplicates
from ffhqref.dataset.forget_plan import (
    OURS,
    Plan,
    make_plan,
    own_photographs,
    photos_of,
    plan_path,
    read_plan,
    traces_of,
)
from ffhqref.dataset.references import csv_path, write_references
from ffhqref.dataset.split import list_path
from ffhqref.dataset.trace import Scan, Traces

REBUILT = ("embed", "cluster", "split", "references")  # stages whose receipts are kept true
PAGES = ("report.html", "README.md", "croissant.json")  # of `report`, which makes them again


TrainedOn = Callable[[Path], bool]  # whether a training run used this dataset's lists as they are


@dataclass
class Forgotten:
    """What was done, or would be: files by what becomes of them, and what others have to do."""

    photos: int
    removed: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    refilled: int = 0  # targets that had one of them as a reference
    scan: Scan = field(default_factory=Scan)
    photographs: list[Path] = field(default_factory=list)  # the user's own, which are still there
    runs: dict[Path, bool] = field(
        default_factory=dict
    )  # of training: whether it is known that they saw them
    reported: bool = False  # whether there was a report, to be written anew


def forget_photos(
    out: Path,
    names: Sequence[str] = (),
    *,
    person: str | None = None,
    runs: Path | None = None,
    trained_on: TrainedOn = lambda run: False,
    dry_run: bool = False,
) -> Forgotten:
    """Forget photos of the dataset `out` by name (of a photograph with several faces: all of them), or all
    of a person; without either, finish what a killed run began.

    Training runs below `out` and `runs` are named, as they cannot forget; `trained_on` says of one whether
    it was trained on this dataset's lists as they are. UserError where a name is not there, `out` is no
    dataset or is being written, or a link is in the way; and where a file that cannot be changed still
    mentions a name, which it names.
    """
    if not (out / "receipts").is_dir() or not (store.read_receipt(out, "embed") or plan_path(out).is_file()):
        raise UserError(f"{out} is no dataset with embeddings: give the folder that `build-refs` wrote.")
    with ExitStack() as held:
        trace.refuse_links(out, _kept_out(out))
        _lock_all(out, held)
        seen_by = _Runs(out, runs, trained_on)
        unfinished = read_plan(out)
        if unfinished and dry_run:
            return _preview(out, unfinished, seen_by)
        if unfinished:
            done = _carry_out(out, unfinished, seen_by)
            names = [name for name in names if name not in unfinished.names]
            if not names and (person is None or not photos_of(out, person)):
                return done
        plan = make_plan(out, names, person)
        if dry_run:
            return _preview(out, plan, seen_by)
        store.write_text(plan_path(out), json.dumps(asdict(plan), indent=1) + "\n")
        return _carry_out(out, plan, seen_by)


def _lock_all(out: Path, held: ExitStack) -> None:
    """Be the one who writes the dataset, and every folder in it that has a writer of its own."""
    for path in [out / store.LOCK_NAME, *sorted(out.rglob(store.LOCK_NAME))]:
        if path.parent == out or path.is_file():
            held.enter_context(store.lock(path.parent, "forget"))


def _kept_out(out: Path) -> list[Path]:
    """What is not looked at: the plan, and the user's own photographs where they lie below the dataset."""
    return [plan_path(out), *([own] if (own := own_photographs(out)) and out in own.parents else [])]


# ---- doing it ------------------------------------------------------------------------------------


def _carry_out(out: Path, plan: Plan, runs: _Runs) -> Forgotten:
    """Everything, in an order in which each step can be done again."""
    done = _outcome(out, plan, runs)
    tombstones.add(out, [*plan.pixels])
    store.receipt_path(out, "verify").unlink(missing_ok=True)
    traces = traces_of(out, plan)
    _rewrite_embeddings(out, set(plan.names), done)
    _rewrite_verdicts(out, traces, done)
    _forget_in_ledger(out, plan)
    for path in list(_doomed(out, plan)):
        done.removed.append(_shown(out, path))
        trace.remove(out, path)
    _strip_mappings(out, set(plan.names))
    for path in list(trace.walk(out, _kept_out(out))):
        what = trace.erase(out, path, traces, plan.relabel)
        if what:
            (done.removed if what == "removed" else done.changed).append(_shown(out, path))
    _drop_results(out, plan)
    _restamp(out, plan)
    done.scan = trace.scan(out, traces, _kept_out(out))
    if done.scan.mentions:
        some = ", ".join(map(str, done.scan.mentions[:5]))
        raise UserError(
            f"{len(done.scan.mentions)} of {done.scan.files} files still mention what is to be forgotten "
            f"({some}): edit or remove them, and run `ffhqref forget {out}` again."
        )
    plan_path(out).unlink(missing_ok=True)
    store.flush(out / "receipts")
    return done


def _outcome(out: Path, plan: Plan, runs: _Runs) -> Forgotten:
    done = Forgotten(len(plan.names), refilled=len(plan.made_with) if plan.references else 0)
    folder = own_photographs(out)
    if folder:
        found = (images.find(folder, name) for name in plan.names)
        done.photographs = [path for path in found if path.is_file()]
    done.runs = runs.that_saw(plan)
    done.reported = any((out / page).is_file() for page in PAGES)
    return done


@dataclass(frozen=True)
class _Runs:
    out: Path
    others: Path | None
    trained_on: TrainedOn

    def that_saw(self, plan: Plan) -> dict[Path, bool]:
        """Runs that have checkpoints and may have seen the photos -> whether they are known to have."""
        path, found = tables.path_of(self.out, "splits"), {}
        splits = tables.read_by_image(path, tables.SPLIT_TABLE, tables.SPLIT) if path.is_file() else {}
        used = any(splits.get(name) in ("train", "val") for name in plan.names)
        for root in (self.out, *([self.others] if self.others else [])):
            for config in sorted(root.rglob("config.json")):
                if (config.parent / "checkpoints").is_dir():
                    same = self.trained_on(config.parent)
                    if used or not same:  # test photos are in no run on these very lists
                        found[config.parent] = same
        return found


def _shown(out: Path, path: Path) -> str:
    return path.relative_to(out).as_posix()


def _doomed(out: Path, plan: Plan) -> Iterator[Path]:
    """Files that go whole, since nobody can say what they show: sheets, pages, exports, rows of unfinished
    runs; and restored pictures that were made with the photos as references."""
    made_with, skipped = set(plan.made_with), set(_kept_out(out))
    exported = {root for root in _exports(out)}
    for path in trace.walk(out, skipped):
        relative = _shown(out, path)
        parent = path.parent
        if (
            (relative in PAGES and (out / "report.html").is_file())
            or _is_sheet(Path(relative))
            or exported.intersection(path.parents)
            or (parent == tables.embeddings_folder(out) and path.name.startswith((shards.ROWS, shards.NEW)))
        ):
            yield path
        for root in path.parents[: len(Path(relative).parts) - 1] if made_with else ():
            if path.relative_to(root).as_posix() in made_with and any(root.glob("run*.json")):
                yield path


def _is_sheet(relative: Path) -> bool:
    """Whether a picture shows many people, whose names are not in its path."""
    if len(relative.parts) == 1:
        return relative.suffix == ".png" and "sheet" in relative.stem
    of_photos = relative.parts[0] in (*OURS, "test_images", "val_images")
    return not of_photos and (relative.parent.name == "sheets" or relative.match("pictures/step-*.png"))


def _exports(out: Path) -> Iterator[Path]:
    """Folders below the dataset that an export wrote: their archives cannot be changed, so they go whole."""
    for path in sorted(out.rglob("export-*.jsonl")):
        if path.parent.name == "receipts" and path.parent.parent != out:
            yield path.parent.parent


def _rewrite_embeddings(out: Path, gone: set[str], done: Forgotten) -> None:
    """Shards without the photos, then their receipt: as if the photographs had not been there."""
    receipt = store.read_receipt(out, "embed")
    if receipt is None:
        raise UserError(f"{out} has lost its receipts/embed.json: run `ffhqref embed`, then forget again.")
    paths = [path for name in receipt.outputs if (path := store.below(out, name)).is_file()]
    for path in paths:
        table = shards.without(path, gone.__contains__)
        if table is not None:
            done.changed.append(_shown(out, path))
            tables.write(path, tables.EMBEDDINGS, table) if len(table) else path.unlink()
    paths = [path for path in paths if path.is_file()]
    for path in tables.embeddings_folder(out).glob("shard-*.parquet"):
        if path not in paths:  # of an earlier, larger run
            path.unlink()
    _restamp_embeddings(out, receipt, paths)


def _restamp_embeddings(out: Path, receipt: Receipt, paths: Sequence[Path]) -> None:
    inputs = dict(receipt.inputs)
    try:
        listing = [[*photo[:3], photo[4]] for path in paths for photo in shards.photos(path)]
        inputs["photos"] = store.digest(json.dumps(listing).encode())
    except KeyError:  # shards that `embed` did not make
        pass
    notes = {**receipt.notes, "statuses": tables.count_statuses(paths)}
    store.write_receipt(out, replace(receipt, inputs=inputs), paths, notes)


def _rewrite_verdicts(out: Path, traces: Traces, done: Forgotten) -> None:
    path = verdicts.path_of(out)
    lines = verdicts.read(path)
    kept = [line for line in lines if not any(map(traces.mentioned, map(str, asdict(line).values())))]
    if len(kept) != len(lines):
        store.write_text(path, verdicts.as_csv(kept))
        done.changed.append(_shown(out, path))


def _strip_mappings(out: Path, gone: set[str]) -> None:
    """Targets and references that go leave the mappings, before others are chosen: that may fail."""
    for split in tables.SPLITS:
        path = csv_path(out, split)
        if path.is_file():
            mapping = lists.read_mapping(path)
            rows = [
                (name, [one for one in row.references if one not in gone]) for name, row in mapping.items()
            ]
            left = [(name, references) for name, references in rows if name not in gone and references]
            store.write_text(path, lists.reference_csv(left, with_lq=split != "train"))


def _drop_results(out: Path, plan: Plan) -> None:
    """Take results that were made with the photos as references out of the records of restoring."""
    for path in sorted(out.rglob("run*.json")):
        content: Any = trace.loaded(path.read_text(encoding="utf-8", errors="replace"))
        finished = content.get("finished") if isinstance(content, dict) else None
        if isinstance(finished, dict) and finished.keys() & set(plan.made_with):
            left = {name: key for name, key in finished.items() if name not in plan.made_with}
            store.write_text(path, json.dumps(content | {"finished": left}, indent=1, sort_keys=True) + "\n")


def _restamp(out: Path, plan: Plan) -> None:
    """The receipts of what is still true, and references chosen again; others go: their stages say what is
    missing and make no more than that."""
    cluster = store.read_receipt(out, "cluster")
    if cluster and tables.path_of(out, "identities").is_file():
        notes = _rewrite_duplicates(out, cluster)
        inputs = {**cluster.inputs, "embed": store.fingerprint(out, "embed")}
        if "verdicts" in inputs:
            inputs["verdicts"] = store.digest_given(str(verdicts.path_of(out)))
        _write_again(out, replace(cluster, inputs=inputs), notes)
    split = store.read_receipt(out, "split")
    if cluster and split and tables.path_of(out, "splits").is_file():
        inputs = {**split.inputs, "barred": crops.digest(out)}
        inputs |= {stage: store.fingerprint(out, stage) for stage in ("embed", "cluster")}
        _write_again(out, replace(split, inputs=inputs), _counts(out))
    for path in (out / "receipts").glob("*.json"):
        receipt = store.read_receipt(out, path.stem)
        if receipt and path.stem not in REBUILT and store.damaged_outputs(out, receipt):
            path.unlink()
    if plan.references and split:
        write_references(out, recipe_of(out))


def _write_again(out: Path, receipt: Receipt, notes: Mapping[str, object]) -> None:
    there = [path for name in receipt.outputs if (path := store.below(out, name)).is_file()]
    store.write_receipt(out, receipt, there, {**receipt.notes, **notes})


def _rewrite_duplicates(out: Path, cluster: Receipt) -> dict[str, object]:
    """Copies anew, since one may have lost the photo that it was a copy of; and the counts of `cluster`."""
    embeddings = tables.load_embeddings(out)
    identity = tables.read_by_image(tables.path_of(out, "identities"), tables.IDENTITIES, tables.IDENTITY)
    person = np.unique([identity[name] for name in embeddings.names], return_inverse=True)[1]
    least = float(cluster.parameters.get("min_distance", 0))
    near, pairs = [np.zeros((0, 2), np.int32)], 0
    for left, right, distance in tables.iterate_pairs(tables.path_of(out, "pairs"), embeddings.names):
        near.append(np.stack([left, right], axis=1)[distance < least].astype(np.int32))
        pairs += len(left)
    rows = find_duplicates(embeddings, np.concatenate(near), person)
    tables.write_rows(tables.path_of(out, "duplicates"), tables.DUPLICATES, rows)
    suspects = tables.read(tables.path_of(out, "suspects"), tables.SUSPECTS, [tables.KIND])
    sizes = np.bincount(person)
    return {
        "photos": len(person), "pairs": pairs, "identities": len(sizes),
        "identities_of_two_or_more": int((sizes > 1).sum()),
        "duplicates": dict(Counter(kind for _, _, kind, _ in rows)),
        "suspects": dict(Counter(tables.texts(suspects, tables.KIND))),
    }  # fmt: skip


def _forget_in_ledger(out: Path, plan: Plan) -> None:
    """Take the digests of the photos out of the ledger; people keep their numbers, even without a photo."""
    ledger = people.load(out)
    if ledger is not None:
        gone = set(plan.pixels)
        kept = (replace(one, pixels=tuple(p for p in one.pixels if p not in gone)) for one in ledger.people)
        people.write(out, people.Ledger(tuple(kept)))


def _counts(out: Path) -> dict[str, object]:
    table = tables.read(tables.path_of(out, "splits"), tables.SPLIT_TABLE)
    splits, people = tables.texts(table, tables.SPLIT), tables.texts(table, tables.IDENTITY)
    return {
        name: {
            "photos": splits.count(name),
            "identities": len({who for who, split in zip(people, splits, strict=True) if split == name}),
        }
        for name in tables.SPLITS
        if list_path(out, name).is_file()
    }


def _preview(out: Path, plan: Plan, runs: _Runs) -> Forgotten:
    """What would go and change; nothing is written."""
    done, traces = _outcome(out, plan, runs), traces_of(out, plan)
    doomed = set(_doomed(out, plan))
    for path in trace.walk(out, _kept_out(out)):
        done.scan.files += 1
        if path in doomed or traces.mentioned(_shown(out, path)):
            done.removed.append(_shown(out, path))
        elif trace.mentions(out, path, traces):
            kept = path.suffix.lower() not in trace.PAGES
            (done.changed if kept else done.removed).append(_shown(out, path))
    return done
