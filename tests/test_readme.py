"""The README is true: what it shows is run, what cannot be run here is parsed, nothing is left out."""

from __future__ import annotations

import csv
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import ffhqref
from ffhqref.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def commands(language: str) -> list[str]:
    """The `ffhqref` lines of all blocks of a language, continued lines joined."""
    lines = "\n".join(blocks(language)).replace("\\\n", " ").splitlines()
    return [line.partition("  #")[0].strip() for line in lines if line.startswith("ffhqref ")]


def known_commands() -> dict[str, Any]:
    group: Any = typer.main.get_command(app)
    return dict(group.commands)


def test_every_command_stands_in_the_readme() -> None:
    assert {name for name in known_commands() if f"`ffhqref {name}" not in README} == set()


@pytest.mark.parametrize("line", [*commands("sh"), *commands("bash")])
def test_every_command_shown_parses(line: str) -> None:
    name, *words = shlex.split(line)[1:]
    options = {option for param in known_commands()[name].params for option in param.opts}
    assert {word for word in words if word.startswith("--")} <= options


@pytest.fixture(scope="module")
def workplace(
    tmp_path_factory: pytest.TempPathFactory, faces_folder: Path, embedder: Path, detector: Path
) -> Path:
    """A folder with what the README assumes: photos/, two networks, people.csv."""
    place = tmp_path_factory.mktemp("readme")
    (place / "det_500m.onnx").symlink_to(detector)
    (place / "w600k_mbf.onnx").symlink_to(embedder)
    (place / "photos").mkdir()
    with (faces_folder / "photos.csv").open() as file, (place / "people.csv").open("w") as people:
        people.write("image,identity\n")
        for row in csv.DictReader(file):
            if row["set"] == "celebref512":
                name = row["file"].replace("/", "-")
                (place / "photos" / name).symlink_to(faces_folder / "photos" / row["file"])
                people.write(f"{name},{row['identity']}\n")
    return place


def test_what_is_shown_runs(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    ran = commands("sh")
    assert len(ran) >= 8
    for line in ran:
        result = CliRunner().invoke(app, shlex.split(line)[1:])
        assert result.exit_code == 0, (line, result.output)
    exec("\n".join(blocks("python")), {})


def test_the_tree_shown_is_the_tree_made(workplace: Path) -> None:
    tree = re.search(r"^```\n(mine/\n.*?)^```", README, re.M | re.S)
    assert tree
    made = workplace / "mine"
    if not made.is_dir():
        pytest.skip("the commands above have not run")
    for line in tree[1].splitlines()[1:]:
        names = re.split(r"\s{2,}", line.strip())
        for name in (n for n in names if re.fullmatch(r"[\w/{},.-]+", n) and ("/" in n or "." in n)):
            base = f"tables/{name}" if name.endswith(".parquet") and "/" not in name else name
            choices = re.search(r"\{(.*?)\}", base)
            for choice in choices[1].split(",") if choices else [""]:
                path = made / (base.replace(choices[0], choice) if choices else base)
                assert path.exists(), path


def test_statuses_and_links_are_named() -> None:
    source = "".join(
        (ROOT / "ffhqref" / name).read_text()
        for name in ("dataset/embed.py", "faces/align.py", "core/images.py")
    )
    statuses = set(re.findall(r'BadImage\(\s*"(\w+)"', source)) | {"ok", "bad_name", "excluded"}
    assert {status for status in statuses if f"`{status}`" not in README} == set()
    for path in re.findall(r"`(manifests/[\w./-]+)`", README):
        assert (ROOT / path).exists(), path
    for target in re.findall(r"`make ([a-z-]+)`", README):
        assert f"\n{target}:" in (ROOT / "Makefile").read_text()


def test_the_python_names_exist() -> None:
    for name in re.findall(
        r"`(?:ffhqref\.)?((?:embed|find|split|write|calibrate|verify|build|load)_\w+)`", README
    ):
        assert hasattr(ffhqref, name), name


def test_only_the_listed_entries_are_visible() -> None:
    listed = {"ffhqref", "tests", "manifests", "pyproject.toml", "Makefile", "README.md", "LICENSE"}
    made = {"demo-out", "build", "dist", "bench-out"}  # ignored by git
    assert {name for name in os.listdir(ROOT) if not name.startswith(".")} - made <= listed
