"""Recognisers in torch against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from ffhqref.core.store import UserError
from ffhqref.refldm.training import onnx_torch

TOLERANCE = 1e-4


def runtime(path: Path, faces: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name  # a graph may have a fixed batch of 1
    return np.concatenate([session.run(None, {name: face[None]})[0] for face in faces])


@pytest.fixture
def other_embedder(faces_folder: Path) -> Path:
    """One of a fixed batch, with 128 numbers."""
    return faces_folder / "weights" / "mobilefacenet_foamliu_128d.onnx"


@pytest.mark.parametrize("which", ["embedder", "real_embedder", "other_embedder"])
def test_whole_networks(which: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(which)
    module = onnx_torch.load_recogniser(path)
    faces = np.random.default_rng(0).uniform(-1, 1, (2, 3, 112, 112)).astype(np.float32)
    given = torch.from_numpy(faces).requires_grad_()
    ours = module(given)
    theirs = runtime(path, faces)
    assert ours.shape == theirs.shape and module.side == 112
    assert np.abs(ours.detach().numpy() - theirs).max() <= TOLERANCE
    ours[0].sum().backward()  # the gradient goes through, and stays with its own row
    assert given.grad[0].abs().sum() > 0 and not given.grad[1].any()
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_the_demonstration_network() -> None:
    """Its weights are kept as float16."""
    from ffhqref.demo.run import EMBEDDER

    module = onnx_torch.load_recogniser(EMBEDDER)
    faces = np.random.default_rng(0).uniform(-1, 1, (2, 3, 112, 112)).astype(np.float32)
    assert module.side == 112
    assert np.abs(module(torch.from_numpy(faces)).numpy() - runtime(EMBEDDER, faces)).max() <= TOLERANCE


def network(path: Path, nodes: list[Any], rng: np.random.Generator, outputs: list[str] | None = None) -> Path:
    """A file whose weights are drawn; `nodes` are (operator, inputs, output, attributes)."""
    shapes = {"w": (4, 3, 3, 3), "b": (4,), "d": (4, 1, 3, 3), "gamma": (4,), "beta": (4,), "mean": (4,),
              "slope": (4, 1, 1), "fc": (7, 4), "fcb": (7,)}  # fmt: skip
    weights = {name: rng.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}
    weights |= {"var": rng.uniform(0.5, 2, 4).astype(np.float32)}
    weights |= {"scale": np.float32([0.5]), "shape": np.array([0, -1], np.int64)}
    graph = helper.make_graph(
        [helper.make_node(kind, inputs, [output], **more) for kind, inputs, output, more in nodes],
        "recogniser",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 16, 16])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs or [nodes[-1][2]]],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))
    return path


def residual() -> list[Any]:
    """The kinds of an R50, and their kin."""
    return [
        ("Mul", ["x", "scale"], "0", {}),
        ("Conv", ["0", "w", "b"], "1", {"pads": [1, 1, 0, 0], "strides": [2, 2], "kernel_shape": [3, 3]}),
        ("BatchNormalization", ["1", "gamma", "beta", "mean", "var"], "2", {"epsilon": 1e-3}),
        ("PRelu", ["2", "slope"], "3", {}),
        ("Conv", ["3", "d"], "4", {"pads": [1, 1, 1, 1], "group": 4}),
        ("Sub", ["3", "4"], "5", {}),
        ("Div", ["5", "scale"], "6", {}),
        ("Add", ["6", "2"], "7", {}),
        ("Clip", ["7", "", "scale1"], "8", {}),
        ("LeakyRelu", ["8"], "9", {"alpha": 0.2}),
        ("MaxPool", ["9"], "10", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("Sigmoid", ["10"], "11", {}),
        ("Concat", ["10", "11"], "12", {"axis": 2}),
        ("GlobalAveragePool", ["12"], "13", {}),
        ("Dropout", ["13"], "14", {}),
        ("Flatten", ["14"], "15", {"axis": 1}),
        ("Gemm", ["15", "fc", "fcb"], "16", {"transB": 1, "alpha": 0.5, "beta": 2.0}),
        ("Relu", ["16"], "17", {}),
        ("Identity", ["17"], "18", {}),
        ("Transpose", ["18"], "19", {"perm": [0, 1]}),
        ("Reshape", ["19", "shape"], "20", {}),
    ]


def test_every_operator(tmp_path: Path) -> None:
    nodes = residual()
    nodes.insert(0, ("Constant", [], "scale1", {"value": numpy_helper.from_array(np.array(0.7, np.float32))}))
    path = network(tmp_path / "all.onnx", nodes, np.random.default_rng(3))
    used = {node[0] for node in nodes} | {"MatMul", "Cast"}  # which the tests above have
    assert used - {"Constant"} == set(onnx_torch.OPERATORS)
    faces = np.random.default_rng(1).uniform(-1, 1, (2, 3, 16, 16)).astype(np.float32)
    ours = onnx_torch.load_recogniser(path)(torch.from_numpy(faces)).detach().numpy()
    assert ours.shape == (2, 7) and ours.any()
    assert np.abs(ours - runtime(path, faces)).max() <= TOLERANCE


def test_an_unknown_operator_is_named(tmp_path: Path) -> None:
    path = network(tmp_path / "odd.onnx", [("Erf", ["x"], "y", {})], np.random.default_rng(0))
    with pytest.raises(UserError, match=r"odd.onnx uses Erf"):
        onnx_torch.load_recogniser(path)


@pytest.mark.parametrize("content", [b"", b"\x00\x01garbage", b"PK\x03\x04" * 9])
def test_damaged_files_are_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(UserError, match="bad.onnx"):
        onnx_torch.load_recogniser(path)


def test_what_cannot_be_run_is_named(tmp_path: Path) -> None:
    path = network(tmp_path / "misfit.onnx", [("Add", ["x", "w"], "y", {})], np.random.default_rng(0))
    with pytest.raises(UserError, match="misfit.onnx: Add y cannot be run"):
        onnx_torch.load_recogniser(path)(torch.zeros(1, 3, 16, 16))
    with pytest.raises(UserError, match="There is no network"):
        onnx_torch.load_recogniser(tmp_path / "none.onnx")


def test_weights_in_another_file_are_refused(tmp_path: Path) -> None:
    path = network(tmp_path / "apart.onnx", [("Relu", ["x"], "y", {})], np.random.default_rng(0))
    onnx.save(onnx.load(str(path)), str(path), save_as_external_data=True, location="w.bin", size_threshold=0)
    with pytest.raises(UserError, match="keeps its weights in another file"):
        onnx_torch.load_recogniser(path)
