"""Adapters of other libraries, proven with stand-ins for their modules, and face parsing for fLPIPS."""

from __future__ import annotations

import csv
import importlib.machinery
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import pytest
from PIL import Image

from ffhqref.core import images, tables
from ffhqref.core.images import BadImage
from ffhqref.evaluate import adapters, parsing
from ffhqref.evaluate.cases import LOW_QUALITY, Method, of_folders
from ffhqref.evaluate.run import EvaluateOptions, evaluate
from ffhqref.evaluate.summary import ntire_score, summarise

torch = pytest.importorskip("torch", reason="torch (the extra `train`) is not installed")


def module(name: str, **content: Any) -> types.ModuleType:
    made = types.ModuleType(name)
    made.__spec__ = importlib.machinery.ModuleSpec(name, None)
    made.__dict__.update(content)
    return made


class Metric:
    """A stand-in of a pyiqa metric: the mean absolute difference, or the mean where there is no target."""

    calls: list[tuple[str, tuple[int, ...], float]] = []

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, image: Any, target: Any = None) -> Any:
        assert image.dtype == torch.float32 and 0 <= float(image.min()) and float(image.max()) <= 1
        self.calls.append((self.name, tuple(image.shape), float(image[0, 0].mean())))
        return (
            (image - target).abs().mean().reshape(1, 1) if target is not None else image.mean().reshape(1, 1)
        )


@pytest.fixture
def pyiqa(monkeypatch: pytest.MonkeyPatch) -> type[Metric]:
    Metric.calls = []
    monkeypatch.setitem(
        sys.modules, "pyiqa", module("pyiqa", create_metric=lambda name, device: Metric(name))
    )
    return Metric


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """clean/, lq/ and a/ of three pictures; red differs by 51 of 255 in a."""
    for number in range(3):
        clean = np.full((64, 64, 3), 40 * number, np.uint8)
        shifted = clean.copy()
        shifted[..., 0] += 51
        images.write(tmp_path / "clean" / f"{number}.png", clean)
        images.write(tmp_path / "lq" / f"{number}.png", clean + 10)
        images.write(tmp_path / "a" / f"{number}.png", shifted)
    return tmp_path


def measured(folders: Path, **options: Any) -> Any:
    cases = of_folders(targets=folders / "clean", lq=folders / "lq")
    chosen = EvaluateOptions(size=64, **options)
    return evaluate(cases, [Method("a", folders / "a")], folders / "out", chosen)


def test_pictures_go_in_as_rgb_between_0_and_1(folders: Path, pyiqa: type[Metric]) -> None:
    found = measured(folders, metrics=("lpips", "dists", "niqe", "musiq", "clipiqa"))
    assert list(found.values["a"]["lpips"].values()) == pytest.approx([0.2 / 3] * 3)
    assert list(found.values[LOW_QUALITY]["dists"].values()) == pytest.approx([10 / 255] * 3)
    first = (0 + 51 + 0 + 0) / 255 / 3  # red alone
    assert found.values["a"]["niqe"]["0.png"] == pytest.approx(first)
    assert {name for name, *_ in pyiqa.calls} == {"lpips-vgg", "dists", "niqe", "musiq", "clipiqa"}
    assert {shape for _, shape, _ in pyiqa.calls} == {(1, 3, 64, 64)}
    rows = tables.read(folders / "out/scores.parquet", tables.SCORES).to_pylist()
    assert {row["computed_by"] for row in rows if row["metric"] == "lpips"} == {
        "pyiqa of unknown version lpips-vgg"
    }
    count = len(pyiqa.calls)
    assert measured(folders, metrics=("lpips", "dists", "niqe", "musiq", "clipiqa")).values == found.values
    assert len(pyiqa.calls) == count  # what is known is not measured again


def test_lpips_serves_where_pyiqa_is_not_there(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranges = []

    class Lpips:
        def __init__(self, net: str, verbose: bool) -> None:
            assert net == "vgg" and not verbose

        def to(self, device: str) -> Lpips:
            return self

        eval = lambda self: self  # noqa: E731

        def __call__(self, one: Any, other: Any) -> Any:
            ranges.extend([float(one.min()), float(other.min())])
            return (one - other).abs().mean().reshape(1, 1, 1, 1)

    monkeypatch.setitem(sys.modules, "lpips", module("lpips", LPIPS=Lpips))
    found = measured(folders, metrics=("lpips",))
    assert list(found.values["a"]["lpips"].values()) == pytest.approx([2 * 0.2 / 3] * 3)
    assert min(ranges) == -1.0


def test_what_is_absent_is_named_with_the_command(folders: Path) -> None:
    found = measured(folders, metrics=("psnr", "lpips", "flpips", "fid"))
    assert [note.partition(":")[0] for note in found.notes] == ["lpips", "flpips", "fid"]
    assert "needs pyiqa, which is not installed: pip install 'ffhqref[eval]'" in found.notes[0]
    assert "clean-fid" in found.notes[2] and set(found.values["a"]) == {"psnr"}


def test_fid_sees_exactly_the_usable_pictures(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[list[str], list[str]]] = []

    def compute_fid(one: str, other: str = "", **options: Any) -> float:
        assert options["mode"] == "clean"
        seen.append(
            (
                [p.name for p in sorted(Path(one).iterdir())],
                [p.name for p in sorted(Path(other).iterdir())] if other else [options["dataset_name"]],
            )
        )
        return 12.5  # fmt: skip

    fid = module("cleanfid.fid", compute_fid=compute_fid)
    monkeypatch.setitem(sys.modules, "cleanfid", module("cleanfid", fid=fid))
    monkeypatch.setitem(sys.modules, "cleanfid.fid", fid)
    images.write(folders / "a" / "sheets" / "x.png", np.zeros((8, 8, 3), np.uint8))
    (folders / "a" / "1.png").unlink()
    found = measured(folders, metrics=("psnr", "fid"))
    assert found.overall == {LOW_QUALITY: {"fid": 12.5}, "a": {"fid": 12.5}}
    assert [len(results) for results, _ in seen] == [3, 2, 3] and {len(t) for _, t in seen} == {3}
    assert found.overall_full == {"a": {"fid": 12.5}}  # its failure counted as the low-quality picture
    assert summarise(found).cells["a"]["fid"].mean.text(2) == "12.50"
    measured(folders, metrics=("fid",), fid_statistics="FFHQ:1024:trainval70k")
    assert seen[-1][1] == ["FFHQ"]


def test_published_statistics_come_with_pyiqa(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def create_metric(name: str, device: str) -> Any:
        assert name == "fid"
        return lambda folder, **options: asked.append(options) or 37.6

    monkeypatch.setitem(sys.modules, "pyiqa", module("pyiqa", create_metric=create_metric))
    found = measured(folders, metrics=("fid",), fid_statistics="FFHQ:512:trainval70k")
    assert found.overall["a"] == {"fid": 37.6} and not found.notes
    assert asked[0]["dataset_res"] == 512 and asked[0]["mode"] == "clean"
    rows = tables.read(folders / "out/scores.parquet", tables.SCORES).to_pylist()
    assert {row["computed_by"] for row in rows} == {"pyiqa of unknown version against FFHQ:512:trainval70k"}


def test_the_challenge_s_score() -> None:
    means = {"clipiqa": 0.5, "maniqa": 0.4, "musiq": 60.0, "niqe": 4.0, "qalign": 3.0, "fid": 40.0}
    assert ntire_score(means) == pytest.approx(0.5 + 0.4 + 0.6 + 0.6 + 0.6 + 0.6)
    assert ntire_score({**means, "niqe": 12.0, "fid": 120.0}) == pytest.approx(0.5 + 0.4 + 0.6 + 0.6)


def test_flpips_sees_the_face_alone(folders: Path, pyiqa: type[Metric]) -> None:
    """Label 1 is none of the paper's twelve classes, 2 is. Half the picture has it: half the difference."""
    for number in range(2):
        labels = np.ones((32, 32), np.uint8)
        labels[:16] = 2
        (folders / "maps").mkdir(exist_ok=True)
        Image.fromarray(labels).save(folders / "maps" / f"{number}.png")
    found = measured(folders, metrics=("lpips", "flpips"), parsing=folders / "maps")
    assert found.values["a"]["flpips"] == {"0.png": pytest.approx(0.1 / 3), "1.png": pytest.approx(0.1 / 3)}
    with (folders / "out/failures.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == "a"]
    assert [(row["image"], row["status"]) for row in rows] == [("2.png", "no_parsing")]
    assert not found.failures  # the map is missing, no result


PARSER = """
<ir_version: 8, opset_import: ["" : 17]>
parser (float[1, 3, 8, 8] x) => (float[1, 19, 8, 8] y)
<int64[1] first = {0}, int64[1] second = {1}> {
  red = Slice (x, first, second, second)
  y = Add (red, bias)
}
"""


def test_an_onnx_parser_gives_labels(tmp_path: Path) -> None:
    """A stand-in whose class 10 wins everywhere."""
    model = onnx.parser.parse_model(PARSER)
    bias = (np.arange(19) == 10).astype(np.float32).reshape(1, 19, 1, 1)
    model.graph.initializer.append(onnx.numpy_helper.from_array(bias, "bias"))
    onnx.save(model, tmp_path / "parser.onnx")
    mask = parsing.open_masks(tmp_path / "parser.onnx", 16)("x", np.zeros((64, 64, 3), np.uint8))
    assert mask.shape == (16, 16) and mask.all() and 10 in parsing.CLASSES


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.write_bytes(b"no picture"), "cannot be read"),
        (lambda path: Image.new("RGB", (4, 4)).save(path), "not an 8-bit label map"),
        (lambda path: Image.new("L", (4, 4), 19).save(path), "labels above 18"),
    ],
)
def test_hostile_maps_are_refused(tmp_path: Path, make: Callable[[Path], object], reason: str) -> None:
    make(tmp_path / "0.png")
    with pytest.raises(BadImage, match=reason):
        parsing.read_labels(tmp_path, "0.jpg")


def test_masks_keep_the_paper_s_classes() -> None:
    labels = np.arange(19, dtype=np.uint8).reshape(1, 19).repeat(19, 0)
    kept = np.flatnonzero(parsing.mask_of(labels, 19)[0]).tolist()
    assert kept == [2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15]
    assert set(adapters.EXTERNAL) >= {"lpips", "flpips", "dists", "niqe", "musiq", "clipiqa"}
