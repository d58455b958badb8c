"""Embeddings -> identity scores: likeness to the target, matches at a known error, copying from references.

`ids` is the published metric (the target's crop against the result's). `ids_aligned` and `ids_judge` are the
same by five points and by an independent network. `likeness_references` is the mean similarity to the
references, `copying` that less the similarity to the target: high where a restorer pastes its references in
place of restoring the face at hand. `likeness_wrong` is the similarity to another person's references.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ffhqref.core.arrays import Float32
from ffhqref.evaluate.cases import Case, Cases
from ffhqref.evaluate.scoring import TRUTH, Entry, Scored
from ffhqref.evaluate.views import ALIGNED, CROP, JUDGE, cosine, mean_similarity
from ffhqref.identities.calibrate import STEPS, match_rates

IDS = {"ids": CROP, "ids_aligned": ALIGNED, "ids_judge": JUDGE}  # metric -> view
MATCH_RATES = {"match_1e-3": 1e-3, "match_1e-4": 1e-4}  # metric -> false match rate
OF_REFERENCES = ("likeness_references", "copying", "likeness_wrong")


@dataclass(frozen=True)
class Threshold:
    """The similarity at which two pictures of different people match as seldom as asked for.

    `similarity` is None where there are too few pairs of two people to see such a rate at all.
    """

    rate: float
    similarity: float | None
    pairs: int  # of two people

    def __str__(self) -> str:
        if self.similarity is None:
            return f"a false match rate of {self.rate:g} needs {1 / self.rate:,.0f} pairs of two people"
        return f"similarity {self.similarity:.3f} at a false match rate of {self.rate:g}"


def thresholds(people: Sequence[str], vectors: Sequence[Float32]) -> dict[str, Threshold]:
    """Metric -> the threshold for its rate, over all pairs of these pictures of different people."""
    found = {name: Threshold(rate, None, 0) for name, rate in MATCH_RATES.items()}
    if len(set(people)) < 2 or len(set(people)) == len(people):
        return found
    rates = match_rates(np.stack(vectors), people)
    for name, rate in MATCH_RATES.items():
        if rates.different * rate >= 1:
            at = int(np.flatnonzero(rates.false_match <= rate)[-1])
            found[name] = Threshold(rate, float(1 - rates.distances[min(at, STEPS)]), rates.different)
        else:
            found[name] = Threshold(rate, None, rates.different)
    return found


@dataclass(frozen=True)
class Faces:
    """The embeddings of targets and references: what results are compared with. `view` is that of matches."""

    cases: Cases
    scored: Mapping[str, Scored]
    view: str

    def reference(self, name: str) -> Entry | None:
        """A reference's entry: of its own, or as a target."""
        found = self.scored.get(f"reference {name}") or self.scored.get(name)
        return found[TRUTH] if found else None

    def _vectors(self, names: Sequence[str]) -> list[Float32]:
        entries = [self.reference(name) for name in names]
        return [entry.views[self.view] for entry in entries if entry and self.view in entry.views]

    def population(self) -> tuple[list[str], list[Float32]]:
        """Person and embedding of every target and reference, each once: what thresholds are measured on."""
        person: dict[str, str] = {}
        for case in self.cases.cases:
            person |= dict.fromkeys((case.image, *case.references), case.person)
        names = [name for name in sorted(person) if self._vectors([name])]
        return [person[name] for name in names], [self._vectors([name])[0] for name in names]

    def of(self, case: Case, entry: Entry, limits: Mapping[str, Threshold]) -> Iterator[tuple[str, float]]:
        """Metric and value of every identity score of one result."""
        truth = self.scored[case.image][TRUTH].views
        for metric, view in IDS.items():
            if view in truth and view in entry.views:
                yield metric, cosine(truth[view], entry.views[view])
        mine = entry.views.get(self.view)
        if mine is None:
            return
        to_target = cosine(truth[self.view], mine) if self.view in truth else None
        own, wrong = (
            self._vectors(names) for names in (case.references, self.cases.wrong.get(case.image, ()))
        )
        to_own = mean_similarity(mine, own) if own else None
        if to_own is not None:
            yield OF_REFERENCES[0], to_own
            if to_target is not None:
                yield OF_REFERENCES[1], to_own - to_target
        if wrong:
            yield OF_REFERENCES[2], mean_similarity(mine, wrong)
        judged = to_target if to_target is not None else to_own
        for metric, limit in limits.items():
            if limit.similarity is not None and judged is not None:
                yield metric, float(judged > limit.similarity)


def matching_view(scored: Mapping[str, Scored]) -> str:
    """Faces are matched by five points where every target's are known, else by the published crop."""
    truths = [found[TRUTH].views for found in scored.values() if found[TRUTH].views]
    return ALIGNED if truths and all(ALIGNED in views for views in truths) else CROP
