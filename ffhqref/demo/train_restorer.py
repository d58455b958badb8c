"""How the demo's `restorer.safetensors` is made: the three stages, trained on drawn people only.

    python -m ffhqref.demo.train_restorer --work demo-models

Takes hours on two cores and needs the extra `train`. Stopped at any moment, it goes on where it was.
What it is judged on (`restorer.json`) are people of another world than those it learnt from.
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
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tqdm import tqdm

from ffhqref.build import build_refs
from ffhqref.degradation import sampler
from ffhqref.demo import EMBEDDER, FIRST_STAGE, RESTORER
from ffhqref.demo.album import Wanted, drawn
from ffhqref.demo.likeness import SIZE, mean_over_people, similarities
from ffhqref.demo.people import Portrait, draw_portrait
from ffhqref.demo.run import demo_recipe, draw_photos
from ffhqref.faces import Embedder
from ffhqref.images import Rgb, read, write
from ffhqref.recipe import load_toml, locate, override
from ffhqref.refldm import checkpoint, data
from ffhqref.refldm.autoencoder import Autoencoder
from ffhqref.refldm.config import Config, parse
from ffhqref.refldm.restore import Options, Restorer, fit
from ffhqref.refldm.runs import MODEL, RunFolder
from ffhqref.refldm.stages import first_stage
from ffhqref.refldm.unet import Seen
from ffhqref.store import atomic, digest_file, write_text

TRAINING_WORLD, JUDGING_WORLD = 20242, 77004  # seeds; the demo's own default seed is neither
COUNTS = (0, 1, 3, 5)  # of references, as in the paper's Table 5
TARGETS = 2  # of a judged person, beside the references
# The published noise suits latents of 64 x 64, whose neighbours tell more of each other than those of
# 16 x 16; greater latents are to it what a milder schedule would be (Hoogeboom et al., 2023).
LATENT_STD = 3.0
SAMPLES = 16  # pictures restored at a time
SIMILARITY = "similarity [mean, 95 % interval over people]"  # key of the reports


def dataset(work: Path, people: int, workers: int) -> tuple[Path, Path]:
    """Draw and build the training people; the dataset and its photographs at the restorer's size."""
    photos = draw_photos(work, people=people, seed=TRAINING_WORLD, workers=workers)
    built = work / "dataset"
    recipe = override(demo_recipe(work, TRAINING_WORLD), val=0.03, test=0.01)
    build_refs(photos, built, recipe, device="cpu", workers=workers)
    size = config_of("refldm").architecture
    small = work / "small"
    for photo in tqdm(sorted(photos.iterdir()), desc="shrink", unit="photo", disable=None):
        if not (small / photo.name).is_file():
            write(small / photo.name, fit(read(photo), size.height, size.width))
    return built, small


def config_of(stage: str) -> Config:
    """manifests/train/demo-STAGE.toml."""
    path = locate(f"demo-{stage}", "train")
    return parse(load_toml(path), str(path))


@dataclass(frozen=True)
class Workshop:
    """Where is trained, on what, by how many processes; `steps` of each stage for a mere trial."""

    root: Path
    built: Path
    small: Path
    workers: int
    steps: int | None

    def trained(self, stage: str, *more: str | Path) -> Path:
        """Train a stage by its command, or go on with it; its last checkpoint."""
        out = self.root / stage
        processes = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", self.workers]
        words = ["-m", "ffhqref", "train", stage, "--config", f"demo-{stage}", "--level", "demo", "--data",
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

    def about(self, stages: Sequence[str]) -> dict[str, Any]:
        """How these stages were trained."""
        runs = {stage: RunFolder(self.root / stage) for stage in stages}
        seconds = {s: seconds_of(run.root, config_of(s).batch_size) for s, run in runs.items()}
        return {
            "photos": len(list(self.small.iterdir())), "world": TRAINING_WORLD,
            "steps": {stage: run.steps()[-1] for stage, run in runs.items()},
            "seconds": {stage: round(value) for stage, value in seconds.items()},
        }  # fmt: skip


def normalised(picture: Rgb) -> torch.Tensor:
    """[1, 3, H, W] in [-1, 1], as training has it."""
    return data.Batch({"picture": torch.from_numpy(picture)[None]}, []).pictures("picture")


@torch.no_grad()
def standardised(model: Path, small: Path, out: Path) -> Path:
    """The autoencoder with latents of mean 0 and deviation LATENT_STD over the photographs.

    Both sides of the latents move together, so that pictures -> pictures is the same function.
    """
    autoencoder = first_stage(config_of("autoencoder"), model, {})
    latents = []
    for photo in tqdm(sorted(small.iterdir())[:256], desc="encode", unit="photo", disable=None):
        latents.append(autoencoder.encode(normalised(read(photo))))
    z = torch.cat(latents)
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
        tensors, architecture = checkpoint.read(whole)
        whole.unlink()
        assert architecture is not None
        header = json.dumps({"architecture": asdict(architecture)}, sort_keys=True)
        save_file(narrow(tensors), part, {checkpoint.METADATA: header})


def narrow(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """In 16 bits, which are widened on loading."""
    return {name: tensor.half().contiguous() for name, tensor in tensors.items()}


def first_stage_file(shop: Workshop, afresh: bool) -> Path:
    """The shipped first stage, or one that is trained, judged on unseen people and written in its place."""
    if FIRST_STAGE.is_file() and not afresh:
        return FIRST_STAGE
    model = shop.trained("autoencoder")
    with atomic(FIRST_STAGE) as part:
        save_file(narrow(checkpoint.first_stage_state(checkpoint.read(model)[0])), part)
    autoencoder = first_stage(config_of("autoencoder"), FIRST_STAGE, {})
    tell(FIRST_STAGE, judge_first_stage(autoencoder, shop.workers), shop.about(["autoencoder"]))
    return FIRST_STAGE


def tell(model: Path, judged: dict[str, Any], trained: dict[str, Any]) -> None:
    """How a shipped model was made and judged, as JSON beside it."""
    about = {"sha256": digest_file(model), "bytes": model.stat().st_size}
    report = {**about, "judged": judged, "trained": trained}
    write_text(model.with_suffix(".json"), json.dumps(report, indent=1) + "\n")


@torch.no_grad()
def judge_first_stage(autoencoder: Autoencoder, workers: int, people: int = 40) -> dict[str, Any]:
    """What pictures of unseen people lose in it: similarity to the target, mean distance of [-1, 1]."""
    wanted = [Wanted(JUDGING_WORLD, number, photo) for number in range(people) for photo in range(2)]
    portraits = list(drawn(_portrait, wanted, workers))
    size = config_of("autoencoder").architecture
    made: dict[str, list[Rgb]] = {"at 64 px": [], "through the first stage": []}
    distances = []
    for portrait in portraits:
        small = fit(portrait.image, size.height, size.width)
        x = normalised(small)
        back = autoencoder.decode(autoencoder.encode(x))
        distances.append(float((back - x).abs().mean()))
        made["at 64 px"].append(small)
        made["through the first stage"].append(data.as_picture(back[0]))
    found = to_targets(portraits, made)
    return {"people": people, "pictures": len(portraits), "world": JUDGING_WORLD,
            "mean distance, of [-1, 1]": round(float(np.mean(distances)), 4),
            SIMILARITY: rounded(found, [one.identity for one in wanted])}  # fmt: skip


def to_targets(targets: Sequence[Portrait], made: Mapping[str, Sequence[Rgb]]) -> dict[str, list[float]]:
    """Similarity of each picture to the portrait that it shows, for every kind in `made`."""
    marks = [portrait.landmarks * (SIZE / portrait.image.shape[0]) for portrait in targets]
    return similarities(Embedder(EMBEDDER, "cpu"), [p.image for p in targets], made, marks)


def rounded(found: Mapping[str, Sequence[float]], who: Sequence[str]) -> dict[str, list[float]]:
    """Mean and interval over people, for every kind."""
    means = {kind: mean_over_people(values, who) for kind, values in found.items()}
    return {kind: [round(value, 4) for value in (m.mean, m.low, m.high)] for kind, m in means.items()}


@dataclass(frozen=True)
class Case:
    """A person to judge by: portraits to restore, their low-quality pictures, references."""

    person: str
    targets: list[Portrait]
    lq: list[Rgb]
    references: list[Rgb]


def _portrait(wanted: Wanted) -> Portrait:
    return draw_portrait(wanted.seed, wanted.number, wanted.photo)


def cases(people: int, size: tuple[int, int], workers: int) -> list[Case]:
    """Unseen people, severely degraded at 512 px as the dataset's test images are."""
    each = TARGETS + max(COUNTS)
    wanted = [Wanted(JUDGING_WORLD, number, photo) for number in range(people) for photo in range(each)]
    bar = tqdm(drawn(_portrait, wanted, workers), total=len(wanted), desc="draw", unit="photo", disable=None)
    portraits = list(bar)
    degrade = sampler("severe")
    found = []
    for first in range(0, len(wanted), each):
        targets = portraits[first : first + TARGETS]
        lq = [degrade(p.image, w.name) for p, w in zip(targets, wanted[first:], strict=False)]
        references = [fit(p.image, *size) for p in portraits[first + TARGETS : first + each]]
        found.append(Case(wanted[first].identity, targets, lq, references))
    return found


def restored(restorer: Restorer, judged: Sequence[Case], seen: Sequence[Seen], what: str) -> list[Rgb]:
    """Every target of every case, restored with what is `seen` for the case."""
    jobs = [(fit(lq, *restorer.size), one) for case, one in zip(judged, seen, strict=True) for lq in case.lq]
    pictures: list[Rgb] = []
    noise = restorer.noise(2024)
    for start in tqdm(range(0, len(jobs), SAMPLES), desc=what, unit="batch", disable=None):
        batch = jobs[start : start + SAMPLES]
        pictures += restorer.restore(
            [lq for lq, _ in batch], [seen for _, seen in batch], [noise] * len(batch), Options()
        )
    return pictures


def with_references(restorer: Restorer, judged: Sequence[Case]) -> dict[str, list[Rgb]]:
    """Restored by number of references; and what shows that it is the person in them who counts."""
    made = {}
    for count in COUNTS:
        kind = f"{count} references"
        seen = [restorer.look(case.references[:count]) for case in judged]
        made[kind] = restored(restorer, judged, seen, kind)
    others = [*seen[1:], seen[0]]
    made[f"{kind} of another person"] = restored(restorer, judged, others, "of another person")
    null = restorer.see(torch.zeros(1, *restorer.latent))
    made["null condition"] = restored(restorer, judged, [null] * len(judged), "null condition")
    return made


def judge(path: Path, ldm: Path, people: int, workers: int) -> dict[str, Any]:
    """Similarity to the targets by number of references, with intervals over people.

    Without references two others stand beside: the LDM that `path` was trained from, and the null condition,
    which is what training shows in place of references.
    """
    restorer, plain = Restorer(checkpoint.load(path)), Restorer(checkpoint.load(ldm))
    judged = cases(people, restorer.size, workers)
    targets = [portrait for case in judged for portrait in case.targets]
    who = [case.person for case in judged for _ in case.targets]
    made: dict[str, list[Rgb]] = {
        "low quality": [lq for case in judged for lq in case.lq],
        "target at the restorer's size": [fit(p.image, *restorer.size) for p in targets],
        "target through the autoencoder": [
            restorer.decode(restorer.encode(fit(p.image, *restorer.size)[None]))[0] for p in targets
        ],
    }
    made["LDM"] = restored(plain, judged, [Seen()] * len(judged), "LDM")
    made |= with_references(restorer, judged)
    found = to_targets(targets, made)
    most = found[f"{COUNTS[-1]} references"]
    for none in ("0 references", "null condition", "LDM"):
        found[f"gain of {COUNTS[-1]} references over {none}"] = list(np.subtract(most, found[none]))
    return {"level": "severe", "people": people, "pictures": len(targets), "world": JUDGING_WORLD,
            SIMILARITY: rounded(found, who)}  # fmt: skip


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
    model = shop.trained("refldm", "--init", ldm, "--identity", EMBEDDER)
    shipped(model, given.out)
    judged = judge(given.out, ldm, given.judged, given.workers)
    tell(given.out, judged, {"people": given.people, **shop.about(["ldm", "refldm"])})
    print(f"Made {given.out}: {json.dumps(judged, indent=1)}")


if __name__ == "__main__":
    main()
