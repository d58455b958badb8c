"""ffhqref test-refs: targets renamed, re-encoded and resized are found in the collection they come from."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from ffhqref.cli import app
from ffhqref.core import images, lists
from ffhqref.core.images import Rgb
from ffhqref.evaluate.testset import CANDIDATES, Thumbs, by_pixels, thumb
from tests.photographs import Known, Once


def run(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["test-refs", *(str(word) for word in words)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.output


def jpeg(image: Rgb, quality: int) -> Rgb:
    return images.decode(images.encode(image, ".jpg", quality))


@pytest.fixture(scope="module")
def published(once: Once, known: list[Known]) -> Path:
    """targets/ and lq/ of ten photographs under other numbers: JPEG of 256 px, two of them in other light."""

    def make(folder: Path) -> None:
        people = {one.person for one in known if sum(other.person == one.person for other in known) >= 4}
        chosen = [one for one in known if one.person in people][::2][:10]
        for number, photo in enumerate(chosen):
            image = jpeg(images.resize(images.read(photo.path), 256, 256), 80)
            if number >= 8:  # no longer its pixels, still its face
                image = np.clip(image * 0.8 + 20, 0, 255).astype(np.uint8)
            images.write(folder / "targets" / f"{9000 + number}.png", image)
            images.write(folder / "lq" / f"{9000 + number}.png", cv2.GaussianBlur(image, (0, 0), 5))
        images.write(folder / "targets" / "stranger.png", np.full((256, 256, 3), 77, np.uint8))
        names = [f"{9000 + number}.png,{one.path.name}\n" for number, one in enumerate(chosen)]
        (folder / "truth.csv").write_text("target,photo\n" + "".join(names))

    return once("published-test", make)


def pairs(path: Path) -> dict[str, str]:
    with path.open(newline="") as file:
        return {row["target"]: row["photo"] for row in csv.DictReader(file)}


def test_a_test_set_in_one_command(
    published: Path, known: list[Known], tmp_path: Path, detector: Path, embedder: Path
) -> None:
    out = tmp_path / "test-ref"
    words = ["--images", known[0].path.parent, "--targets", published / "targets", "--lq", published / "lq",
             "--detector", detector, "--embedder", embedder, "--min-distance", "0.001", "--device", "cpu",
             "--out", out]  # fmt: skip
    said = run(*words)
    assert "10 targets found (8 by pixels, 2 by face), 1 not" in said
    truth = pairs(published / "truth.csv")
    assert pairs(out / "matches.csv") == truth
    rows = lists.read_references(out / "reference_mapping/test_references.csv")
    assert set(rows) <= set(truth.values()) and len(rows) >= 8
    person = {one.path.name: one.person for one in known}
    assert all(person[target] == person[name] for target, found in rows.items() for name in found)
    placed = {path.name for path in (out / "test_images/published_degrad").iterdir()}
    assert placed == {images.png_name(name) for name in rows}
    name = next(iter(rows))
    number = next(target for target, photo in truth.items() if photo == name)
    lq = out / "test_images/published_degrad" / images.png_name(name)
    assert lq.read_bytes() == (published / "lq" / number).read_bytes()
    before = {path: path.stat().st_mtime_ns for path in (out / "test_images").rglob("*.png")}
    run(*words)
    assert before == {path: path.stat().st_mtime_ns for path in (out / "test_images").rglob("*.png")}
    done = CliRunner().invoke(
        app, ["evaluate", "--data", str(out), "--level", "published", "--metrics", "psnr"]
    )
    assert done.exit_code == 0, done.output


def test_the_nearest_by_pixels_is_brute_force() -> None:
    """Dark and bright pictures; of each seventh there is a noisy copy."""
    rng = np.random.default_rng(0)
    rows = rng.uniform(0, 1, (300, 1728)) * np.linspace(40, 255, 300)[:, None]
    near = Thumbs([f"{n:03d}" for n in range(300)], rows.astype(np.float32))
    noisy = near.rows[::7] + rng.normal(0, 1.5, near.rows[::7].shape).astype(np.float32)
    found = by_pixels(Thumbs(near.names[::7], noisy), near)
    assert [match.photo for match in found] == near.names[::7] and len(found) > CANDIDATES
    wanted = np.sqrt(((noisy.astype(np.float64) - near.rows[::7]) ** 2).mean(1))
    assert [match.apart for match in found] == pytest.approx(wanted.tolist(), rel=1e-6)
    assert by_pixels(Thumbs(["x"], rng.uniform(0, 255, (1, 1728)).astype(np.float32)), near) == []


@pytest.mark.parametrize(("second", "photos"), [(3.5, ["a"]), (5.0, []), (9.0, ["a"])])
def test_a_target_between_two_photos_is_neither(second: float, photos: list[str]) -> None:
    """The nearest is 3 of 255 away: another at 3.5 is its copy, one at 5 leaves a doubt, one at 9 none."""
    target = np.full((1, 1728), 100, np.float32)
    near = Thumbs(["a", "b"], np.concatenate([target + 3, target - second]))
    assert [match.photo for match in by_pixels(Thumbs(["x"], target), near)] == photos


def test_small_pictures_outlast_encoding_and_resizing(known: list[Known]) -> None:
    whole = images.read(known[0].path)
    again = jpeg(images.resize(whole, 256, 256), 75)
    other = images.read(known[1].path)
    near, far = (np.sqrt(((thumb(whole) - thumb(one)) ** 2).mean()) for one in (again, other))
    assert near < 3 < 20 < far


@pytest.mark.parametrize(
    ("targets", "sentence"),
    [("nothing", "is not a folder"), ("empty", "holds no PNG"), ("strangers", "shows a photograph of")],
)
def test_bad_input_is_one_sentence(
    known: list[Known], tmp_path: Path, detector: Path, embedder: Path, targets: str, sentence: str
) -> None:
    (tmp_path / "empty").mkdir()
    few = tmp_path / "few"
    for one in known[:3]:
        images.write(few / one.path.name, images.read(one.path))
    images.write(tmp_path / "strangers" / "a.png", np.full((64, 64, 3), 200, np.uint8))
    said = run("--images", few, "--targets", tmp_path / targets, "--detector", detector,
               "--embedder", embedder, "--out", tmp_path / "out", code=1)  # fmt: skip
    assert sentence in said and said.startswith("Error: ")
