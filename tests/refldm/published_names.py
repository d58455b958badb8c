"""Names and shapes of the published networks' weights as SPEC.md gives them, and random weights of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

RAW, EMA = "model.diffusion_model.", "model_ema."
Shapes = dict[str, list[int]]


class Table:
    """Tensors that were named, each with its shape."""

    def __init__(self) -> None:
        self.shapes: Shapes = {}

    def layer(self, name: str, out: int, *rest: int) -> None:
        self.shapes |= {f"{name}.weight": [out, *rest], f"{name}.bias": [out]}

    def res(self, name: str, parts: Sequence[str], before: int, out: int, embedding: int = 0) -> None:
        """Two convolutions after norms; what lies between and the shortcut where there are such."""
        norm1, conv1, between, norm2, conv2, shortcut = (f"{name}.{part}" for part in parts)
        self.layer(norm1, before)
        self.layer(conv1, out, before, 3, 3)
        if embedding:
            self.layer(between, out, embedding)
        self.layer(norm2, out)
        self.layer(conv2, out, out, 3, 3)
        if before != out:
            self.layer(shortcut, out, before, 1, 1)


def unet_shapes(size: Mapping[str, Any]) -> Shapes:
    """SPEC.md, section 3."""
    table, base, last = Table(), size["model_channels"], len(size["channel_mult"]) - 1
    parts = ("in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3", "skip_connection")

    def attended(name: str, before: int, out: int, attends: bool) -> None:
        table.res(f"{name}.0", parts, before, out, 4 * base)
        if attends:
            attention(f"{name}.1", out)

    def attention(name: str, width: int) -> None:
        table.layer(f"{name}.norm", width)
        table.layer(f"{name}.qkv", 3 * width, width, 1)
        table.layer(f"{name}.proj_out", width, width, 1)

    table.layer("time_embed.0", 4 * base, base)
    table.layer("time_embed.2", 4 * base, 4 * base)
    table.layer("input_blocks.0.0", base, size["in_channels"], 3, 3)
    skips = [base]
    for level, multiplier in enumerate(size["channel_mult"]):
        width = base * multiplier
        for _ in range(size["num_res_blocks"]):
            attends = 2**level in size["attention_resolutions"]
            attended(f"input_blocks.{len(skips)}", skips[-1], width, attends)
            skips.append(width)
        if level < last:
            table.layer(f"input_blocks.{len(skips)}.0.op", width, width, 3, 3)
            skips.append(width)
    table.res("middle_block.0", parts, width, width, 4 * base)
    attention("middle_block.1", width)
    table.res("middle_block.2", parts, width, width, 4 * base)
    number, before = 0, width
    for level in range(last, -1, -1):
        width = base * size["channel_mult"][level]
        attends = 2**level in size["attention_resolutions"]
        for i in range(size["num_res_blocks"] + 1):
            attended(f"output_blocks.{number}", before + skips.pop(), width, attends)
            if level and i == size["num_res_blocks"]:
                table.layer(f"output_blocks.{number}.{1 + attends}.conv", width, width, 3, 3)
            number, before = number + 1, width
    table.layer("out.0", base)
    table.layer("out.2", size["out_channels"], base, 3, 3)
    return table.shapes


def stage_shapes(size: Mapping[str, Any], codes: int) -> Shapes:
    """SPEC.md, section 2."""
    table, latent = Table(), size["z_channels"]
    widths = [size["ch"] * multiplier for multiplier in size["ch_mult"]]
    parts = ("norm1", "conv1", "", "norm2", "conv2", "nin_shortcut")

    def middle(name: str) -> None:
        table.res(f"{name}.block_1", parts, widths[-1], widths[-1])
        table.layer(f"{name}.attn_1.norm", widths[-1])
        for part in ("q", "k", "v", "proj_out"):
            table.layer(f"{name}.attn_1.{part}", widths[-1], widths[-1], 1, 1)
        table.res(f"{name}.block_2", parts, widths[-1], widths[-1])

    table.layer("encoder.conv_in", size["ch"], 3, 3, 3)
    before = size["ch"]
    for i, width in enumerate(widths):
        for j in range(size["num_res_blocks"]):
            table.res(f"encoder.down.{i}.block.{j}", parts, before, width)
            before = width
        if i < len(widths) - 1:
            table.layer(f"encoder.down.{i}.downsample.conv", width, width, 3, 3)
    middle("encoder.mid")
    table.layer("encoder.norm_out", widths[-1])
    table.layer("encoder.conv_out", latent, widths[-1], 3, 3)
    table.layer("decoder.conv_in", widths[-1], latent, 3, 3)
    middle("decoder.mid")
    for i, width in enumerate(widths):  # written by level, run from the last one
        before = widths[min(i + 1, len(widths) - 1)]
        for j in range(size["num_res_blocks"] + 1):
            table.res(f"decoder.up.{i}.block.{j}", parts, width if j else before, width)
        if i:
            table.layer(f"decoder.up.{i}.upsample.conv", width, width, 3, 3)
    table.layer("decoder.norm_out", widths[0])
    table.layer("decoder.conv_out", 3, widths[0], 3, 3)
    table.shapes["quantize.embedding.weight"] = [codes, latent]
    table.layer("quant_conv", latent, latent, 1, 1)
    table.layer("post_quant_conv", latent, latent, 1, 1)
    return table.shapes


def averaged(name: str) -> str:
    """The key of a parameter's moving average."""
    return EMA + f"diffusion_model.{name}".replace(".", "")


def key_table(unet: Shapes, stage: Shapes, buffers: Sequence[str]) -> str:
    """refldm_tiny_keys.txt: key, shape, type of a whole checkpoint."""
    rows: list[tuple[str, list[int], str]] = [(name, [1000], "float32") for name in buffers]
    rows += [(RAW + name, shape, "float32") for name, shape in unet.items()]
    rows += [(f"{EMA}decay", [], "float32"), (f"{EMA}num_updates", [], "int32")]
    rows += [(averaged(name), shape, "float32") for name, shape in unet.items()]
    for prefix in ("first_stage_model.", "cond_stage_model.lq_image.", "cond_stage_model.ref_image."):
        rows += [(prefix + name, shape, "float32") for name, shape in stage.items()]
    return "".join(f"{name}\t{shape}\t{kind}\n" for name, shape, kind in rows)


# Weights: nothing is zero, no norm is the identity


def drawn(shapes: Shapes, random: torch.Generator) -> dict[str, Tensor]:
    def one(name: str, shape: list[int]) -> Tensor:
        values = torch.randn(shape, generator=random)
        if len(shape) == 1:
            return 1 + 0.23 * values if name.endswith("weight") else 0.1 * values
        sharp = 1.6 if name.split(".")[-2] in ("qkv", "q", "k") else 1.0  # else softmax is nearly even
        return values * sharp / math.sqrt(math.prod(shape[1:]))

    return {name: one(name, shape) for name, shape in shapes.items()}


def moved(weights: Mapping[str, Tensor], random: torch.Generator) -> dict[str, Tensor]:
    """Other weights near by: the moving average."""
    return {name: w + 0.15 * w.std() * torch.randn(w.shape, generator=random) for name, w in weights.items()}
