"""Recipes and known networks: TOML as frozen dataclasses, every mistake named."""

from __future__ import annotations

import hashlib
import os
from dataclasses import fields, replace
from pathlib import Path

import pytest

from ffhqref.core import recipe as recipes
from ffhqref.core.recipe import Recipe, load_recipe, override, to_toml
from ffhqref.core.store import UserError


def toml(folder: Path, text: str) -> str:
    (folder / "own.toml").write_text(text, encoding="utf-8")
    return str(folder / "own.toml")


def test_the_papers_numbers() -> None:
    paper = load_recipe("ffhq-ref")
    assert (paper.min_distance, paper.val_identities, paper.test_identities) == (0.1, 300, 150)
    assert (paper.test_references, paper.order, paper.grouping) == ((2, 9), "fps", "components")
    assert paper.distance is None, "0.4 belongs to the paper's network: weights.toml has it"
    assert {n.name: n.distance for n in recipes.known_weights()}["webface12m-r50"] == 0.4


@pytest.mark.parametrize("path", sorted(recipes.manifests().glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_loads(path: Path) -> None:
    if "align" in path.read_text():
        assert load_recipe(path.stem).name == path.stem
        assert load_recipe(str(path)) == load_recipe(path.stem)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("distanse = 0.4", "unknown key 'distanse' (did you mean distance?)."),
        ('distance = "0.4"', "distance is '0.4': give a number"),
        ("distance = true", "distance is True"),
        ("seed = 1.5", "seed is 1.5: give a whole number."),
        ("limit = true", "limit is True"),
        ('grouping = "single"', "grouping is 'single': give one of components, average"),
        ("test_references = [2]", "test_references is [2]: give 2 whole numbers in brackets."),
        ('test_references = ["a", 9]', "test_references is 'a'"),
        ("balance = [1]", "balance is 1: give a string."),
        ("balance = 1", "balance is 1: give a list of strings."),
        ("align = 3", "align is 3"),
        ("test_references = [9, 2]", "test_references must not be reversed"),
        ("test_references = [0, 2]", "test_references must start at 1"),
        ("distance = 0.0", "distance must be above 0"),
        ("distance = nan", "distance must be above 0"),
        ("distance = 2.5", "distance must be above 0 and at most 2"),
        ("distance = 0.1\nmin_distance = 0.1", "min_distance must be below distance"),
        ("min_distance = -0.1", "min_distance must be from 0 to 2"),
        ("val = 0.6\ntest = 0.6", "val and test together"),
        ("val = -0.1", "val must be from 0 to 1"),
        ("test = nan", "test must be from 0 to 1"),
        ("val_identities = -1", "val_identities must be at least 0"),
        ("max_references = 0", "max_references must be at least 1"),
        ("limit = 0", "limit must be at least 1"),
        ("min_score = 1.5", "min_score must be from 0 to 1"),
        ("min_face = -1", "min_face must be at least 0"),
        ("det_size = 8192", "det_size must be from 32 to 4096"),
        ("det_size = 100", "det_size must be a multiple of 32"),
        ("a = [", "not valid TOML"),
        ("[table]\na = 1", "unknown key 'table' (known are name, align, "),
    ],
)
def test_every_mistake_is_named_with_its_file(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(toml(tmp_path, text))
    assert words in str(caught.value) and "own.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("distance = 2.0", "distance", 2.0),
        ("distance = 0.1000001\nmin_distance = 0.1", "distance", 0.1000001),
        ("distance = 1e-9\nmin_distance = 0.0", "min_distance", 0.0),
        ("val = 0.5\ntest = 0.5", "test", 0.5),
        ("val = 0.0\ntest = 1.0", "test", 1.0),
        ("test_references = [1, 1]", "test_references", (1, 1)),
        ("test_references = [1, 0]", "test_references", (1, 0)),
        ("val_identities = 0", "val_identities", 0),
        ("limit = 1\nmax_references = 1", "limit", 1),
        ("min_score = 1", "min_score", 1.0),
        ("det_size = 32", "det_size", 32),
        ("det_size = 4096", "det_size", 4096),
    ],
)
def test_what_stands_at_the_end_of_a_range_is_allowed(
    tmp_path: Path, text: str, key: str, value: object
) -> None:
    assert getattr(load_recipe(toml(tmp_path, text)), key) == value


def test_no_such_recipe(tmp_path: Path) -> None:
    for name in ("nosuch", str(tmp_path / "nosuch.toml")):
        with pytest.raises(UserError, match=r"nosuch.*there are .*ffhq-ref.*photos"):
            load_recipe(name)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\0")
    with pytest.raises(UserError, match="not UTF-8"):
        load_recipe(str(tmp_path / "binary.toml"))


FULL = Recipe(
    name='ünï "quoted" \\ back\nline\x7f', align="landmarks", faces="largest", crop="on", crop_size=1024,
    crop_format="webp", min_eyes=40.5, max_padding=0.125, min_face=3, min_score=0.25,
    det_size=640, detector="/a/d.onnx", embedder="/a/e f'\".onnx", landmarks="/l.json", identities="/i.csv",
    splits="/s", targets="/t.txt", exclude="/x.txt", exclude_unmatched="ignore", labels="/l.csv", limit=7,
    distance=1e-5 + 0.3,
    min_distance=1e-7, grouping="average", dedupe="near", val_identities=3, test_identities=None, val=None,
    test=1 / 3, test_references=(3, 0), max_references=5, order="nearest", fps_start="farthest",
    balance=("race", 'a"b'), seed=2**40, join_across="drop", new_of_test="hold",
)  # fmt: skip


def test_the_effective_recipe_is_read_back_as_it_was(tmp_path: Path) -> None:
    assert all(getattr(FULL, f.name) != f.default for f in fields(Recipe) if f.name not in (
        "faces", "test_identities", "val", "name"
    )), "every field is tried"  # fmt: skip
    for wanted in (FULL, Recipe(name="x"), load_recipe("photos"), load_recipe("ffhq-ref")):
        assert load_recipe(toml(tmp_path, to_toml(wanted))) == wanted


def test_files_of_a_recipe_are_below_its_own_folder_wherever_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "own.toml").write_text('embedder = "e.onnx"\nexclude = "../x.txt"\nsplits = "/abs"\n')
    monkeypatch.chdir(tmp_path)
    by_relative, by_absolute = load_recipe("sub/own.toml"), load_recipe(str(tmp_path / "sub" / "own.toml"))
    assert by_relative == by_absolute
    assert by_relative.embedder == str(tmp_path / "sub" / "e.onnx")
    assert Path(by_relative.exclude or "").resolve() == tmp_path / "x.txt"
    assert by_relative.splits == "/abs"
    # the effective recipe is written to another folder and must still mean the same files
    assert load_recipe(toml(tmp_path, to_toml(by_relative))) == by_relative


def test_options_take_the_recipes_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    changed = load_recipe("photos", distance=0.3, embedder="e.onnx", seed=None, test_references=(1, 4))
    assert (changed.distance, changed.seed, changed.test_references) == (0.3, 0, (1, 4))
    assert changed.embedder == str(tmp_path / "e.onnx"), "options are below the working folder"
    assert changed == replace(
        load_recipe("photos"), distance=0.3, embedder=str(tmp_path / "e.onnx"), test_references=(1, 4)
    )
    with pytest.raises(UserError, match="--min-score"):
        override(changed, min_score="high")
    with pytest.raises(UserError, match="reversed"):
        override(changed, test_references=(9, 2))
    with pytest.raises(UserError, match="--embedder .*not UTF-8"):
        override(changed, embedder=os.fsdecode(b"/x/\xff.onnx"))


def test_a_whole_number_quota_replaces_a_fraction_and_back() -> None:
    photos = load_recipe("photos")
    whole = override(photos, test_identities=4)
    assert (whole.test, whole.test_identities, whole.val) == (None, 4, photos.val)
    assert override(whole, test=0.2).test_identities is None
    with pytest.raises(UserError, match="not both"):
        override(photos, val=0.1, val_identities=3)


def test_a_network_is_known_by_its_sha256_not_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, other = tmp_path / "any name.onnx", tmp_path / "known.onnx"
    net.write_bytes(b"network")
    other.write_bytes(b"something else")
    digest = hashlib.sha256(b"network").hexdigest()
    known = recipes.Weights(name="n", kind="embedder", file="known.onnx", sha256=digest, distance=0.37)
    monkeypatch.setattr(recipes, "known_weights", lambda: [known])
    assert recipes.known_distance(net) == 0.37
    assert recipes.known_distance(other) is None, "the name alone proves nothing where a digest is published"
    with_net = recipes.with_known_distance(Recipe(name="x", embedder=str(net)))
    assert with_net.needed_distance() == 0.37
    assert recipes.with_known_distance(replace(with_net, distance=0.2)).distance == 0.2
    with pytest.raises(UserError, match="give --distance"):
        recipes.with_known_distance(Recipe(name="x", embedder=str(other))).needed_distance()


def test_the_shared_network_is_known(real_embedder: Path) -> None:
    assert recipes.known_distance(real_embedder) == 0.6
