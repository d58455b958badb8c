"""FairFace's ResNet-34 (He et al. 2016), written plainly; its state dict is loaded by name. Needs torch.

18 outputs: race [0:7], gender [7:9], age [9:18]. FairFace aligned faces by dlib's chip of 300 px with a
quarter of padding; ours comes from five points, with the eyes where dlib's mean face has them.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from ffhqref.core.arrays import Float32, Float64
from ffhqref.core.images import Rgb
from ffhqref.core.store import UserError, digest_file
from ffhqref.faces.geometry import TEMPLATE, similarity_to

RACES = ("White", "Black", "Latino_Hispanic", "East Asian", "Southeast Asian", "Indian", "Middle Eastern")
GENDERS = ("male", "female")
AGES = ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "70+")
PARTS = {"race": (0, RACES), "gender": (7, GENDERS), "age": (9, AGES)}
SIDE = 224  # px
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
DEPTHS, WIDTHS = (3, 4, 6, 3), (64, 128, 256, 512)
EYES = ((0.318, 0.314), (0.669, 0.314))  # of the chip's side, in dlib's mean face with a quarter of padding


class Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut: [B, C, H, W] -> [B, width, H / stride, W / stride]."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.bn1(self.conv1(x)))
        out: Tensor = torch.relu(self.bn2(self.conv2(inner)) + self.downsample(x))
        return out


class ResNet34(nn.Sequential):
    """[B, 3, 224, 224] in ImageNet's normalisation -> [B, outputs]."""

    def __init__(self, outputs: int = 18) -> None:
        parts: OrderedDict[str, nn.Module] = OrderedDict(
            conv1=nn.Conv2d(3, WIDTHS[0], 7, 2, 3, bias=False), bn1=nn.BatchNorm2d(WIDTHS[0]), relu=nn.ReLU(),
            maxpool=nn.MaxPool2d(3, 2, 1),
        )  # fmt: skip
        channels = WIDTHS[0]
        for number, (depth, width) in enumerate(zip(DEPTHS, WIDTHS, strict=True), 1):
            blocks = []
            for at in range(depth):
                blocks.append(Block(channels, width, 2 if number > 1 and at == 0 else 1))
                channels = width
            parts[f"layer{number}"] = nn.Sequential(*blocks)
        parts |= {"avgpool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten()}
        parts["fc"] = nn.Linear(channels, outputs)
        super().__init__(parts)


class FairFace:
    """Race, gender and age of a face, each with the probability of every class."""

    def __init__(self, path: Path) -> None:
        self.network = ResNet34().eval()
        self.digest = digest_file(path)
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            self.network.load_state_dict(state)
        except Exception as error:  # torch's loaders raise many kinds on a file that is none
            reason = str(error).splitlines()[0][:120]
            raise UserError(f"{path} is not FairFace's ResNet-34 ({reason}).") from None

    @torch.no_grad()
    def predict(self, image: Rgb, landmarks: Float32) -> dict[str, tuple[tuple[str, ...], Float64]]:
        """Part (race, gender, age) -> its classes and their probabilities."""
        chip = face_chip(image, landmarks).astype(np.float32) / 255
        blob = ((chip - np.array(MEAN, np.float32)) / np.array(DEVIATION, np.float32)).transpose(2, 0, 1)[
            None
        ]
        outputs = self.network(torch.from_numpy(np.ascontiguousarray(blob, np.float32)))[0]
        found = {}
        for part, (begin, classes) in PARTS.items():
            odds = torch.softmax(outputs[begin : begin + len(classes)].double(), 0).numpy()
            found[part] = classes, np.asarray(odds, np.float64)
        return found


def face_chip(image: Rgb, landmarks: Float32) -> Rgb:
    """224 x 224 px with the eyes where FairFace's chips have them, from five points (5 x 2 px)."""
    template, eyes = np.asarray(TEMPLATE, np.float64), np.asarray(EYES) * SIDE
    scale = (eyes[1, 0] - eyes[0, 0]) / (template[1, 0] - template[0, 0])
    placed = (template - template[:2].mean(0)) * scale + eyes.mean(0)
    matrix = similarity_to(landmarks, np.asarray(placed, np.float32))
    return np.asarray(cv2.warpAffine(image, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR), np.uint8)
