"""Predicted labels: networks against plain second implementations, the CSV, what is printed of errors."""

from __future__ import annotations

import csv
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from typer.testing import CliRunner

from ffhqref.cli import app
from ffhqref.core.images import read
from ffhqref.core.store import UserError
from ffhqref.evaluate.demographics import consistency, interval, lines, open_labeller, predict, write_labels
from ffhqref.faces.labels import GenderAge, read_outputs, year_odds
from tests.photographs import Known


def run(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["demographics", *(str(word) for word in words)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.output


# The networks


def test_what_202_outputs_say() -> None:
    found = np.zeros(202)
    found[:2] = 0, np.log(3)  # male at 3 : 1
    found[2::2], found[3::2] = 9, -9
    found[3 : 3 + 60 : 2] = 27  # thirty years passed beyond doubt
    label = read_outputs(found)
    assert (label.gender, label.age) == ("male", 30) and label.gender_probability == pytest.approx(0.75)
    assert label.years is not None and label.years[30] == pytest.approx(1, abs=1e-5)
    three = read_outputs(np.array([2.0, 1.0, 0.41]))
    assert (three.gender, three.age, three.years) == ("female", 41, None)


def test_year_odds_are_brute_force() -> None:
    chances = np.array([0.9, 0.5, 0.2])
    wanted = np.zeros(4)
    for bits in np.ndindex(2, 2, 2):
        wanted[sum(bits)] += np.prod([p if bit else 1 - p for p, bit in zip(chances, bits, strict=True)])
    assert year_odds(chances) == pytest.approx(wanted) and year_odds(chances).sum() == pytest.approx(1)


PACK = """
<ir_version: 8, opset_import: ["" : 17]>
genderage (float[1, 3, 96, 96] x) => (float[1, 3] y) {
  means = GlobalAveragePool (x)
  y = Flatten (means)
}
"""


def test_a_pack_s_network_has_three_outputs(tmp_path: Path) -> None:
    """A stand-in that answers with the mean of each channel: female where red is brighter than green."""
    onnx.save(onnx.parser.parse_model(PACK), tmp_path / "genderage.onnx")
    network = GenderAge(tmp_path / "genderage.onnx", "cpu")
    image = np.zeros((512, 512, 3), np.uint8)
    image[...] = 250, 200, 200
    points = np.array([[190, 240], [320, 240], [256, 310], [205, 370], [310, 370]], np.float32)
    assert network.predict(image, points).gender == "female"
    assert network.predict(image[..., ::-1].copy(), points).gender in ("female", "male")


def plain_resnet34(state: dict[str, Any], x: Any) -> Any:
    """ResNet-34 from its state dict by functions alone, a second time."""
    import torch
    import torch.nn.functional as F

    def conv(name: str, x: Any, stride: int, padding: int) -> Any:
        return F.conv2d(x, state[f"{name}.weight"], None, stride, padding)

    def norm(name: str, x: Any) -> Any:
        mean, var = (state[f"{name}.running_{part}"][:, None, None] for part in ("mean", "var"))
        gain, bias = (state[f"{name}.{part}"][:, None, None] for part in ("weight", "bias"))
        return (x - mean) / torch.sqrt(var + 1e-5) * gain + bias

    x = F.max_pool2d(torch.relu(norm("bn1", conv("conv1", x, 2, 3))), 3, 2, 1)
    for layer, depth in enumerate((3, 4, 6, 3), 1):
        for block in range(depth):
            base, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            y = torch.relu(norm(f"{base}.bn1", conv(f"{base}.conv1", x, stride, 1)))
            y = norm(f"{base}.bn2", conv(f"{base}.conv2", y, 1, 1))
            if f"{base}.downsample.0.weight" in state:
                x = norm(f"{base}.downsample.1", conv(f"{base}.downsample.0", x, stride, 0))
            x = torch.relu(x + y)
    return x.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]


@pytest.fixture(scope="module")
def fairface(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights under the names that torchvision's ResNet-34 has."""
    torch = pytest.importorskip("torch", reason="torch (the extra `train`) is not installed")
    from ffhqref.evaluate.fairface import ResNet34

    torch.manual_seed(0)
    network = ResNet34()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    path = tmp_path_factory.mktemp("fairface") / "res34.pt"
    torch.save(network.state_dict(), path)
    return path


def test_the_resnet_is_the_plain_one(fairface: Path) -> None:
    import torch

    from ffhqref.evaluate.fairface import ResNet34

    state = torch.load(fairface, weights_only=True)
    assert len(state) == 218 and state["layer4.2.conv2.weight"].shape == (512, 512, 3, 3)
    network = ResNet34().eval()
    network.load_state_dict(state)
    x = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(network(x), plain_resnet34(state, x), atol=1e-4)


def test_fairface_labels_a_face(fairface: Path, known: list[Known]) -> None:
    label = open_labeller(fairface).label(read(known[0].path), known[0].landmarks)
    assert label["gender"] in ("male", "female") and label["age"][0].isdigit()
    assert 1 / 7 <= float(label["race_probability"]) <= 1


def test_a_file_that_is_no_fairface(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch (the extra `train`) is not installed")
    torch.save({"fc.weight": torch.zeros(18, 512)}, tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("no weights")
    for name in ("other.pt", "text.pt"):
        with pytest.raises(UserError, match="is not FairFace's ResNet-34"):
            open_labeller(tmp_path / name)


# The table and what is printed


def test_shares_are_never_bare(tmp_path: Path) -> None:
    assert interval(0.6, 0.71) == pytest.approx((0.31, 0.89)) and interval(0.1, 0.71)[0] == 0
    labels = {f"{n}.png": {"gender": "male" if n else "female", "age": str(20 + n)} for n in range(4)}
    person = {f"{n}.png": "ab"[n // 2] for n in range(4)}
    agreed = consistency(labels, person)
    assert agreed is not None and (agreed.pairs, agreed.same_gender) == (2, 0.5)
    assert agreed.age_spread[0] == pytest.approx(0.5)
    write_labels(tmp_path / "labels.csv", labels, "genderage 0123")
    assert (tmp_path / "labels.csv").read_text().splitlines()[:2] == [
        "image,age,gender,predicted_by", "0.png,20,female,genderage 0123",
    ]  # fmt: skip
    assert consistency({}, {}) is None


@pytest.fixture(scope="module")
def genderage(faces_folder: Path) -> Path:
    return faces_folder / "weights" / "insightface_genderage_mobilenet025.onnx"


def test_the_command_labels_a_dataset(built: Path, genderage: Path, tmp_path: Path) -> None:
    import shutil

    out = tmp_path / "mine"
    shutil.copytree(built, out)
    said = run(out, "--network", genderage)
    assert "60 photos labelled" in said and "error unknown" in said and f"split {out} --labels" in said
    with (out / "demographics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60 and all(row["predicted_by"].startswith("genderage ") for row in rows)
    before = (out / "demographics.csv").read_bytes()
    run(out, "--network", genderage, "--workers", 1)
    assert (out / "demographics.csv").read_bytes() == before
    split = ["split", str(out), "--redraw", "--labels", str(out / "demographics.csv"), "--balance", "gender"]
    assert CliRunner().invoke(app, split).exit_code == 0


@pytest.mark.slow
def test_predictions_agree_over_photos_of_one_person(
    photographs: list[Known], genderage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of pairs of photos of one real person at least 97 % have one predicted gender."""
    labeller = open_labeller(genderage, "cpu")
    labels = {str(one.path): labeller.label(read(one.path), one.landmarks) for one in photographs}
    person = {str(one.path): one.person for one in photographs}
    found = consistency(labels, person)
    assert found is not None and found.pairs > 400
    with capsys.disabled():
        low, high = found.age_spread
        print(f"\n{found.pairs} pairs, {found.same_gender:.2%} agree; ages: {low:.1f}, {high:.1f} years")
    assert found.same_gender >= 0.97
    same = [a.person == b.person for a, b in combinations(photographs, 2)]
    assert sum(same) == found.pairs


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["{out}", "--network", "{tmp}/nothing.onnx"], "There is no"),
        (["{out}", "--network", "{tmp}/text.onnx"], "not a network that ONNX Runtime can load"),
        (["{out}", "--network", "{network}"], "no genderage network"),
        (["{tmp}", "--network", "{tmp}/text.onnx"], "Error: "),
    ],
)
def test_bad_input_is_one_sentence(
    built: Path, embedder: Path, tmp_path: Path, words: list[str], sentence: str
) -> None:
    (tmp_path / "text.onnx").write_text("no network")
    given = [word.format(out=built, tmp=tmp_path, network=embedder) for word in words]
    said = run(*given, "--out", tmp_path / "labels.csv", code=1)
    assert sentence in said and said.startswith("Error: ") and callable(lines) and callable(predict)
