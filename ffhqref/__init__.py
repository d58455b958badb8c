"""Build reference datasets of faces as FFHQ-Ref (ReF-LDM, NeurIPS 2024) was built, and restore with them.

The stages of the command line, as typed functions; each is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ffhqref.core.recipe import Recipe, load_recipe
    from ffhqref.core.store import UserError
    from ffhqref.dataset.build import build_refs
    from ffhqref.dataset.cluster import find_identities
    from ffhqref.dataset.compare import compare_datasets
    from ffhqref.dataset.embed import embed_photos
    from ffhqref.dataset.forget import forget_photos
    from ffhqref.dataset.references import write_references
    from ffhqref.dataset.split import split_identities
    from ffhqref.dataset.verify import verify_dataset
    from ffhqref.degrade.operators import sampler
    from ffhqref.degrade.stage import degrade_dataset, degrade_folder
    from ffhqref.evaluate.summary import evaluate_dataset
    from ffhqref.export.options import ExportOptions
    from ffhqref.export.stage import export_dataset
    from ffhqref.identities.calibrate import calibrate_distance
    from ffhqref.report.page import ReportOptions
    from ffhqref.report.write import write_report
    from ffhqref.restore.run import RestoreOptions, restore_dataset, restore_pictures

_PLACES = {
    "build_refs": "dataset.build",
    "calibrate_distance": "identities.calibrate",
    "compare_datasets": "dataset.compare",
    "evaluate_dataset": "evaluate.summary",
    "find_identities": "dataset.cluster",
    "degrade_dataset": "degrade.stage",
    "degrade_folder": "degrade.stage",
    "embed_photos": "dataset.embed",
    "forget_photos": "dataset.forget",
    "ExportOptions": "export.options",
    "export_dataset": "export.stage",
    "Recipe": "core.recipe",
    "load_recipe": "core.recipe",
    "sampler": "degrade.operators",
    "write_references": "dataset.references",
    "split_identities": "dataset.split",
    "UserError": "core.store",
    "ReportOptions": "report.page",
    "write_report": "report.write",
    "RestoreOptions": "restore.run",
    "restore_dataset": "restore.run",
    "restore_pictures": "restore.run",
    "verify_dataset": "dataset.verify",
}

__all__ = [
    "ExportOptions", "Recipe", "ReportOptions", "RestoreOptions", "UserError", "build_refs",
    "calibrate_distance", "compare_datasets", "degrade_dataset", "degrade_folder", "embed_photos",
    "evaluate_dataset", "export_dataset", "find_identities", "forget_photos", "load_recipe",
    "restore_dataset", "restore_pictures", "sampler", "split_identities", "verify_dataset",
    "write_references", "write_report",
]  # fmt: skip


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module 'ffhqref' has no attribute {name!r}")
    return getattr(import_module(f"ffhqref.{_PLACES[name]}"), name)
