"""How the shipped `embedder.onnx` was made: an ArcFace network trained on drawn people only.

    python -m ffhqref.demo.making.train_embedder --out ffhqref/demo/embedder.onnx

Takes about ten minutes on two cores and needs the extra `train` and `onnx`. The drawn people it is judged on
(`embedder.json`) are of another population than those it learnt from: another seed, other people.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ffhqref.core.arrays import Float32, Int64, UInt8
from ffhqref.core.store import digest_file, write_bytes, write_text
from ffhqref.core.terminal import progress, progress_bar
from ffhqref.demo.album import album, aligned_face, map_photos
from ffhqref.faces.geometry import ALIGNED_SIDE
from ffhqref.faces.networks import Embedder
from ffhqref.identities.calibrate import match_rates

LEARNT_FROM, JUDGED_ON = 20241, 77003  # populations (seeds); the demo's own default is neither
WIDTHS = (16, 32, 80, 144)  # channels at 56, 28, 14 and 7 px
DIMENSION = 512
ARCFACE_MARGIN, ARCFACE_SCALE = 0.3, 30.0  # Deng et al. 2019, equation 3: radians, and s


class ArcFaceNetwork(nn.Module):
    """N x 3 x 112 x 112 in [-1, 1] -> N x 512: convolutions, a weighted sum over places, one layer."""

    def __init__(self) -> None:
        super().__init__()
        a, b, c, d = WIDTHS
        self.layers = nn.ModuleList(
            [_convolution(3, a, 2), _convolution(a, b, 2), Residual(b), _convolution(b, c, 2), Residual(c),
             _convolution(c, d, 2), Residual(d)]
        )  # fmt: skip
        self.gather = nn.Conv2d(d, d, 7, groups=d)  # ArcFace's global depthwise convolution
        self.head = nn.Linear(d, DIMENSION)
        self.norm = nn.BatchNorm1d(DIMENSION)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        embedding: Tensor = self.norm(self.head(self.gather(x).flatten(1)))
        return embedding


def _convolution(before: int, after: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, 3, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU())


class Residual(nn.Module):
    """x + two convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = _convolution(width, width, 1), _convolution(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.second(self.first(x))
        return x + residual


class ArcFaceLoss(nn.Module):
    """Cross entropy over cosines to one centre a person, the own one's angle enlarged by the margin."""

    def __init__(self, people: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(people, DIMENSION) * 0.01)

    def forward(self, embedding: Tensor, person: Tensor, margin: float) -> Tensor:
        cosine = functional.linear(functional.normalize(embedding), functional.normalize(self.centres))
        own = cosine.gather(1, person[:, None]).clamp(-1 + 1e-6, 1 - 1e-6)
        logits = cosine.scatter(1, person[:, None], torch.cos(torch.acos(own) + margin))
        return functional.cross_entropy(ARCFACE_SCALE * logits, person)


def faces(population: int, people: int, photos: int, workers: int) -> tuple[UInt8, Int64]:
    """Aligned faces (N x 112 x 112 x 3 uint8 RGB) and their people's numbers, drawn."""
    wanted = album(population, people, photos, photos)
    drawn = progress(map_photos(aligned_face, wanted, workers), "drawing", "photo", len(wanted))
    pictures, numbers = zip(*drawn, strict=True)
    return np.stack(pictures), np.array(numbers, np.int64)


def augmented(faces_: Tensor, rng: torch.Generator) -> Tensor:
    """Small turns, shifts, mirrorings; light of another colour, noise, a hidden patch. N x 3 x 112 x 112."""
    n = len(faces_)
    angle, zoom = (torch.randn(n, generator=rng) * s for s in (0.05, 0.03))
    shift = torch.randn(n, 2, generator=rng) * 0.025
    flip = (torch.rand(n, generator=rng) < 0.5) * -2.0 + 1.0
    c, s = torch.cos(angle) * (1 + zoom), torch.sin(angle) * (1 + zoom)
    theta = torch.stack(
        [torch.stack([c * flip, -s, shift[:, 0]], 1), torch.stack([s * flip, c, shift[:, 1]], 1)], 1
    )
    places = functional.affine_grid(theta, list(faces_.shape), align_corners=False)
    moved = functional.grid_sample(faces_, places, align_corners=False, padding_mode="border")
    gain = 1 + 0.12 * torch.randn(n, 1, 1, 1, generator=rng) + 0.06 * torch.randn(n, 3, 1, 1, generator=rng)
    lit = (moved + 1) * gain - 1 + 0.08 * torch.randn(n, 1, 1, 1, generator=rng)
    noisy = lit + 0.03 * torch.randn(lit.shape, generator=rng)
    for i in torch.nonzero(torch.rand(n, generator=rng) < 0.3)[:, 0].tolist():
        top, left, high, wide = (int(x) for x in torch.randint(8, 80, (4,), generator=rng))
        noisy[i, :, top : top + high // 3, left : left + wide // 3] = 0
    return noisy.clamp(-1, 1)


def batches(count: int, size: int, rng: torch.Generator) -> Iterator[Tensor]:
    """Whole batches of shuffled indices."""
    order = torch.randperm(count, generator=rng)
    for start in range(0, count - size + 1, size):
        yield order[start : start + size]


def train_embedder(pictures: UInt8, people: Int64, epochs: int, batch: int) -> ArcFaceNetwork:
    """Train on aligned faces; the same faces give nearly the same network (sums change in the last bits)."""
    torch.manual_seed(0)
    rng = torch.Generator().manual_seed(0)
    network, loss_of = ArcFaceNetwork(), ArcFaceLoss(int(people.max()) + 1)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    inputs = torch.from_numpy(pictures).permute(0, 3, 1, 2)  # NHWC, uint8, RGB
    labels = torch.from_numpy(people)
    steps = epochs * (len(inputs) // batch)
    optimiser = torch.optim.AdamW([*network.parameters(), *loss_of.parameters()], lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps, pct_start=0.2)
    bar = progress_bar("training", "batch", steps)
    for epoch in range(epochs):
        margin = ARCFACE_MARGIN * min(1.0, 2 * epoch / epochs)
        for index in batches(len(inputs), batch, rng):
            x = augmented((inputs[index].float() - 127.5) / 127.5, rng)
            loss = loss_of(network(x.contiguous(memory_format=torch.channels_last)), labels[index], margin)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            bar.update()
        bar.set_postfix(loss=f"{loss.item():.3f}")
    network.eval()
    return network


def gain_and_mean(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What a trained batch norm multiplies by, and the mean that it takes off before."""
    assert norm.running_var is not None and norm.running_mean is not None
    return norm.weight / torch.sqrt(norm.running_var + norm.eps), norm.running_mean


def folded(block: nn.Sequential) -> tuple[Float32, Float32, int]:
    """A convolution's weight and bias with the batch norm after it worked in, and its stride."""
    convolution, norm = block[0], block[1]
    assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    gain, mean = gain_and_mean(norm)
    weight = convolution.weight * gain[:, None, None, None]
    return weight.detach().numpy(), (norm.bias - mean * gain).detach().numpy(), convolution.stride[0]


def to_onnx(network: ArcFaceNetwork) -> bytes:
    """The network as an ONNX file: any batch, weights kept in 16 bits and widened on loading."""
    from onnx import TensorProto, checker, helper, numpy_helper

    nodes, weights = [], []

    def weight(name: str, value: Float32) -> str:
        weights.append(numpy_helper.from_array(value.astype(np.float16), f"{name}_16"))
        nodes.append(helper.make_node("Cast", [f"{name}_16"], [name], to=TensorProto.FLOAT))
        return name

    def convolve(name: str, x: str, block: nn.Sequential) -> str:
        kernel, bias, stride = folded(block)
        inputs, shape = [x, weight(f"{name}_w", kernel), weight(f"{name}_b", bias)], [3, 3]
        strides, pads = [stride, stride], [1, 1, 1, 1]
        nodes.append(
            helper.make_node("Conv", inputs, [f"{name}_c"], kernel_shape=shape, strides=strides, pads=pads)
        )
        nodes.append(helper.make_node("Relu", [f"{name}_c"], [name]))
        return name

    x = "input"
    for i, layer in enumerate(network.layers):
        if isinstance(layer, Residual):
            inner = convolve(f"l{i}b", convolve(f"l{i}a", x, layer.first), layer.second)
            nodes.append(helper.make_node("Add", [x, inner], [f"l{i}"]))
            x = f"l{i}"
        else:
            assert isinstance(layer, nn.Sequential)
            x = convolve(f"l{i}", x, layer)
    norm, head, gather = network.norm, network.head, network.gather
    assert gather.bias is not None
    gain, mean = gain_and_mean(norm)
    matrix = (head.weight * gain[:, None]).detach().numpy()
    bias = (head.bias * gain + norm.bias - mean * gain).detach().numpy()
    gathered = [x, weight("g_w", gather.weight.detach().numpy()), weight("g_b", gather.bias.detach().numpy())]
    nodes.append(helper.make_node("Conv", gathered, ["g"], group=WIDTHS[-1], kernel_shape=[7, 7]))
    nodes.append(helper.make_node("Flatten", ["g"], ["f"], axis=1))
    headed = ["f", weight("h_w", matrix), weight("h_b", bias)]
    nodes.append(helper.make_node("Gemm", headed, ["embedding"], transB=1))
    graph = helper.make_graph(
        nodes, "ffhqref-demo-embedder",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, ALIGNED_SIDE, ALIGNED_SIDE])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", DIMENSION])], weights,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    checker.check_model(model)
    return bytes(model.SerializeToString())


def judge_embedder(path: Path, people: int, photos: int, workers: int) -> dict[str, float | int]:
    """The file's error rates on people of another population, through the code that embeds photographs."""
    pictures, numbers = faces(JUDGED_ON, people, photos, workers)
    vectors = Embedder(path, "cpu").embed(pictures)
    rates = match_rates(vectors, [str(number) for number in numbers])
    error, at = rates.equal_error()
    distance = rates.suggested(1e-4)
    return {
        "equal_error_rate": round(error, 5), "equal_error_distance": round(at, 4),
        "distance_at_false_match_rate_1e-4": round(distance, 4),
        "true_match_rate_there": round(rates.at(distance)[0], 5),
        "people": people, "photos": len(pictures), "pairs_of_one_person": rates.same,
        "pairs_of_two_people": rates.different, "population": JUDGED_ON,
    }  # fmt: skip


def write_report(model: Path, judged: Mapping[str, object], trained: Mapping[str, object]) -> None:
    """How a shipped model was made and judged, as JSON beside it."""
    about = {"sha256": digest_file(model), "bytes": model.stat().st_size}
    report = {**about, "judged": judged, "trained": trained}
    write_text(model.with_suffix(".json"), json.dumps(report, indent=1) + "\n")


def main() -> None:
    """Draw, train, export, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "embedder.onnx")
    parser.add_argument("--people", type=int, default=440)
    parser.add_argument("--photos", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--faces", type=Path, help="keep the drawn faces in this .npz, or take them from it")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    began = time.time()
    if given.faces and given.faces.is_file():
        with np.load(given.faces, allow_pickle=False) as kept:
            pictures, numbers = kept["pictures"], kept["numbers"]
    else:
        pictures, numbers = faces(LEARNT_FROM, given.people, given.photos, given.workers)
        if given.faces:
            np.savez(given.faces, pictures=pictures, numbers=numbers)
    drew = time.time()
    network = train_embedder(pictures, numbers, given.epochs, given.batch)
    write_bytes(given.out, to_onnx(network))
    trained = time.time()
    judged = judge_embedder(given.out, 80, 4, given.workers)
    how = {
        "people": int(numbers.max()) + 1, "photos": len(numbers), "population": LEARNT_FROM,
        "epochs": given.epochs,
        "batch": given.batch, "loss": f"ArcFace, margin {ARCFACE_MARGIN}, scale {ARCFACE_SCALE}",
        "parameters": sum(p.numel() for p in network.parameters()),
        "seconds_drawing": round(drew - began), "seconds_training": round(trained - drew),
    }  # fmt: skip
    write_report(given.out, judged, how)
    print(
        f"Made {given.out}: equal error rate {judged['equal_error_rate']:.3%} "
        f"on {judged['people']} unseen people."
    )


if __name__ == "__main__":
    main()
