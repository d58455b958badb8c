"""The README is true: what it shows is run, what cannot be run here is parsed, what it names is there."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import ffhqref
from ffhqref.cli import app
from ffhqref.demo import RESTORER
from ffhqref.download.sources import sources
from tests.benchmarks.__main__ import README as BENCHMARKED
from tests.benchmarks.__main__ import RESULTS, into_readme, table
from tests.photographs import Known

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PROSE = re.sub(r"^```.*?^```", "", README, flags=re.M | re.S)
CODE = re.findall(r"`([^`]+)`", PROSE)  # what stands in the text as code
GUIDES = ["README.md", ".github/CONTRIBUTING.md", ".github/CHANGELOG.md"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def commands(language: str) -> list[str]:
    """The `ffhqref` lines of all blocks of a language, continued lines joined."""
    lines = "\n".join(blocks(language)).replace("\\\n", " ").splitlines()
    return [line.partition("  #")[0].strip() for line in lines if line.startswith("ffhqref ")]


def group() -> Any:
    return typer.main.get_command(app)


def options_of(command: Any) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts}


def every_option() -> set[str]:
    return {option for command in (group(), *group().commands.values()) for option in options_of(command)}


def rows_of(header: str) -> Iterator[list[str]]:
    """The cells of the README's table with this header, without code marks."""
    lines = iter(README.splitlines())
    for line in lines:
        if line == header:
            break
    next(lines)  # the rule
    for line in lines:
        if not line.startswith("|"):
            return
        yield [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]


def test_every_command_stands_in_the_readme() -> None:
    shown = [row[0] for row in rows_of("| command | from | to |")]
    assert sorted(shown) == sorted(f"ffhqref {name}" for name in group().commands)


@pytest.mark.parametrize("line", [*commands("sh"), *commands("bash")])
def test_every_command_shown_parses(line: str) -> None:
    """Its options exist, what it needs is given, and values are of the right kind."""
    name, *words = shlex.split(line)[1:]
    group().commands[name].make_context(name, words)


def test_every_command_and_option_in_the_text_exists() -> None:
    for text in CODE:
        words = text.replace("\n", " ").split()
        options = {word for word in words if re.fullmatch("--[a-z-]+", word)}
        if words[0] == "ffhqref" and words[1:2] and not words[1].startswith("-"):
            assert options <= options_of(group().commands[words[1]]), text
        else:
            assert options <= every_option(), text


@pytest.fixture(scope="module")
def workplace(
    tmp_path_factory: pytest.TempPathFactory, known: list[Known], embedder: Path, detector: Path
) -> Path:
    """A folder with what the README assumes, in which the commands of its `sh` blocks have run."""
    place = tmp_path_factory.mktemp("readme")
    (place / "det_500m.onnx").symlink_to(detector)
    (place / "w600k_mbf.onnx").symlink_to(embedder)
    (place / "photos").symlink_to(known[0].path.parent)
    people = [f"{photo.path.name},{photo.person}\n" for photo in known]
    (place / "people.csv").write_text("image,identity\n" + "".join(people))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for line in commands("sh"):
            done = CliRunner().invoke(app, shlex.split(line)[1:])
            assert done.exit_code == 0, (line, done.output)
    return place


def test_the_tree_shown_is_the_tree_made(workplace: Path) -> None:
    tree = re.search(r"^```\n(mine/\n.*?)^```", README, re.M | re.S)
    assert tree
    paths = set()
    for line in tree[1].splitlines()[1:]:
        names = re.split(r"\s{2,}", line.strip())
        for name in (n for n in names if re.fullmatch(r"[\w/{},.-]+", n) and ("/" in n or "." in n)):
            base = f"tables/{name}" if name.endswith(".parquet") and "/" not in name else name
            choices = re.search(r"\{(.*?)\}", base)
            for choice in choices[1].split(",") if choices else [""]:
                paths.add(base.replace(choices[0], choice) if choices else base)
    assert len(paths) >= 12
    assert {path for path in paths if not (workplace / "mine" / path).exists()} == set()


def test_the_python_shown_runs(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    shutil.rmtree("mine")  # whoever is known would keep their split, though the distance is another
    building, restoring = blocks("python")
    names: dict[str, Any] = {}
    exec(building, names)
    pytest.importorskip("torch", reason="torch (the extra `train`) is not installed")
    photos = sorted((workplace / "photos").iterdir())
    for name, target in zip(("old.png", "new1.jpg", "new2.jpg"), photos, strict=False):
        (workplace / name).symlink_to(target)
    (workplace / "refldm.safetensors").symlink_to(RESTORER)
    assert CliRunner().invoke(app, ["degrade", "mine", "--level", "severe"]).exit_code == 0
    exec(restoring, names)
    targets = (workplace / "mine/id_based_ffhq_split/test_image.txt").read_text().split()
    restored = {path.stem for path in (workplace / "mine/restored/severe").glob("*.png")}
    assert restored and restored <= {Path(target).stem for target in targets}
    assert (workplace / "restored/old.png").is_file()


def test_the_python_names_exist() -> None:
    code = "\n".join([*CODE, *blocks("python")])
    named = set(re.findall(r"\bffhqref\.(\w+)", code)) - {"__all__"}
    public = {name for name in ffhqref.__all__ if name.islower()}
    verbs = "|".join({name.split("_")[0] for name in public if "_" in name})
    named |= {text for text in CODE if re.fullmatch(rf"({verbs})_[a-z]\w+", text)}
    assert named <= set(ffhqref.__all__)
    assert public <= named, "every public function is named"


@pytest.mark.parametrize("guide", GUIDES)
def test_files_links_and_targets_exist(guide: str) -> None:
    text = (ROOT / guide).read_text()
    for path in re.findall(r"`((?:manifests|ffhqref|tests|\.github|\.ci)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path
    for link in re.findall(r"\]\(([^)#\s]+)\)", text):
        assert link.startswith("https://") or ((ROOT / guide).parent / link).is_file(), link
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([a-z-]+)", text):
        assert f"\n{target}:" in makefile, target
    for targets in re.findall(r"^make ((?:[a-z-]+ ?)+)", text, re.M):
        assert all(f"\n{target}:" in makefile for target in targets.split()), targets


def test_statuses_sources_and_levels_are_the_code_s() -> None:
    code = "".join(path.read_text() for path in (ROOT / "ffhqref").rglob("*.py"))
    statuses = set(re.findall(r'BadImage\(\s*"(\w+)"', code)) | {"ok", "bad_name", "excluded"}
    assert len(statuses) >= 8 and statuses <= set(CODE)
    listed = [name for row in rows_of("| source | what | checked by |") for name in row[0].split(", ")]
    assert sorted(listed) == sources()
    shown = rows_of("| level | blur sigma, px | times smaller | noise, of 255 | JPEG quality |")
    levels = tomllib.loads((ROOT / "manifests/levels.toml").read_text())
    ranges = {
        name: ["{}-{}".format(*level[key]) for key in ("sigma", "scale", "noise", "quality")]
        for name, level in levels.items()
    }
    assert {name: cells for name, *cells in shown} == ranges


def test_the_numbers_are_the_measured_ones() -> None:
    assert into_readme(README, table(json.loads(RESULTS.read_text()))) == README == BENCHMARKED.read_text()
    judged = json.loads(RESTORER.with_suffix(".json").read_text())["judged"]
    found = judged["similarity [mean, 95 % interval over people]"]
    for kind, shown, _ in rows_of("| | similarity to the target | |"):
        mean, low, high = found[kind.replace("1 reference", "1 references")]
        assert shown == f"{mean:.3f} [{low:.3f}, {high:.3f}]", kind
    mean, low, high = found["gain of 5 references over 0 references"]
    assert f"{mean:.3f} [{low:.3f}, {high:.3f}] closer" in README.replace("\n", " ")


def test_the_pythons_named_are_those_declared_and_tried() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    classifiers = [text.rpartition(" ")[2] for text in project["classifiers"] if "Python :: 3." in text]
    tried = re.findall(r'"(3\.\d+)"', (ROOT / ".github/workflows/ci.yml").read_text())
    assert list(dict.fromkeys(tried)) == classifiers
    assert project["requires-python"] == f">={classifiers[0]}"
    assert f"Python {classifiers[0]} to {classifiers[-1]} on Linux and macOS" in README


def test_only_the_listed_entries_are_visible() -> None:
    listed = {"ffhqref", "tests", "manifests", "pyproject.toml", "Makefile", "README.md", "LICENSE"}
    made = {"demo-out", "build", "dist", "bench-out", "demo-models"}  # ignored by git
    assert {name for name in os.listdir(ROOT) if not name.startswith(".")} - made <= listed
