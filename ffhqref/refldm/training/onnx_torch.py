"""A recogniser's ONNX file -> a torch module, so that gradients flow through it.

Only what such networks are made of is known; any other operator is refused by its name.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from google.protobuf.message import DecodeError
from onnx import numpy_helper
from torch import Tensor, nn

from ffhqref.core.store import UserError

MAX_BYTES = 1 << 30  # of a file; the largest recognisers in use have 260 MB
Attributes = dict[str, Any]  # of a node; their kinds are those of the operator
Operator = Callable[..., Tensor]  # attributes, then the inputs in order (None where left out) -> output


def _conv(at: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if weight.dim() != 4 or at.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise ValueError("only 2-D convolutions with explicit padding are known")
    top, left, bottom, right = at.get("pads", [0, 0, 0, 0])
    padding = (top, left)
    if (top, left) != (bottom, right):
        x, padding = F.pad(x, (left, right, top, bottom)), (0, 0)
    return F.conv2d(
        x, weight, bias, at.get("strides", [1, 1]), padding, at.get("dilations", [1, 1]), at.get("group", 1)
    )


def _prelu(at: Attributes, x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x >= 0, x, x * slope)


def _clip(at: Attributes, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Bounds are inputs since version 11, attributes before."""
    return torch.clamp(x, at.get("min") if low is None else low, at.get("max") if high is None else high)


def _reshape(at: Attributes, x: Tensor, wanted: Tensor) -> Tensor:
    """A 0 keeps the input's size there. A graph of a fixed batch says 1 where any batch is meant."""
    shape = [int(n) for n in wanted.tolist()]
    if at.get("allowzero", 0) == 0:
        shape = [x.shape[i] if n == 0 else n for i, n in enumerate(shape)]
    if shape and shape[0] == 1 and x.dim() == 4 and x.shape[0] > 1:
        shape[0] = x.shape[0]
    return torch.reshape(x, shape)


def _batch_norm(
    at: Attributes, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=at.get("epsilon", 1e-5))


def _gemm(at: Attributes, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a, b = (m.T if at.get(key, 0) else m for m, key in ((a, "transA"), (b, "transB")))
    bias = c * at.get("beta", 1.0) if c is not None else 0.0
    out: Tensor = torch.matmul(a, b) * at.get("alpha", 1.0) + bias
    return out


def _flatten(at: Attributes, x: Tensor) -> Tensor:
    return x.reshape(math.prod(x.shape[: at.get("axis", 1)]), -1)


def _max_pool(at: Attributes, x: Tensor) -> Tensor:
    top, left, bottom, right = at.get("pads", [0, 0, 0, 0])
    if (top, left) != (bottom, right) or at.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise ValueError("only pooling with even, explicit padding is known")
    return F.max_pool2d(
        x, at["kernel_shape"], at.get("strides", [1, 1]), (top, left), at.get("dilations", [1, 1]),
        bool(at.get("ceil_mode", 0)),
    )  # fmt: skip


KINDS = {onnx.TensorProto.FLOAT: torch.float32, onnx.TensorProto.FLOAT16: torch.float16}

OPERATORS: dict[str, Operator] = {
    "Add": lambda at, a, b: a + b,
    "BatchNormalization": _batch_norm,
    "Cast": lambda at, x: x.to(KINDS[at["to"]]),  # of weights that are kept in half the bytes
    "Clip": _clip,
    "Concat": lambda at, *parts: torch.cat(parts, at["axis"]),
    "Conv": _conv,
    "Div": lambda at, a, b: a / b,
    "Dropout": lambda at, x, *settings: x,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda at, x: torch.mean(x, (2, 3), keepdim=True),
    "Identity": lambda at, x: x,
    "LeakyRelu": lambda at, x: F.leaky_relu(x, at.get("alpha", 0.01)),
    "MatMul": lambda at, a, b: a @ b,
    "MaxPool": _max_pool,
    "Mul": lambda at, a, b: a * b,
    "PRelu": _prelu,
    "Relu": lambda at, x: F.relu(x),
    "Reshape": _reshape,
    "Sigmoid": lambda at, x: torch.sigmoid(x),
    "Sub": lambda at, a, b: a - b,
    "Transpose": lambda at, x: x.permute(at["perm"]),
}


class OnnxModule(nn.Module):
    """A frozen graph: its one input -> its first output."""

    def __init__(self, graph: onnx.GraphProto, name: str) -> None:
        super().__init__()
        self.digest = ""  # SHA-256 of the file
        self.name, self.nodes = name, [node for node in graph.node if node.op_type != "Constant"]
        self.slots: dict[str, str] = {}  # a value's name in the graph -> its buffer
        for tensor in graph.initializer:
            self._keep(tensor.name, tensor)
        for node in graph.node:
            if node.op_type == "Constant":
                self._keep(node.output[0], _constant(node))
        inputs = [value.name for value in graph.input if value.name not in self.slots]
        if len(inputs) != 1 or not graph.output:
            raise UserError(f"{name} has {len(inputs)} inputs: give a recogniser with one, a face.")
        self.input, self.output = inputs[0], graph.output[0].name
        self.attributes = [
            {a.name: onnx.helper.get_attribute_value(a) for a in n.attribute} for n in self.nodes
        ]
        self.side = _side(next(value for value in graph.input if value.name == self.input), name)

    def _keep(self, value: str, tensor: onnx.TensorProto) -> None:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise UserError(f"{self.name} keeps its weights in another file: give one that is whole.")
        self.slots[value] = f"value_{len(self.slots)}"
        self.register_buffer(self.slots[value], torch.from_numpy(numpy_helper.to_array(tensor).copy()))

    def forward(self, x: Tensor) -> Tensor:
        """Faces [B, 3, side, side], RGB in [-1, 1] -> embeddings [B, D], float32."""
        buffers = dict(self.named_buffers())
        values: dict[str, Tensor | None] = {name: buffers[slot] for name, slot in self.slots.items()}
        values |= {self.input: x, "": None}
        for node, attributes in zip(self.nodes, self.attributes, strict=True):
            try:
                inputs = [values[name] for name in node.input]
                values[node.output[0]] = OPERATORS[node.op_type](attributes, *inputs)
            except (RuntimeError, ValueError, KeyError, IndexError, TypeError) as error:
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                what = node.name or node.output[0]
                raise UserError(f"{self.name}: {node.op_type} {what} cannot be run ({error}).") from None
        out = values[self.output]
        assert out is not None
        return out


def _constant(node: onnx.NodeProto) -> onnx.TensorProto:
    """The value of a Constant, which may be a tensor or a number."""
    value = onnx.helper.get_attribute_value(node.attribute[0])
    if isinstance(value, onnx.TensorProto):
        return value
    return numpy_helper.from_array(torch.tensor(value).numpy())


def _side(value: onnx.ValueInfoProto, name: str) -> int:
    sizes = [size.dim_value for size in value.type.tensor_type.shape.dim]
    if len(sizes) != 4 or sizes[1] != 3 or sizes[2] != sizes[3] or not 16 <= sizes[2] <= 1024:
        raise UserError(f"{name} takes {sizes}, not square faces [batch, 3, side, side]: give a recogniser.")
    return int(sizes[2])


def load_recogniser(path: Path) -> OnnxModule:
    """A recogniser's file as a frozen module; UserError where it is none or has unknown operators."""
    if not path.is_file():
        raise UserError(f"There is no network {path}: give the path of a recogniser's ONNX file.")
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path} is larger than {MAX_BYTES >> 20} MiB: give a recogniser's ONNX file.")
    try:
        model = onnx.load_model_from_string(path.read_bytes())
        unknown = sorted({node.op_type for node in model.graph.node} - {*OPERATORS, "Constant"})
        if unknown:
            raise UserError(
                f"{path} uses {', '.join(unknown)}, which torch is not given here: take a recogniser made "
                "of convolutions, such as the model zoo's R50."
            )
        module = OnnxModule(model.graph, str(path))
        module.digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except (DecodeError, ValueError, TypeError, IndexError) as error:
        raise UserError(f"{path} is damaged or no ONNX file ({error}): get it again.") from None
    return module.eval().requires_grad_(False)
