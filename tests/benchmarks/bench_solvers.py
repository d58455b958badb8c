"""Solvers on the demo's restorer: how far latents are from DDIM's 250 steps, over the number of steps.

`run()` gives the rows of `make bench` for the choice that --fast stands for; as a program this prints the
whole table, over FFHQREF_BENCH_PEOPLE people (3) of two pictures each, with severe degradation and five
references: relative RMS distance of the latents, and cosine similarity to the target.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tests.benchmarks.common import Skip

PEOPLE = int(os.environ.get("FFHQREF_BENCH_PEOPLE", "3"))
COUNTS = (5, 8, 10, 12, 15, 20, 30, 50)
WAYS = (("ddim", "uniform_trailing"), ("dpmpp2m", "log_snr"), ("unipc", "log_snr"))
INTERVALS = ((0, 700), (100, 999), (100, 700))  # timesteps that are guided
LONGEST = 250  # steps of the solution that all are compared with


@dataclass
class Bench:
    """The pictures, encoded, and what 250 steps of DDIM make of them."""

    people: int = PEOPLE

    def __post_init__(self) -> None:
        import torch

        from ffhqref.demo import RESTORER
        from ffhqref.demo.making.judge_restorer import cases
        from ffhqref.refldm.model import checkpoint
        from ffhqref.refldm.restorer import Restorer, SamplingOptions, resize_bicubic

        self.restorer = one = Restorer(checkpoint.load_networks(RESTORER))
        self.judged = cases(self.people, one.size, workers=1)
        cached = [(case, one.cache_references(case.references)) for case in self.judged]
        self.cached = [cache for case, cache in cached for _ in case.lq]
        small = [resize_bicubic(lq, *one.size) for case in self.judged for lq in case.lq]
        self.lq = torch.cat([one.encode(picture[None]) for picture in small])
        self.noise = one.noise(2024).expand(len(small), -1, -1, -1)
        self.plain = SamplingOptions()
        self.truth = self.sample(replace(self.plain, steps=LONGEST))

    def sample(self, options: Any) -> Any:
        import torch

        parts = [slice(start, start + 16) for start in range(0, len(self.lq), 16)]
        return torch.cat(
            [self.restorer.sample(self.noise[p], self.lq[p], self.cached[p], options) for p in parts]
        )

    def distance(self, latents: Any, at: int | None = None) -> float:
        """Relative RMS distance to the longest solution, of all pictures or of one."""
        truth = self.truth if at is None else self.truth[at]
        return float((latents - truth).norm() / truth.norm())

    def similarity(self, latents: Any) -> float:
        """Mean cosine similarity of the restored pictures to their targets."""
        import numpy as np

        from ffhqref.demo.making.judge_restorer import to_targets

        targets = [portrait for case in self.judged for portrait in case.targets]
        return float(np.mean(to_targets(targets, {"made": self.restorer.decode(latents)})["made"]))


def run() -> list[dict[str, Any]]:
    """Rows of what --fast stands for and of DDIM's 50 steps."""
    try:
        bench = Bench()
    except ImportError:
        raise Skip("torch (the extra `train`) is not installed") from None
    from ffhqref.cli.sampling import FAST

    fast = replace(bench.plain, steps=FAST.steps, schedule=FAST.schedule, solver=FAST.solver)
    ours, theirs = (bench.sample(one) for one in (fast, bench.plain))
    pairs = [
        bench.distance(their, at) / bench.distance(our, at)
        for at, (our, their) in enumerate(zip(ours, theirs, strict=True))
    ]
    return [
        {
            "name": f"--fast, {FAST.steps} steps of {FAST.solver}",
            "ours": bench.distance(ours), "theirs": bench.distance(theirs), "ratio": statistics.median(pairs),
            "range": [min(pairs), max(pairs)], "pairs": len(pairs), "unit": "of the latents",
            "note": f"distance to {LONGEST} steps of DDIM, instead: of its {bench.plain.steps}; by picture",
        }
    ]  # fmt: skip


def table(bench: Bench, counts: Sequence[int] = COUNTS) -> str:
    """A Markdown table: a line a solver, a column a number of steps; distance and similarity."""
    lines = ["| |" + "".join(f" {count} |" for count in counts), "|---|" + "--:|" * len(counts)]
    for solver, schedule in WAYS:
        cells = []
        for steps in counts:
            found = bench.sample(replace(bench.plain, solver=solver, schedule=schedule, steps=steps))
            cells.append(f" {bench.distance(found):.4f} ({bench.similarity(found):.3f}) |")
        lines.append(f"| {solver}, {schedule} |" + "".join(cells))
        print(lines[-1], flush=True)
    for low, high in INTERVALS:
        found = bench.sample(replace(bench.plain, guidance_from=low, guidance_to=high))
        text = f"{bench.distance(found):.4f} ({bench.similarity(found):.3f})"
        lines.append(f"guided from {low} to {high}, 50 steps of DDIM: {text}")
    return "\n".join(lines)


if __name__ == "__main__":
    one = Bench()
    print(f"{LONGEST} steps of DDIM: similarity {one.similarity(one.truth):.3f}")
    print(table(one))
