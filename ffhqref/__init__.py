"""Build reference datasets of faces as FFHQ-Ref (ReF-LDM, NeurIPS 2024) was built, and restore with them.

The stages of the command line, as typed functions; each is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PLACES = {
    "build_refs": "build",
    "embed": "embed",
    "cluster": "cluster",
    "split": "split",
    "references": "references",
    "verify": "verify",
    "calibrate": "calibrate",
    "load_recipe": "recipe",
    "Recipe": "recipe",
    "UserError": "store",
}
__all__ = [*_PLACES, "__version__"]

if TYPE_CHECKING:
    from ffhqref.build import build_refs
    from ffhqref.calibrate import calibrate
    from ffhqref.cluster import cluster
    from ffhqref.embed import embed
    from ffhqref.recipe import Recipe, load_recipe
    from ffhqref.references import references
    from ffhqref.split import split
    from ffhqref.store import UserError
    from ffhqref.verify import verify


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'ffhqref' has no attribute {name!r}")
    return getattr(import_module(f"ffhqref.{_PLACES[name]}"), name)
