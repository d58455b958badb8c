"""Detector and embedder against insightface and ONNX Runtime themselves, and networks that are wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from ffhqref.core import images
from ffhqref.core.store import UserError
from ffhqref.faces import geometry, networks
from ffhqref.faces.geometry import align, similarity_to
from ffhqref.faces.networks import Detector, Embedder, Face, best_placed
from tests.faces.stand_in import write_embedder
from tests.photographs import Known

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def five(known: list[Known]) -> Array:
    """Six aligned faces of six people, 6 x 112 x 112 x 3 RGB."""
    people = {photo.person: photo for photo in known}
    rgb = [align(images.read(photo.path), photo.landmarks) for photo in people.values()]
    colourful = [face for face in rgb if np.abs(face[..., 0].astype(int) - face[..., 2]).mean() > 10]
    return np.stack(colourful[:6])


@pytest.fixture(scope="module")
def scrfd(real_detector: Path) -> Detector:
    return Detector(real_detector, "cpu")


@pytest.fixture(scope="module")
def arcface(embedder: Path) -> Embedder:
    return Embedder(embedder, "cpu")


def directly(path: Path, rgb: Array) -> Array:
    """ONNX Runtime alone, one face at a time: N x 112 x 112 x 3 -> N x D unit rows."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    rows = []
    for face in rgb:
        blob = ((face.astype(np.float32) - 127.5) / 127.5).transpose(2, 0, 1)[None]
        row = np.asarray(session.run(None, {name: blob})[0][0], np.float64)
        rows.append(row / np.linalg.norm(row))
    return np.array(rows)


def test_embeddings_are_of_rgb_and_not_of_bgr(embedder: Path, arcface: Embedder, five: Array) -> None:
    found = arcface.embed(five)
    assert found.dtype == np.float32 and found.shape == (6, 512)
    assert np.abs(np.linalg.norm(found.astype(np.float64), axis=1) - 1).max() < 1e-6
    rgb, bgr = directly(embedder, five), directly(embedder, five[..., ::-1])
    assert np.abs(found - rgb).max() < 1e-5
    assert np.abs(found - bgr).max(axis=1).min() > 0.01, "a channel swap must show in every face"


def test_the_whole_way_equals_insightfaces_own(
    built: Path, drawn: Path, detector: Path, embedder: Path
) -> None:
    """imread (BGR), SCRFD, norm_crop and ArcFaceONNX of insightface give the embeddings in the dataset."""
    from insightface.model_zoo.arcface_onnx import ArcFaceONNX
    from insightface.model_zoo.scrfd import SCRFD
    from insightface.utils.face_align import norm_crop

    from ffhqref.core import tables

    cpu = ["CPUExecutionProvider"]
    finder = SCRFD(str(detector), onnxruntime.InferenceSession(str(detector), providers=cpu))
    finder.prepare(0, det_thresh=0.5)
    network = ArcFaceONNX(str(embedder), onnxruntime.InferenceSession(str(embedder), providers=cpu))
    embeddings = tables.load_embeddings(built)
    tried = 0
    for at in range(0, len(embeddings.names), 12):
        bgr = cv2.imread(str(drawn / "photos" / embeddings.names[at]))
        boxes, points = finder.detect(bgr, input_size=(320, 320))
        if len(boxes) != 1:
            continue
        theirs = network.get_feat(norm_crop(bgr, points[0]))[0].astype(np.float64)
        theirs /= np.linalg.norm(theirs)
        assert embeddings.vectors[at] @ theirs > 0.9999
        swapped = network.get_feat(norm_crop(bgr[..., ::-1].copy(), points[0]))[0]
        assert embeddings.vectors[at] @ swapped / np.linalg.norm(swapped) < 0.9999
        tried += 1
    assert tried >= 4


def test_the_similarity_is_insightfaces(known: list[Known]) -> None:
    from insightface.utils.face_align import estimate_norm, norm_crop

    for photo in known[::4]:
        ours = similarity_to(photo.landmarks, np.array(geometry.TEMPLATE, np.float32))
        assert np.abs(ours - estimate_norm(photo.landmarks)).max() < 1e-3
        picture = images.read(photo.path)
        theirs = norm_crop(picture, photo.landmarks)
        assert np.abs(align(picture, photo.landmarks).astype(int) - theirs).mean() < 0.05


def test_the_similarity_finds_a_planted_one_and_never_mirrors() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        turn, scale, shift = rng.uniform(-3, 3), rng.uniform(0.1, 9), rng.uniform(-500, 500, 2)
        matrix = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        points = rng.uniform(0, 512, (5, 2))
        found = similarity_to(points, points @ matrix.T + shift)
        assert np.allclose(found, np.column_stack([matrix, shift]), atol=1e-6)
    mirrored = np.array(geometry.TEMPLATE) * (-1, 1)
    assert np.linalg.det(similarity_to(mirrored, np.array(geometry.TEMPLATE))[:, :2]) > 0


@pytest.fixture
def eight_bit(faces_folder: Path) -> Path:
    """A real network that says it takes batches."""
    return faces_folder / "weights" / "w600k_mbf_int8.onnx"


@pytest.fixture
def first_of_all(tmp_path: Path) -> Path:
    """A network that gives for each face of a batch what it gives for the first."""
    return write_embedder(tmp_path / "lies.onnx", wrong_in_batches=True)


@pytest.mark.parametrize("which", ["first_of_all", "eight_bit"])
def test_a_network_that_lies_about_its_batch_is_found_out(
    which: str, request: pytest.FixtureRequest, five: Array
) -> None:
    path: Path = request.getfixturevalue(which)
    network = Embedder(path, "cpu")
    assert not network.takes_batches
    assert np.abs(network.embed(five) - directly(path, five)).max() < 1e-5
    single = np.concatenate([network.embed(five[i : i + 1]) for i in range(6)])
    assert np.array_equal(network.embed(five), single)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    blob = ((five.astype(np.float32) - 127.5) / 127.5).transpose(0, 3, 1, 2)
    together = np.asarray(session.run(None, {session.get_inputs()[0].name: blob})[0])
    assert together.shape != (6, network.dimension) or (
        np.abs(together / np.linalg.norm(together, axis=1, keepdims=True) - directly(path, five)).max() > 0.01
    ), "were this network right in batches, the test would show nothing"


def test_a_network_of_fixed_batch_works(tmp_path: Path, five: Array) -> None:
    path = write_embedder(tmp_path / "one.onnx", batch=1)
    network = Embedder(path, "cpu")
    assert network.dimension == 128 and not network.takes_batches
    assert np.abs(network.embed(five) - directly(path, five)).max() < 1e-5


def test_a_batch_gives_what_single_faces_give(arcface: Embedder, five: Array) -> None:
    assert arcface.takes_batches
    single = np.concatenate([arcface.embed(five[i : i + 1]) for i in range(6)])
    for size in (2, 3, 6):
        rows = [arcface.embed(five[i : i + size]) for i in range(0, 6, size)]
        assert np.array_equal(np.concatenate(rows), single), "to the last bit"
    assert arcface.embed(five[:0]).shape == (0, 512)


# networks that are wrong

TINY = {"in": [1, 3, 112, 112]}


def network(path: Path, outputs: int, shape: list[int], value: float, input_shape: list[Any]) -> Path:
    """An ONNX file with constant outputs of a shape, whatever comes in."""
    takes = helper.make_tensor_value_info("in", TensorProto.FLOAT, input_shape)
    filled = helper.make_tensor("value", TensorProto.FLOAT, [1], [value])
    size = helper.make_tensor("shape", TensorProto.INT64, [len(shape)], shape)
    nodes = [helper.make_node("ConstantOfShape", ["shape"], [f"o{i}"], value=filled) for i in range(outputs)]
    gives = [helper.make_tensor_value_info(f"o{i}", TensorProto.FLOAT, shape) for i in range(outputs)]
    graph = helper.make_graph(nodes, "wrong", [takes], gives, [size])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def refused(make: Any, path: Path) -> str:
    """The one sentence with which a network is refused."""
    with pytest.raises(UserError) as caught:
        make(path)
    told = str(caught.value)
    assert str(path) in told and "\n" not in told and told.rstrip().endswith(".") and len(told) < 400
    return told


@pytest.mark.parametrize("make", [Detector, Embedder])
def test_what_is_no_network_is_refused(make: Any, tmp_path: Path, embedder: Path) -> None:
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "text.onnx").write_text("<html>Quota exceeded</html>\n" * 50)
    (tmp_path / "cut.onnx").write_bytes(embedder.read_bytes()[:700_000])
    (tmp_path / "folder.onnx").mkdir()
    for name in ("empty", "text", "cut"):
        assert "not a network that ONNX Runtime can load" in refused(make, tmp_path / f"{name}.onnx")
    for name in ("folder", "missing"):
        assert "no network file" in refused(make, tmp_path / f"{name}.onnx")


def test_weights_in_another_file_are_refused(tmp_path: Path, embedder: Path) -> None:
    """The digest of the network's one file must tell what it computes."""
    path = tmp_path / "net.onnx"
    onnx.save(onnx.load(str(embedder)), str(path), save_as_external_data=True, location="w.data")
    for make in (Embedder, Detector):
        with pytest.raises(UserError, match="keeps weights in another file"):
            make(path, "cpu")


def test_a_limit_on_memory_is_said_before_the_network_is_loaded(embedder: Path) -> None:
    """ONNX Runtime aborts the process where it cannot have what it asks for."""
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom ffhqref.faces.networks import Embedder\n"
        "taken = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (taken + int(sys.argv[2]), resource.RLIM_INFINITY))\n"
        "Embedder(Path(sys.argv[1]), 'cpu')"
    )

    def run(room: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, str(embedder), str(room)]
        return subprocess.run(command, capture_output=True, text=True)

    short = run(400 << 20)
    assert short.returncode == 1 and "ulimit -v unlimited" in short.stderr
    assert run(900 << 20).returncode == 0


def test_a_detector_is_no_embedder_and_the_other_way_round(detector: Path, embedder: Path) -> None:
    assert "not an ArcFace network" in refused(Embedder, detector)
    assert "not an SCRFD detector" in refused(Detector, embedder)


def test_networks_of_another_kind_are_refused(faces_folder: Path) -> None:
    weights = faces_folder / "weights"
    others = ("insightface_genderage_mobilenet025", "face_detection_yunet_2023mar")
    for name in ("scrfd_2.5g_bnkps", *others):
        assert "not an ArcFace network" in refused(Embedder, weights / f"{name}.onnx")
    for name in ("w600k_mbf_dequant_fp32", *others):
        assert "not an SCRFD detector" in refused(Detector, weights / f"{name}.onnx")


@pytest.mark.parametrize(
    ("outputs", "shape", "input_shape"),
    [
        (1, [1, 77], ["N", 3, 112, 112]),
        (1, [1, 512, 1, 1], ["N", 3, 112, 112]),
        (1, [2, 512], ["N", 3, 112, 112]),
        (2, [1, 512], ["N", 3, 112, 112]),
        (1, [1, 512], ["N", 3, 224, 224]),
        (1, [1, 512], ["N", 112, 112, 3]),
        (1, [2, 512], [2, 3, 112, 112]),
    ],
)
def test_an_embedder_of_the_wrong_shape_is_refused(
    tmp_path: Path, outputs: int, shape: list[int], input_shape: list[Any]
) -> None:
    refused(Embedder, network(tmp_path / "net.onnx", outputs, shape, 0.5, input_shape))


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_an_embedder_that_gives_no_direction_is_refused(tmp_path: Path, value: float) -> None:
    path = network(tmp_path / "net.onnx", 1, [1, 512], value, ["N", 3, 112, 112])
    assert "zero or not a number" in refused(
        lambda path: Embedder(path, "cpu").embed(np.zeros((1, 112, 112, 3), np.uint8)), path
    )


@pytest.mark.parametrize("outputs", [9, 15])
def test_a_detector_with_nonsense_outputs_is_refused(tmp_path: Path, outputs: int) -> None:
    path = network(tmp_path / "net.onnx", outputs, [1, 7], 0.9, [1, 3, "H", "W"])
    refused(lambda path: Detector(path, "cpu"), path)


def test_cuda_without_cuda_is_an_error(embedder: Path) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(UserError, match="--device cuda"):
        Embedder(embedder, "cuda")
    assert networks.provider_for("auto") == networks.provider_for("cpu") == "CPUExecutionProvider"


# finding faces


def off_by(face: Face, landmarks: Array) -> float:
    """The greatest distance of the five points from where they should be, in eye distances."""
    eyes = float(np.linalg.norm(landmarks[1] - landmarks[0]))
    return float(np.linalg.norm(face.landmarks - landmarks, axis=1).max()) / eyes


def cut(photo: Known, border: float, scale: float) -> tuple[Array, Array]:
    """What lies around the landmarks, `border` eye distances of it, and the landmarks in it, px."""
    px = border * float(np.linalg.norm(photo.landmarks[1] - photo.landmarks[0]))
    left, top = np.floor(photo.landmarks.min(0) - px).clip(0).astype(int)
    right, bottom = np.ceil(photo.landmarks.max(0) + px).astype(int)
    picture = np.ascontiguousarray(images.read(photo.path)[top:bottom, left:right])
    return cv2.resize(picture, None, fx=scale, fy=scale), (photo.landmarks - (left, top)) * scale


@pytest.mark.parametrize("scale", [0.5, 4])
@pytest.mark.parametrize("border", [0.35, 0.25])
def test_a_face_that_fills_the_picture_is_found_by_padding(
    scrfd: Detector, photographs: list[Known], border: float, scale: float
) -> None:
    plain, padded = 0, 0
    chosen = [p for p in photographs if p.set == "celebref512"][::12]
    for photo in chosen:
        tight, landmarks = cut(photo, border, scale)
        plain += any(off_by(face, landmarks) < 0.25 for face in scrfd._detect(tight, 0, 320))
        found = scrfd.find(tight)
        padded += bool(found) and off_by(found[0], landmarks) < 0.25
        assert len(scrfd.find_all(tight)) <= 1
    assert padded >= len(chosen) - 1 > plain + 3, f"{plain} plain, {padded} padded of {len(chosen)}"


def test_padding_does_not_take_many_times_the_memory_of_a_photograph() -> None:
    """The padded square has the detector's size, whatever the photograph's."""
    seen, scale, corner = networks._padded(np.full((3000, 4000, 3), 9, np.uint8), 0.5, 320)
    assert seen.shape == (320, 320, 3) and scale == 320 / 8000 and corner == 80
    inside = seen[80:200, 80:240]
    assert (inside == 9).all() and seen.sum() == inside.sum()


def collage(photographs: list[Known], cell: int, columns: int, rows: int) -> tuple[Array, list[Array]]:
    """Photographs of different people side by side, and the landmarks of each, px."""
    people = {photo.person: photo for photo in photographs if photo.set == "celebref512"}
    canvas = np.zeros((rows * cell, columns * cell, 3), np.uint8)
    points = []
    for at, photo in enumerate(list(people.values())[: columns * rows]):
        y, x = divmod(at, columns)
        canvas[y * cell : (y + 1) * cell, x * cell : (x + 1) * cell] = images.resize(
            images.read(photo.path), cell, cell
        )
        points.append(photo.landmarks * (cell / 512) + (x * cell, y * cell))
    return canvas, points


@pytest.mark.parametrize("cell", [200, 512])
def test_all_faces_of_a_collage_are_found_once(scrfd: Detector, photographs: list[Known], cell: int) -> None:
    canvas, points = collage(photographs, cell, 3, 2)
    found = scrfd.find_all(canvas)
    assert len(found) == 6
    for landmarks in points:
        assert min(off_by(face, landmarks) for face in found) < 0.2
    lefts = [float(face.box[0]) for face in found]
    assert lefts == sorted(lefts)


def test_the_largest_near_the_middle_is_chosen(scrfd: Detector, photographs: list[Known]) -> None:
    canvas, points = collage(photographs, 256, 3, 1)
    assert off_by(scrfd.find(canvas)[0], points[1]) < 0.2, "of equals the middle one"
    wide = np.zeros((512, 768, 3), np.uint8)  # a large face 128 px off the middle, a small one 60 px off
    wide[:, :512] = collage(photographs, 512, 1, 1)[0]
    wide[216:296, 512:592] = images.resize(canvas[:, :256], 80, 80)
    assert len(scrfd.find_all(wide)) == 2
    assert off_by(scrfd.find(wide)[0], points[0] * 2) < 0.2


def test_best_placed_is_area_less_twice_the_squared_distance_from_the_middle() -> None:
    def face(x: float, y: float, side: float) -> Face:
        box = np.array([x - side / 2, y - side / 2, x + side / 2, y + side / 2], np.float32)
        return Face(box, 0.9, np.zeros((5, 2), np.float32))

    middle, edge, large = face(50, 50, 20), face(90, 50, 40), face(70, 50, 50)
    assert best_placed([edge, large, middle], 100, 100) == [large, middle, edge]  # 1700, 400, -1600
    assert best_placed([], 100, 100) == []


def test_no_face_is_no_face(scrfd: Detector) -> None:
    for size in ((64, 64), (300, 200), (17, 16), (16, 500)):
        assert scrfd.find(np.full((*size, 3), 127, np.uint8)) == []
        assert scrfd.find_all(np.full((*size, 3), 127, np.uint8)) == []


def test_a_small_face_in_a_large_photograph_is_found(scrfd: Detector, photographs: list[Known]) -> None:
    canvas, points = collage(photographs, 120, 1, 1)
    large = cv2.copyMakeBorder(canvas, 700, 700, 1500, 1500, cv2.BORDER_REPLICATE)
    found = scrfd.find(large)
    assert found and off_by(found[0], points[0] + (1500, 700)) < 0.3


# crops


def test_the_papers_crop() -> None:
    """6.25 % to 93.75 % of height and width, by area: on 128 px the 112 px in the middle as they are."""
    picture = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    assert np.array_equal(geometry.crop_middle(picture), picture[8:120, 8:120])
    double = picture.repeat(4, 0).repeat(4, 1)
    assert np.array_equal(geometry.crop_middle(double), picture[8:120, 8:120])


def test_ffhqs_frame_keeps_an_ffhq_picture_where_it_is(photographs: list[Known]) -> None:
    """An FFHQ photograph is framed already, so its frame is the whole picture, within SCRFD's points."""
    tried = 0
    for photo in photographs:
        if photo.set == "ffhq_singles":
            side = images.read(photo.path).shape[0]
            matrix = geometry.ffhq_matrix(photo.landmarks, side)
            middle = matrix @ (side / 2, side / 2, 1)
            assert np.abs(middle - side / 2).max() < 0.08 * side
            assert 0.85 < np.hypot(*matrix[:, 0]) < 1.15
            tried += 1
    assert tried >= 10


def test_onnx_runtime_writes_and_sends_nothing_of_its_own(tmp_path: Path) -> None:
    """Its telemetry keeps a device id and a queue of events below ~/.cache, from the import on."""
    program = (
        "import pathlib, sys; from ffhqref.faces import networks\n"
        "networks.open_session(pathlib.Path(sys.argv[1]), 'CPUExecutionProvider')\n"
    )
    network = write_embedder(tmp_path / "network.onnx")
    quiet = ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "CI", "GITHUB_ACTIONS")  # each would hide it
    there = {key: value for key, value in os.environ.items() if key not in quiet}
    home = tmp_path / "home"
    home.mkdir()
    command = [sys.executable, "-c", program, str(network)]
    subprocess.run(command, env=there | {"HOME": str(home)}, check=True)
    assert list(home.rglob("*")) == []
