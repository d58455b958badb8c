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

CORE = {"core"}
STAGES = {"dataset", "degrade", "restore", "identities", "faces", "core"}
LAYERS: dict[str, set[str]] = {  # a room -> the rooms that it may import, itself always
    "core": set(),
    "faces": CORE,
    "identities": CORE,
    "dataset": {"identities", "faces", "core"},
    "degrade": {"faces", "core"},
    "download": {"faces", "core"},
    "refldm": CORE,
    "restore": {"faces", "core", "refldm"},
    "evaluate": STAGES,
    "export": STAGES,
    "report": STAGES,
    "demo": STAGES | {"download", "report"},  # `demo --real`
    "doctor": {"download", "core"},  # what was downloaded, and whether it is right
}
HALL = {"", "__main__", "doctor"}  # modules beside the rooms
EVERYTHING = {"", "__main__", "cli"}  # may import all
OWN_LAYERS = {"demo.making": LAYERS["demo"] | {"refldm"}}  # trains what the demo ships
# modules of `dataset` are stages: they call each other in `build` alone
DATASET_STAGES = {"embed", "cluster", "split", "references", "verify", "sheet", "compare"}
# prefixes of modules that may import torch
TORCH = ("refldm.", "restore.", "demo.making.", "evaluate.adapters", "evaluate.fairface", "export.faceme")


@cache
def modules() -> dict[str, ast.Module]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found[name.removesuffix("__init__").removesuffix(".")] = ast.parse(path.read_text())
    return found


def own_imports(tree: ast.Module, top_only: bool = False) -> set[str]:
    """Modules of the package that a module imports, as names below it; `top_only` leaves lazy ones out."""
    nodes = tree.body if top_only else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {a.name.removeprefix("ffhqref.") for a in node.names if a.name.startswith("ffhqref.")}
        elif isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("ffhqref."):
            package = (node.module or "").removeprefix("ffhqref").removeprefix(".")
            inside = {f"{package}.{alias.name}".removeprefix(".") for alias in node.names}
            found |= {name if name in modules() else package for name in inside}
    return found - {""}


def room(module: str) -> str:
    return module.split(".")[0]


@pytest.mark.parametrize("name", sorted(modules()))
def test_layers(name: str) -> None:
    if room(name) in EVERYTHING:
        return
    rule = next((rule for place, rule in OWN_LAYERS.items() if name.startswith(place)), LAYERS[room(name)])
    imported = {room(module) for module in own_imports(modules()[name])}
    assert imported <= rule | {room(name)}, f"{name} may not import {imported - rule}"


def test_every_module_is_in_a_room() -> None:
    rooms = set(LAYERS) | EVERYTHING
    assert {room(name) for name in modules()} == rooms, "say in this file what a new room may import"
    assert {name for name in modules() if "." not in name and not (PACKAGE / name).is_dir()} == HALL - {""}


def test_every_room_says_what_it_is() -> None:
    for folder in {path.parent for path in PACKAGE.rglob("*.py")}:
        tree = ast.parse((folder / "__init__.py").read_text())
        assert ast.get_docstring(tree), f"{folder.name}/__init__.py needs a docstring"


def test_no_stage_imports_another() -> None:
    for name in DATASET_STAGES:
        imported = {module.removeprefix("dataset.") for module in own_imports(modules()[f"dataset.{name}"])}
        assert not imported & (DATASET_STAGES | {"build"}), name


def test_there_is_no_cycle() -> None:
    graph = {name: own_imports(tree, top_only=True) & set(modules()) for name, tree in modules().items()}
    done: set[str] = set()
    while ready := {name for name, needs in graph.items() if name not in done and needs <= done}:
        done |= ready
    assert done == set(graph), f"a cycle among {set(graph) - done}"


def test_who_uses_which_library() -> None:
    users: dict[str, set[str]] = {
        name: set() for name in ("faiss", "torch", "insightface", "onnxruntime", "requests")
    }
    for name, tree in modules().items():
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for module in names:
                if module.split(".")[0] in users:
                    users[module.split(".")[0]].add(name)
    assert {room(name) for name in users["faiss"]} == {"identities"}
    assert {room(name) for name in users["insightface"] | users["onnxruntime"]} == {"faces"}
    assert {room(name) for name in users["requests"]} == {"download"}
    assert all(name.startswith(TORCH) for name in users["torch"])


def loaded_by(code: str) -> set[str]:
    """The top-level modules in sys.modules after `code` in a fresh interpreter."""
    program = f"import sys\n{code}\nprint(' '.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in run.stdout.split("\n")[-2].split()}


HEAVY = {
    "PIL",
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
    "matplotlib",
    "jinja2",
}


def test_help_loads_nothing_heavy() -> None:
    """Of any command: what is loaded by them all is the union of what each loads."""
    code = (
        "from ffhqref.cli import app\nimport contextlib, typer\n"
        "for command in [[], *([name] for name in typer.main.get_command(app).commands)]:\n"
        "    with contextlib.suppress(SystemExit): app([*command, '--help'])"
    )
    loaded = loaded_by(code)
    assert not loaded & HEAVY
    assert "typer" in loaded


def test_the_package_itself_is_light_and_gives_every_stage() -> None:
    assert not loaded_by("import ffhqref") & HEAVY
    for name in ffhqref.__all__:
        assert callable(getattr(ffhqref, name)), name
    with pytest.raises(AttributeError):
        ffhqref.no_such_stage  # noqa: B018


def test_a_dataset_is_built_without_torch() -> None:
    assert "torch" not in loaded_by("import ffhqref.dataset.build, ffhqref.identities.calibrate, ffhqref.cli")
