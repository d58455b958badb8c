"""build-refs: embed, cluster, split, references, verify, in that order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ffhqref.core import store
from ffhqref.core.recipe import FILES, Recipe, load_recipe, to_toml, with_known_distance
from ffhqref.core.store import Receipt, UserError
from ffhqref.dataset.cluster import find_identities
from ffhqref.dataset.embed import Estimate, check, embed_photos, estimate
from ffhqref.dataset.references import write_references
from ffhqref.dataset.split import split_identities
from ffhqref.dataset.verify import STAGES, Report, verify_dataset
from ffhqref.faces.networks import Device

REVISION = 1
SHOWN_VIOLATIONS = 20  # violations that an error spells out


@dataclass(frozen=True)
class Built:
    """What `build_refs` made: the receipts of its stages, and whether anything was left to do."""

    out: Path
    receipts: dict[str, Receipt]
    fresh: bool
    warnings: tuple[str, ...] = ()


def recipe_path(out: Path) -> Path:
    """Where the effective recipe of the dataset `out` lies."""
    return out / "receipts" / "recipe.toml"


def recipe_of(out: Path, fallback: str = "photos", **overrides: object) -> Recipe:
    """The recipe `out` was built with, else the fallback's; with overrides and the network's distance.

    UserError where stages are finished and their recipe is gone: other settings must not slip in.
    """
    there = recipe_path(out)
    finished_stages = [stage for stage in STAGES[1:] if store.receipt_path(out, stage).is_file()]
    if finished_stages and not there.is_file():
        raise UserError(
            f"{there} is gone, so how {out} was built is not known: give --recipe NAME, and the options that "
            "were given then."
        )
    return with_known_distance(load_recipe(str(there) if there.is_file() else fallback, **overrides))


def write_recipe(out: Path, recipe: Recipe) -> None:
    """Keep the effective recipe with the dataset; the same one is not written again."""
    text, path = f"# The recipe this dataset was built with.\n{to_toml(recipe)}", recipe_path(out)
    if not path.is_file() or path.read_bytes() != text.encode():
        store.write_text(path, text)


def _checked_recipe(recipe: Recipe) -> Recipe:
    """The recipe with its network's distance; UserError, before hours of embedding, where it lacks one
    or a file it names is not there."""
    for key in FILES:
        file = getattr(recipe, key)
        if file and not Path(file).exists():
            what = "a folder" if key == "splits" else "a file"
            raise UserError(f"There is no {file}: give --{key} the path of {what}.")
    chosen = with_known_distance(recipe)
    if chosen.embedder:
        chosen.needed_distance()
    return chosen


def build_refs(
    images: Path,
    out: Path,
    recipe: Recipe | str = "photos",
    *,
    device: Device = "auto",
    workers: int = 2,
    batch_size: int = 16,
    redraw: bool = False,
) -> Built:
    """Photographs below `images` -> a dataset in FFHQ-Ref's published tree at `out`.

    A finished dataset is left as it is; after a change only what depends on it is redone. Known people keep
    number and split when photographs come or go; `redraw` draws everybody anew. UserError where
    something given is missing or wrong, or where the result is not sound.
    """
    chosen = _checked_recipe(load_recipe(recipe) if isinstance(recipe, str) else recipe)
    if not store.receipt_path(out, "embed").is_file():  # a first run: before anything is written
        check(images, out, chosen, device)
    with store.lock(out, "build-refs"):
        before = _stamps(out)
        done = embed_photos(images, out, chosen, device=device, workers=workers, batch_size=batch_size)
        receipts = {"embed": done}
        write_recipe(out, chosen)
        receipts["cluster"] = find_identities(out, chosen)
        receipts["split"] = split_identities(out, chosen, redraw=redraw)
        receipts["references"] = write_references(out, chosen)
        receipts["verify"] = _verified(out, chosen)
        fresh = before != _stamps(out)
    return Built(out, receipts, fresh, tuple(receipts["verify"].notes.get("warnings", ())))


def _stamps(out: Path) -> list[int]:
    """When each stage's receipt was written, 0 where there is none: what tells whether a run did anything."""
    paths = [store.receipt_path(out, stage) for stage in (*STAGES, "verify")]
    return [path.stat().st_mtime_ns if path.exists() else 0 for path in paths]


def _verified(out: Path, recipe: Recipe) -> Receipt:
    """The receipt of a verification of the stages as they are; UserError with each violation."""
    inputs = {stage: store.fingerprint(out, stage) for stage in STAGES}
    parameters = {"distance": recipe.distance, "min_distance": recipe.min_distance}
    wanted = Receipt(stage="verify", revision=REVISION, parameters=parameters, inputs=inputs)
    if done := store.finished(out, wanted):
        return done
    report = verify_dataset(out, recipe)
    if report.violations:
        raise UserError(refusal(out, report))
    return store.write_receipt(out, wanted, [], {"counts": report.counts, "warnings": report.warnings})


def refusal(out: Path, report: Report) -> str:
    """A failed verification as text: how many violations, and the first of them."""
    more = len(report.violations) - SHOWN_VIOLATIONS
    lines = [f"{out} is not sound, {len(report.violations)} violations:"]
    lines += [f"  {violation}" for violation in report.violations[:SHOWN_VIOLATIONS]]
    return "\n".join(lines + ([f"  and {more} more"] if more > 0 else []))


def dry_run(images: Path, out: Path, recipe: Recipe, *, device: Device, workers: int) -> Estimate:
    """What `build_refs` would do: photos to embed, bytes to write, seconds by a trial of a few photos."""
    return estimate(images, out, _checked_recipe(recipe), device=device, workers=workers)
