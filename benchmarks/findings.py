"""What a run finds out, beside what is wanted."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Goal:
    """Something that is looked at, and what is wanted of it.

    Attributes:
        name: Its key in latest.json.
        what: What it is, in words.
        unit: "x" for ratios, which go into the object `ratios` of latest.json.
        bound: The least or the most that is wanted; None where it is only shown.
        least: Whether `bound` is the least that is wanted, and not the most.
    """

    name: str
    what: str
    unit: Literal["x", "ms", "MB", "errors"] = "x"
    bound: float | None = None
    least: bool = True

    @property
    def wanted(self) -> str:
        """The bound in words, such as ">= 0.75"; empty without one."""
        if self.bound is None:
            return ""
        unit = "" if self.unit == "x" else f" {self.unit}"
        return f"{'>=' if self.least else '<='} {self.bound:g}{unit}"


@dataclass(frozen=True)
class Finding:
    """What came of a goal.

    Attributes:
        rounds: One value a round, at least one.
        against: What it was measured against, or how.
        errors: Calls that were not answered rightly; nothing is met with any.
        details: The figures that it was computed from.
    """

    goal: Goal
    rounds: list[float]
    against: str = ""
    errors: int = 0
    details: dict[str, Any] = field(default_factory=dict)  # Any: what JSON may hold

    @property
    def value(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.rounds)

    @property
    def met(self) -> bool | None:
        """Whether the value is as wanted; None if nothing is."""
        if self.goal.bound is None:
            return None
        if self.errors:
            return False
        return self.value >= self.goal.bound if self.goal.least else self.value <= self.goal.bound
