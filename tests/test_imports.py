"""Who may import whom, and what a quick command must not load."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import ffhqref

PACKAGE = Path(ffhqref.__file__).parent

FOUNDATION = {
    "tables", "store", "images", "recipe", "faces", "align", "grouping", "neighbours", "journal", "panels",
    "degradation", "stream", "blur",
}  # fmt: skip
STAGES = {
    "embed": set(),
    "cluster": {"search"},
    "split": set(),
    "references": set(),
    "verify": set(),
    "calibrate": set(),
    "degrade": {"draws"},
    "download": {"fetch"},
    "doctor": {"fetch"},  # what was downloaded, and whether it is right
    "sheet": set(),
}  # a stage's own helper modules, which only it may import
ABOVE = {"build"}
# prefixes of modules that may import torch
TORCH = {"refldm", "demo.train_embedder", "demo.train_restorer", "demo.judge_restorer"}


@cache
def modules() -> dict[str, ast.Module]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text())
    return found


def own_imports(tree: ast.Module, top_only: bool = False) -> set[str]:
    """Modules of the package that a module imports, as names below it; `top_only` leaves lazy ones out."""
    nodes = tree.body if top_only else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module == "ffhqref":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ffhqref."):
            found.add((node.module or "").removeprefix("ffhqref."))
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("ffhqref.") for a in node.names if a.name.startswith("ffhqref.")}
    return found - {"__version__"}


def allowed(name: str) -> set[str] | None:
    """What a module may import of the package; None: anything."""
    head = name.split(".")[0]
    if head in {"cli", "__init__", "__main__", ""}:
        return None
    if head == "refldm":
        return {"refldm"}
    if name in {"demo.train_restorer", "demo.judge_restorer"}:
        return FOUNDATION | {"demo", "build", "refldm"}
    if head in ABOVE or name in {"demo.run", "demo.train_embedder"}:
        return FOUNDATION | set(STAGES) | {"demo"} | ({"build", "fetch"} if name == "demo.run" else set())
    if head == "demo":
        return FOUNDATION | {"demo"}
    owner = next((stage for stage, helpers in STAGES.items() if head == stage or head in helpers), None)
    if owner:
        return FOUNDATION | STAGES[owner] | {owner}
    return FOUNDATION


@pytest.mark.parametrize("name", sorted(modules()))
def test_layers(name: str) -> None:
    rule = allowed(name)
    if rule is not None:
        heads = {module.split(".")[0] for module in own_imports(modules()[name])}
        assert heads <= rule, f"{name} may not import {heads - rule}"


def test_every_module_has_a_place() -> None:
    helpers = {helper for owned in STAGES.values() for helper in owned}
    known = FOUNDATION | set(STAGES) | helpers | ABOVE | {"cli", "refldm", "demo", "__main__", ""}
    heads = {name.split(".")[0] for name in modules()} - {"__init__"}
    assert heads <= known, f"say in this file what layer {heads - known} belong to"


def test_foundation_has_no_cycle() -> None:
    graph = {name: own_imports(modules()[name]) & FOUNDATION for name in FOUNDATION}
    done: set[str] = set()
    while ready := {name for name, needs in graph.items() if name not in done and needs <= done}:
        done |= ready
    assert done == FOUNDATION, f"a cycle among {FOUNDATION - done}"


def test_only_search_uses_faiss_and_only_the_restorer_torch() -> None:
    users: dict[str, set[str]] = {"faiss": set(), "torch": set(), "insightface": set(), "onnxruntime": set()}
    for name, tree in modules().items():
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for module in names:
                if module.split(".")[0] in users:
                    users[module.split(".")[0]].add(name)
    assert users["faiss"] == {"search"}
    assert users["insightface"] == {"faces"}
    assert all(any(name.startswith(place) for place in TORCH) for name in users["torch"] - {"cli.restore"})


def loaded_by(code: str) -> set[str]:
    """The top-level modules in sys.modules after `code` in a fresh interpreter."""
    program = f"import sys\n{code}\nprint(' '.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in run.stdout.split("\n")[-2].split()}


HEAVY = {
    "pandas",
    "pyarrow",
    "numpy",
    "cv2",
    "scipy",
    "insightface",
    "onnxruntime",
    "faiss",
    "torch",
    "requests",
}


@pytest.mark.parametrize(
    "command", ["", "'build-refs',", "'embed',", "'cluster',", "'verify',", "'calibrate',", "'train',"]
)
def test_help_loads_nothing_heavy(command: str) -> None:
    code = (
        "from ffhqref.cli import app\nimport contextlib\n"
        f"with contextlib.suppress(SystemExit): app([{command} '--help'])"
    )
    assert not loaded_by(code) & HEAVY


def test_the_package_itself_is_light_and_gives_every_stage() -> None:
    assert not loaded_by("import ffhqref") & HEAVY
    for name in ffhqref.__all__:
        assert callable(getattr(ffhqref, name)), name
    with pytest.raises(AttributeError):
        ffhqref.no_such_stage  # noqa: B018


def test_a_dataset_is_built_without_torch() -> None:
    assert "torch" not in loaded_by("import ffhqref.build, ffhqref.calibrate, ffhqref.cli")
