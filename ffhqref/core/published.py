"""What ReF-LDM's paper measured (Table 7), to stand beside one's own: always marked as published.

Rows with `leaked` are of restorers that were trained on FFHQ images of the test split.
"""

from __future__ import annotations

from dataclasses import dataclass

METRICS = ("ids", "flpips", "lpips", "fid")


@dataclass(frozen=True)
class Published:
    """A row of Table 7: the metrics above for one method on one test set, and how many pictures failed."""

    method: str
    values: tuple[float, ...]
    failed: int = 0
    leaked: bool = False

    def value(self, metric: str) -> float | None:
        """The published number of a metric, or None where the paper has none."""
        return dict(zip(METRICS, self.values, strict=False)).get(metric)

    @property
    def label(self) -> str:
        marks = ["leaked"] * self.leaked + [f"{self.failed} failed, scored on the rest"] * bool(self.failed)
        return f"{self.method} (published{''.join(f'; {mark}' for mark in marks)})"


TABLE_7 = {
    "severe": (
        Published("CodeFormer", (0.323, 0.108, 0.398, 51.51), leaked=True),
        Published("VQFR", (0.308, 0.112, 0.415, 52.96), leaked=True),
        Published("DAEFR", (0.294, 0.118, 0.435, 49.08), leaked=True),
        Published("LDM", (0.231, 0.125, 0.453, 34.40)),
        Published("DMDNet", (0.185, 0.162, 0.511, 72.66), failed=214, leaked=True),
        Published("ReF-LDM", (0.676, 0.110, 0.429, 37.60)),
    ),
    "moderate": (
        Published("CodeFormer", (0.760, 0.084, 0.301, 38.78), leaked=True),
        Published("VQFR", (0.659, 0.089, 0.324, 36.77), leaked=True),
        Published("DAEFR", (0.614, 0.093, 0.333, 33.86), leaked=True),
        Published("LDM", (0.753, 0.095, 0.344, 32.16)),
        Published("DMDNet", (0.810, 0.096, 0.348, 36.60), failed=29, leaked=True),
        Published("ReF-LDM", (0.840, 0.088, 0.332, 33.05)),
    ),
    "celeba-test-ref": (
        Published("CodeFormer", (0.660, 0.092, 0.340)),
        Published("VQFR", (0.558, 0.096, 0.352)),
        Published("DAEFR", (0.491, 0.101, 0.367)),
        Published("LDM", (0.663, 0.093, 0.368)),
        Published("DMDNet", (0.752, 0.097, 0.362), failed=488),
        Published("ReF-LDM", (0.779, 0.093, 0.368)),
    ),
}
