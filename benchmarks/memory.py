"""Whether the service's memory stays flat over a million predictions."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.checks import first_reply_bytes
from benchmarks.findings import Finding, Goal
from benchmarks.h2load import number_of_calls
from benchmarks.stage import Stage
from benchmarks.throughput import check_replies
from benchmarks.work import Work

PREDICTIONS = 1_000_000
PARTS = 10
WORK = Work("xgboost", 1, 256)
GOAL = Goal(
    "memory_growth_mb_per_100k",
    "growth of the service's memory per 100,000 predictions, second half of a million",
    "MB",
    bound=1.0,
    least=False,
)


def measure(stage: Stage, say: Callable[[str], None]) -> list[Finding]:
    """Makes so many one-row predictions, and looks at the resident memory of the service after each tenth of them.

    Raises:
        WrongAnswer, LoadFailed: FitServe fails.
    """
    call, part = stage.fitserve.call(WORK), PREDICTIONS // PARTS
    megabytes: list[float] = []
    with stage.only(stage.fitserve.servers):
        size = first_reply_bytes(call, stage.expected[WORK.model][: WORK.rows])
        for _ in range(PARTS):
            load = number_of_calls(call, part, WORK.in_flight)
            check_replies(call, load, size)
            megabytes.append(round(stage.fitserve.memory() / 1e6, 2))
            say(f"{len(megabytes) * part:,} predictions: {megabytes[-1]} MB")
    return [Finding(GOAL, [growth(megabytes)], details={"megabytes": megabytes, "predictions_each": part})]


def growth(megabytes: list[float]) -> float:
    """Returns the growth per part over the second half: from the end of the first to the end of all."""
    half = len(megabytes) // 2
    return (megabytes[-1] - megabytes[half - 1]) / (len(megabytes) - half) * (PREDICTIONS // PARTS / 100_000)
