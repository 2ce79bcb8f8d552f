"""Ratios between subjects of one comparison, round by round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.findings import Finding, Goal
from benchmarks.throughput import Figure
from benchmarks.work import Work

OURS = "fitserve"


@dataclass(frozen=True)
class Ratio:
    """The throughput of FitServe against that of one other, or of the best set-up of a peer.

    Attributes:
        name: Its key in latest.json.
        work: What both did.
        others: The names of the other's set-ups, of which the one with the largest median counts.
        least: The least that is wanted, or None where it is only shown.
    """

    name: str
    work: Work
    others: Sequence[str]
    least: float | None = None
    ours: str = OURS


def find(ratio: Ratio, figures: Sequence[Figure]) -> Finding | None:
    """Returns the median of the ratios of all rounds, or None if there are no figures for it."""
    same = {figure.subject: figure for figure in figures if figure.work == ratio.work}
    measured = [(same[name].median or 0.0, name) for name in ratio.others if name in same and same[name].median]
    if ratio.ours not in same or not measured:
        return None
    _, best = max(measured)
    pairs = zip(same[ratio.ours].rounds, same[best].rounds, strict=True)
    rounds = [ours / theirs for ours, theirs in pairs if ours is not None and theirs]
    goal = Goal(ratio.name, str(ratio.work), "x", ratio.least)
    return Finding(goal, rounds, against=best) if rounds else None
