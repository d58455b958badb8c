"""Options keep their names, those of a recipe reach it, and a wrong value is told in one sentence."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import ffhqref.cli
from ffhqref.cli import app
from ffhqref.core.recipe import Recipe, to_toml

ROOM = Path(ffhqref.cli.__file__).parent
OPTIONS = {  # names that scripts of users rely on
    "": "debug install-completion show-completion version",
    "build-refs": """align balance batch-size crop crop-format crop-size dedupe det-size detector
        device distance dry-run embedder exclude exclude-unmatched faces fps-start grouping
        identities images join-across labels landmarks limit max-padding max-references min-distance
        min-eyes min-face min-score new-of-test order out recipe redraw report seed splits targets
        test test-identities test-references val val-identities workers""",
    "embed": """align batch-size crop crop-format crop-size det-size detector device embedder exclude
        exclude-unmatched faces images landmarks limit max-padding min-eyes
        min-face min-score recipe workers""",
    "cluster": "distance grouping identities min-distance recipe",
    "split": """balance dedupe join-across labels new-of-test recipe redraw seed splits targets test
        test-identities test-references val val-identities""",
    "references": "fps-start max-references min-distance order recipe test-references",
    "verify": "images",
    "calibrate": "false-match-rate labels",
    "compare": "out",
    "audit": "device names out trained-on workers",
    "report": "gallery images label-accuracy labels seed",
    "review": "idle images merge only part port who",
    "forget": "dry-run list person runs",
    "sheet": "count images out split",
    "demo": "accept-terms checkpoint out people real seed workers",
    "download": "accept-terms dry-run exclude jobs mirror only out rate retries timeout least-speed verify",
    "doctor": "verify",
    "degrade": """copies filter format from-table images level list out replay-published seed sheet size split
        squeeze workers""",
    "export": "for images landmarks least level links out seed shard-mb size split workers",
    "evaluate": """by data detector device embedder fid-statistics groups images judge labels landmarks
        level lq max-references metrics out parsing protocol published refs-dir restored size split targets
        workers""",
    "demographics": "device images network out workers",
    "sweep": "embedder grid images level metrics out restore-device split workers",
    "test-refs": """align detector device distance embedder images level lq min-distance order out recipe
        targets workers""",
    "restore": """align architecture autoencoder batch-size checkpoint compile detector device fast guidance
        guidance-from guidance-to images level like lq max-references noise out paste-back precision read
        reference-encoding references references-of refs refs-dir schedule seed shard sheet solver split
        squeeze steps""",
    "convert": "architecture autoencoder checkpoint out",
    "train": """autoencoder batch-size config data device identity images init level lr out precision resume
        set squeeze steps unverified workers""",
}
STAGES = {  # command -> the function that it calls with the recipe
    "build-refs": "build.build_refs",
    "embed": "embed.embed_photos",
    "cluster": "cluster.find_identities",
    "split": "split.split_identities",
    "references": "references.write_references",
}
VALUES: dict[str, tuple[str, object]] = {  # field -> what is typed, and what the recipe then has
    "align": ("landmarks", "landmarks"),
    "faces": ("all", "all"),
    "crop": ("on", "on"),
    "crop_size": ("1024", 1024),
    "crop_format": ("webp", "webp"),
    "min_eyes": ("20", 20.0),
    "max_padding": ("0.25", 0.25),
    "min_face": ("7", 7),
    "min_score": ("0.25", 0.25),
    "det_size": ("640", 640),
    "limit": ("5", 5),
    "distance": ("0.33", 0.33),
    "min_distance": ("0.2", 0.2),
    "grouping": ("components", "components"),
    "dedupe": ("exact", "exact"),
    "val_identities": ("3", 3),
    "test_identities": ("4", 4),
    "test_references": ("3:", (3, 0)),
    "max_references": ("6", 6),
    "order": ("pose", "pose"),
    "fps_start": ("farthest", "farthest"),
    "balance": ("age,gender", ("age", "gender")),
    "exclude_unmatched": ("ignore", "ignore"),
    "seed": ("9", 9),
    "join_across": ("drop", "drop"),
    "new_of_test": ("hold", "hold"),
}
FILES = ("detector", "embedder", "landmarks", "identities", "splits", "targets", "exclude", "labels")


def test_no_option_has_another_name() -> None:
    group: Any = typer.main.get_command(app)
    found = {"": group.params} | {name: command.params for name, command in group.commands.items()}
    for command, names in OPTIONS.items():
        options = {
            option for parameter in found.pop(command) for option in parameter.opts if option[0] == "-"
        }
        assert options == {f"--{name}" for name in names.split()}, command
    assert not found


def recipe_given(command: str, monkeypatch: pytest.MonkeyPatch, *words: str) -> Recipe:
    """The recipe with which a command calls its stage."""
    given: list[Recipe] = []

    def stage(*arguments: Any, **_: Any) -> Any:
        given.extend(argument for argument in arguments if isinstance(argument, Recipe))
        raise typer.Exit(0)

    monkeypatch.setattr(f"ffhqref.dataset.{STAGES[command]}", stage)
    place = ["--images", "photos", "--out", "out"] if command == "build-refs" else ["out"]
    place += ["--images", "photos"] if command == "embed" else []
    done = CliRunner().invoke(app, [command, *place, *words])
    assert done.exit_code == 0, done.output
    return given[0]


@pytest.mark.parametrize("command", STAGES)
def test_every_option_of_a_recipe_reaches_it(
    command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [option.replace("-", "_") for option in OPTIONS[command].split()]
    values = {**VALUES, **{name: (f"{name}.csv", str(tmp_path / f"{name}.csv")) for name in FILES}}
    wanted = {name: values[name] for name in names if name in values}
    words = [word for name, (text, _) in wanted.items() for word in (f"--{name.replace('_', '-')}", text)]
    recipe = recipe_given(command, monkeypatch, *words)
    assert {name: getattr(recipe, name) for name in wanted} == {
        name: value for name, (_, value) in wanted.items()
    }
    plain = recipe_given(command, monkeypatch)
    assert [name for name, (_, value) in wanted.items() if getattr(plain, name) == value] == [], (
        "each differs"
    )


def test_every_field_of_a_recipe_is_an_option_of_build_refs_and_of_a_stage() -> None:
    names = {item.name.replace("_", "-") for item in fields(Recipe)} - {"name"}
    stages = {name for stage in list(STAGES)[1:] for name in OPTIONS[stage].split()}
    assert names <= set(OPTIONS["build-refs"].split()) and names <= stages


@pytest.mark.parametrize("command", ["build-refs", "split"])
def test_fractions_reach_the_recipe(command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = recipe_given(command, monkeypatch, "--val", "0.3", "--test", "0.4")
    assert (recipe.val, recipe.test) == (0.3, 0.4)


@pytest.mark.parametrize(("text", "window"), [("2:9", (2, 9)), ("3", (3, 3)), ("4:", (4, 0))])
def test_a_window_of_references(
    text: str, window: tuple[int, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert recipe_given("split", monkeypatch, "--test-references", text).test_references == window


def test_which_recipe_holds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A stage goes by the dataset's own recipe, `build-refs` by `photos`, where none is named."""
    monkeypatch.chdir(tmp_path)
    assert recipe_given("cluster", monkeypatch).name == "photos"
    (tmp_path / "out" / "receipts").mkdir(parents=True)
    own = to_toml(Recipe(name="own", grouping="components", distance=0.31))
    (tmp_path / "out" / "receipts" / "recipe.toml").write_text(own)
    assert recipe_given("cluster", monkeypatch).distance == 0.31
    assert recipe_given("cluster", monkeypatch, "--distance", "0.32").distance == 0.32
    assert recipe_given("cluster", monkeypatch, "--recipe", "ffhq-ref").name == "ffhq-ref"
    assert recipe_given("build-refs", monkeypatch).name == "photos"
    assert recipe_given("build-refs", monkeypatch, "--recipe", "celebahq").name == "celebahq"


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["cluster", "out", "--grouping", "x"], 1, "--grouping is 'x': give one of components, average."),
        (["references", "out", "--order", "far"], 1,
         "--order is 'far': give one of fps, nearest, name, pose, quality, random."),
        (["split", "out", "--test-references", "few"], 1,
         "--test-references few: give LEAST:MOST, such as 2:9."),
        (["cluster", "out", "--distance", "3"], 1, "distance must be above 0 and at most 2."),
        (["split", "out", "--val", "0.1", "--val-identities", "3"], 1,
         "Give either --val or --val-identities, not both."),
        (["degrade", "out", "--format", "gif"], 2, "'--format': 'gif' is not one of 'png', 'webp'."),
        (["train", "x", "--data", "d", "--images", "i", "--out", "o"], 2,
         "'STAGE': 'x' is not one of 'autoencoder', 'ldm', 'refldm'."),
        (["nosuch"], 2, "No such command 'nosuch'."),
    ],
)  # fmt: skip
def test_a_wrong_value_is_one_sentence(
    words: list[str], code: int, sentence: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, words)
    assert done.exit_code == code and list(tmp_path.iterdir()) == []
    last = done.stderr.splitlines()[-1]
    assert last.startswith("Error: ") and last.endswith(sentence)
    assert code == 2 or done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (ffhqref.UserError("Do this."), 1, "Error: Do this."),
        (MemoryError(), 1, "Error: Out of memory: use fewer --workers or a smaller --batch-size."),
        (PermissionError(13, "", "a.csv"), 1,
         "Error: a.csv: Permission denied. Nothing finished is lost: fix this and run the same command "
         "again."),
        (KeyboardInterrupt(), 130,
         "Stopped. Nothing finished is lost: run the same command again to continue."),
    ],
)  # fmt: skip
def test_errors_are_sentences(
    error: BaseException, code: int, sentence: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails(*_: Any) -> None:
        raise error

    monkeypatch.setattr("ffhqref.dataset.cluster.find_identities", fails)
    done = CliRunner().invoke(app, ["cluster", str(tmp_path)])
    assert (done.exit_code, done.stderr.strip()) == (code, sentence)
    if code == 1:
        raised = CliRunner().invoke(app, ["--debug", "cluster", str(tmp_path)])
        assert raised.exit_code == 1 and raised.exception is error


def test_a_reader_that_has_gone_is_no_error() -> None:
    """As in `ffhqref download | head`."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "ffhqref", "download"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_options_are_declared_and_nothing_passes_locals() -> None:
    """Aliases of options end in Option or Argument, so that none has the name of a class of a room."""
    for path in ROOM.glob("*.py"):
        tree = ast.parse(path.read_text())
        called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call)
                  and isinstance(node.func, ast.Name)}  # fmt: skip
        assert not called & {"locals", "vars", "globals"}, path.name
        for node in tree.body:
            if isinstance(node, ast.Assign) and "Annotated[" in ast.unparse(node.value):
                assert isinstance(node.targets[0], ast.Name)
                assert node.targets[0].id.endswith(("Option", "Argument")), path.name
                assert path.name == "options.py"
