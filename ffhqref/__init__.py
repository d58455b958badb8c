"""Build reference datasets of faces as FFHQ-Ref (ReF-LDM, NeurIPS 2024) was built, and restore with them.

The stages of the command line, as typed functions; each is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ffhqref.build import build_refs
    from ffhqref.calibrate import calibrate_distance
    from ffhqref.cluster import find_identities
    from ffhqref.degradation import sampler
    from ffhqref.degrade import degrade_dataset, degrade_folder
    from ffhqref.embed import embed_photos
    from ffhqref.recipe import Recipe, load_recipe
    from ffhqref.references import write_references
    from ffhqref.split import split_identities
    from ffhqref.store import UserError
    from ffhqref.verify import verify_dataset

_PLACES = {
    "build_refs": "build",
    "calibrate_distance": "calibrate",
    "find_identities": "cluster",
    "degrade_dataset": "degrade",
    "degrade_folder": "degrade",
    "embed_photos": "embed",
    "Recipe": "recipe",
    "load_recipe": "recipe",
    "sampler": "degradation",
    "write_references": "references",
    "split_identities": "split",
    "UserError": "store",
    "verify_dataset": "verify",
}

__all__ = [
    "Recipe", "UserError", "build_refs", "calibrate_distance", "degrade_dataset", "degrade_folder",
    "embed_photos", "find_identities", "load_recipe", "sampler", "split_identities", "verify_dataset",
    "write_references",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'ffhqref' has no attribute {name!r}")
    return getattr(import_module(f"ffhqref.{_PLACES[name]}"), name)
