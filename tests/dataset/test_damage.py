"""What is damaged, moved or lost between two runs: `verify` sees it and `build-refs` makes it again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ffhqref.cli import app
from ffhqref.core import lists, store
from ffhqref.core.images import encode, read
from ffhqref.dataset.build import recipe_of
from ffhqref.dataset.verify import STAGES, verify_dataset
from tests.dataset.test_build import QUOTAS, assert_same


def call(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(word) for word in words])
    return done.exit_code, done.output


@pytest.fixture(scope="module")
def whole(
    sixty: Path, networks: list[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    """A dataset, and the command that made it less its folder."""
    out = tmp_path_factory.mktemp("whole") / "mine"
    command = ["build-refs", "--images", str(sixty), *networks, *map(str, QUOTAS), "--out"]
    assert call(*command, out)[0] == 0
    return out, command


def flip(path: Path) -> None:
    """One bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_flipped_bit_of_any_output_is_made_again(whole: tuple[Path, list[str]], tmp_path: Path) -> None:
    """A rebuild must not take damage for its own work."""
    good, command = whole
    out = tmp_path / "mine"
    shutil.copytree(good, out)
    outputs = {name for stage in STAGES for name in (store.read_receipt(out, stage) or 1 / 0).outputs}
    assert len(outputs) > 10
    for name in sorted(outputs):
        flip(out / name)
        assert any(name in fault for fault in verify_dataset(out, recipe_of(out)).violations), name
        assert call(*command, out)[0] == 0
        assert_same(out, good)


def test_a_recipe_that_is_gone_is_no_other_recipe(whole: tuple[Path, list[str]], tmp_path: Path) -> None:
    out = tmp_path / "mine"
    shutil.copytree(whole[0], out)
    (out / "receipts" / "recipe.toml").unlink()
    for command in ("split", "references", "cluster", "verify"):
        code, said = call(command, out)
        assert code == 1 and "recipe.toml is gone" in said and "--recipe NAME" in said, command


def test_a_build_that_cannot_begin_writes_nothing(sixty: Path, networks: list[str], tmp_path: Path) -> None:
    detector = networks[:2]
    code, said = call("build-refs", "--images", sixty, "--out", tmp_path / "mine", *detector)
    assert code == 1 and "No embedder was named" in said
    assert not (tmp_path / "mine").exists()


def test_another_picture_in_the_place_of_a_photo_is_seen(
    whole: tuple[Path, list[str]], sixty: Path, tmp_path: Path
) -> None:
    """Recorded photographs were moved, and others lie there now under the same names."""
    out, photos = whole[0], tmp_path / "photos"
    shutil.copytree(sixty, photos)
    assert verify_dataset(out, recipe_of(out), images=photos).violations == []
    name = next(iter(lists.read_references(out / "reference_mapping" / "test_references.csv")))
    (photos / name).write_bytes(encode(read(photos / name)[:-1]))
    (fault,) = verify_dataset(out, recipe_of(out), images=photos).violations
    assert name in fault and "another file than the one that was embedded" in fault
