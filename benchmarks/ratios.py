"""The ratios that count, each between subjects of one comparison, round by round."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.throughput import Figure
from benchmarks.work import Work

OURS = "fitserve"


@dataclass(frozen=True)
class Ratio:
    """FitServe against one other, or against the best set-up of a peer.

    Attributes:
        name: Its key in latest.json.
        work: What both did.
        others: The names of the other subject's set-ups, of which the one with the largest median counts.
        goal: The least that is wanted, or None where it is only shown.
    """

    name: str
    work: Work
    others: Sequence[str]
    goal: float | None = None


@dataclass(frozen=True)
class RatioFound:
    """A ratio with the rounds it is the median of.

    Attributes:
        against: The set-up that it was taken against.
    """

    ratio: Ratio
    against: str
    rounds: list[float]

    @property
    def value(self) -> float:
        """The median of the rounds' ratios."""
        return statistics.median(self.rounds)


def find(ratio: Ratio, figures: Sequence[Figure]) -> RatioFound | None:
    """Returns a ratio, or None if there are no figures for it."""
    same = {figure.subject: figure for figure in figures if figure.work == ratio.work}
    measured = [(same[name].median or 0.0, name) for name in ratio.others if name in same and same[name].median]
    if OURS not in same or not measured:
        return None
    _, best = max(measured)
    pairs = zip(same[OURS].rounds, same[best].rounds, strict=True)
    rounds = [ours / theirs for ours, theirs in pairs if ours is not None and theirs]
    return RatioFound(ratio, best, rounds) if rounds else None
