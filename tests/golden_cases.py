"""Where the golden arrays lie (tests/golden, or FFHQREF_GOLDEN=FOLDER), and checkpoints made of them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

GOLDEN = Path(__file__).parent / "golden"
SPEC = GOLDEN / "spec"  # names and shapes of the released checkpoints, whatever set is tested
CASES = Path(os.environ.get("FFHQREF_GOLDEN", GOLDEN))
FIRST_STAGES = ("first_stage_model.", "cond_stage_model.lq_image.", "cond_stage_model.ref_image.")


def config() -> dict[str, Any]:
    """The sizes of the networks and pictures of the set."""
    found: dict[str, Any] = json.loads((CASES / "config.json").read_text())
    return found


def write_checkpoints(folder: Path) -> None:
    """refldm.ckpt and vqgan.ckpt from the set's weights, laid out as the released files are.

    vqgan.ckpt keeps its tensors under "state_dict", beside what Lightning adds; refldm.ckpt is a bare mapping
    in the order of the key table, with the first stage under three names (one storage) and a tensor that no
    reader knows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stage, denoiser = (
        load_file(CASES / "vqgan_tiny.safetensors"),
        load_file(CASES / "refldm_tiny.safetensors"),
    )
    lightning = {"epoch": 3, "global_step": 99, "pytorch-lightning_version": "1.6.3"}
    torch.save({**lightning, "state_dict": stage}, folder / "vqgan.ckpt")
    tensors = dict(denoiser)
    for prefix in FIRST_STAGES:
        tensors |= {prefix + key: value for key, value in stage.items() if not key.startswith("loss.")}
    tensors["perceptual_loss.model.unrelated.weight"] = torch.zeros(3)
    keys = [line.split("\t")[0] for line in (CASES / "refldm_tiny_keys.txt").read_text().splitlines()]
    ordered = {key: tensors.pop(key) for key in keys}
    torch.save({**ordered, **tensors}, folder / "refldm.ckpt")
