"""How the demo's `restorer.safetensors` is made: the three stages, trained on drawn people only.

    python -m ffhqref.demo.making.train_restorer --work demo-models

Takes an hour on two cores and needs the extra `train`. Stopped at any moment, it goes on where it was.
What it is judged on (`restorer.json`) are people of another population than those it learnt from.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from ffhqref.core import images
from ffhqref.core.recipe import locate, override
from ffhqref.core.store import atomic
from ffhqref.core.terminal import progress
from ffhqref.dataset.build import build_refs
from ffhqref.demo import FIRST_STAGE_FILE, RESTORER
from ffhqref.demo.making.judge_restorer import judge, judge_first_stage, normalised
from ffhqref.demo.making.train_embedder import write_report
from ffhqref.demo.run import demo_recipe, render_photos
from ffhqref.refldm.model import checkpoint
from ffhqref.refldm.restorer import resize_bicubic
from ffhqref.refldm.training.config import Config, parse, read_config
from ffhqref.refldm.training.runs import MODEL, RunFolder
from ffhqref.refldm.training.stages import first_stage

TRAINING_POPULATION = 20242  # seed; neither the judging population nor the demo's own default
# The published noise suits latents of 64 x 64, whose neighbours tell more of each other than those of
# 16 x 16; greater latents are to it what a milder schedule would be (Hoogeboom et al., 2023).
LATENT_STD = 4.0
SHEET = "restored.jpg"  # beside the restorer: some of the people that it was judged by


def dataset(work: Path, people: int, workers: int) -> tuple[Path, Path]:
    """Draw and build the training people; the dataset and its photographs at the restorer's size."""
    photos = render_photos(work, people=people, seed=TRAINING_POPULATION, workers=workers)
    built = work / "dataset"
    recipe = override(demo_recipe(work, TRAINING_POPULATION), val=0.03, test=0.01)
    build_refs(photos, built, recipe, device="cpu", workers=workers)
    size = config_of("refldm").architecture
    small = work / "small"
    for photo in progress(sorted(photos.iterdir()), "shrink", "photo"):
        if not (small / photo.name).is_file():
            small_picture = resize_bicubic(images.read(photo), size.height, size.width)
            images.write(small / photo.name, small_picture)
    return built, small


def config_of(name: str) -> Config:
    """manifests/train/demo-NAME.toml."""
    path = locate(f"demo-{name}", "train")
    return parse(read_config(path), str(path))


@dataclass(frozen=True)
class Workshop:
    """Where is trained, on what, by how many processes; `steps` of each stage for a mere trial."""

    root: Path
    built: Path
    small: Path
    workers: int
    steps: int | None

    def trained(self, name: str, *more: str | Path) -> Path:
        """Train demo-NAME by its command, or go on with it; its last checkpoint."""
        out, stage = self.root / name, config_of(name).stage
        processes = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", self.workers]
        words = ["-m", "ffhqref", "train", stage, "--config", f"demo-{name}", "--level", "demo", "--data",
                 self.built, "--images", self.small, "--unverified", "--device", "cpu", "--workers", 0,
                 "--out", out, *more]  # fmt: skip
        words += ["--steps", self.steps] if self.steps else []
        words += ["--resume"] if (out / "config.json").is_file() else []
        # a process a core: of two threads one would wait for most of the time
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        done = subprocess.run([sys.executable, *map(str, [*processes, *words])], env=environment, check=False)
        if done.returncode:
            raise SystemExit(done.returncode)
        run = RunFolder(out)
        return run.of(run.steps()[-1]) / MODEL

    def about(self, stages: Sequence[str]) -> dict[str, object]:
        """How these stages were trained."""
        runs = {stage: RunFolder(self.root / stage) for stage in stages}
        seconds = {s: seconds_of(run.root, config_of(s).batch_size) for s, run in runs.items()}
        return {
            "photos": len(list(self.small.iterdir())), "population": TRAINING_POPULATION,
            "steps": {stage: run.steps()[-1] for stage, run in runs.items()},
            "seconds": {stage: round(value) for stage, value in seconds.items()},
        }  # fmt: skip


@torch.no_grad()
def standardised(model: Path, small: Path, out: Path) -> Path:
    """The autoencoder with latents of mean 0 and deviation LATENT_STD over the photographs.

    Both sides of the latents move together, so that pictures -> pictures is the same function.
    """
    autoencoder = first_stage(config_of("autoencoder"), model, {})
    photos = progress(sorted(small.iterdir())[:256], "encode", "photo")
    z = torch.cat([autoencoder.encode(normalised(images.read(photo))) for photo in photos])
    mean, std = z.mean((0, 2, 3)), z.std() / LATENT_STD
    before, after, codes = autoencoder.quant_conv, autoencoder.post_quant_conv, autoencoder.quantize.embedding
    assert before.bias is not None and after.bias is not None
    before.weight /= std
    before.bias.copy_((before.bias - mean) / std)
    codes.weight.copy_((codes.weight - mean) / std)
    after.bias += after.weight[:, :, 0, 0] @ mean
    after.weight *= std
    save_file({name: tensor.contiguous() for name, tensor in autoencoder.state_dict().items()}, out)
    return out


def shipped(model: Path, out: Path) -> None:
    """What restoring needs, in 16 bits, which are widened on loading."""
    with atomic(out) as part:
        whole = part.with_suffix(".safetensors")
        checkpoint.convert(model, whole)
        tensors, architecture = checkpoint.read_tensors(whole)
        whole.unlink()
        assert architecture is not None
        header = json.dumps({"architecture": asdict(architecture)}, sort_keys=True)
        save_file(narrow(tensors), part, {checkpoint.METADATA: header})


def narrow(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """In 16 bits, which are widened on loading."""
    return {name: tensor.half().contiguous() for name, tensor in tensors.items()}


def first_stage_file(shop: Workshop, afresh: bool) -> Path:
    """The shipped first stage, or one that is trained, judged on unseen people and written in its place."""
    if FIRST_STAGE_FILE.is_file() and not afresh:
        return FIRST_STAGE_FILE
    model = shop.trained("autoencoder")
    with atomic(FIRST_STAGE_FILE) as part:
        save_file(narrow(checkpoint.first_stage_state(checkpoint.read_tensors(model)[0])), part)
    config = config_of("autoencoder")
    size = (config.architecture.height, config.architecture.width)
    judged = judge_first_stage(first_stage(config, FIRST_STAGE_FILE, {}), size, shop.workers)
    write_report(FIRST_STAGE_FILE, judged, shop.about(["autoencoder"]))
    return FIRST_STAGE_FILE


def seconds_of(run: Path, batch_size: int) -> float:
    """How long a run's steps took, by the rates that it wrote down; however often it was stopped."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rates = [(row["step"], row["images_per_second"]) for row in rows if "images_per_second" in row]
    before = [0, *(step for step, _ in rates)]
    spent = [(step - last) * batch_size / rate for last, (step, rate) in zip(before, rates, strict=False)]
    return float(sum(spent))


def main() -> None:
    """Draw, train, ship, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, default=Path("demo-models"), help="photographs and runs")
    parser.add_argument("--out", type=Path, default=RESTORER)
    parser.add_argument("--people", type=int, default=600)
    parser.add_argument("--judged", type=int, default=60, help="unseen people")
    parser.add_argument("--afresh", action="store_true", help="train the first stage, too")
    parser.add_argument("--steps", type=int, help="of each stage, for a trial")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    given = parser.parse_args()
    built, small = dataset(given.work, given.people, given.workers)
    shop = Workshop(given.work, built, small, given.workers, given.steps)
    first = first_stage_file(shop, given.afresh)
    stage = standardised(first, small, given.work / "autoencoder.safetensors")
    ldm = shop.trained("ldm", "--autoencoder", stage)
    copying = shop.trained("copy", "--init", ldm)
    model = shop.trained("refldm", "--init", copying)
    shipped(model, given.out)
    judged = judge(given.out, ldm, given.judged, given.workers, given.out.with_name(SHEET))
    write_report(given.out, judged, {"people": given.people, **shop.about(["ldm", "copy", "refldm"])})
    print(f"Made {given.out}: {json.dumps(judged, indent=1)}")


if __name__ == "__main__":
    main()
