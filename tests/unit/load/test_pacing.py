"""When calls start, and how many workers there are, second by second."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest

from benchmarks.ghz.config import Config
from benchmarks.ghz.pacing import SECOND, ConstantPacer, Pacer, StepPacer, pacer_of, worker_changes


def starts(pacer: Pacer, until: float) -> list[float]:
    """Returns when calls start, in seconds, if each is started exactly when the pacer says."""
    moments: list[float] = []
    now = 0
    while now < until * SECOND:
        wait = pacer.pace(now, len(moments))
        if wait is None:
            break
        now += wait
        moments.append(now / SECOND)
    return moments


def per_second(moments: list[float], seconds: int) -> list[int]:
    return [sum(second <= moment < second + 1 for moment in moments) for second in range(seconds)]


def config(**keys: Any) -> Config:
    return Config.model_validate({"call": "a.B.C"} | {name.replace("_", "-"): value for name, value in keys.items()})


def test_a_constant_rate_spaces_calls_evenly_and_ends_at_the_total() -> None:
    assert starts(ConstantPacer(10, 5), 9) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


def test_without_a_rate_nobody_waits() -> None:
    assert starts(ConstantPacer(0, 3), 9) == [0, 0, 0]


def test_a_constant_rate_catches_up_after_a_pause() -> None:
    assert ConstantPacer(10, 0).pace(5 * SECOND, 20) == 0


def test_a_rate_rises_in_steps_up_to_its_end() -> None:
    pacer = StepPacer(start=10, step=10, end=30, limit=0, step_duration=SECOND, max_duration=0)
    assert [pacer.rate(second * SECOND) for second in range(6)] == [10, 20, 30, 30, 30, 30]
    assert per_second(starts(pacer, 5.5), 5) == pytest.approx([10, 20, 30, 30, 30], abs=1)


def test_a_rate_falls_in_steps_down_to_its_end() -> None:
    pacer = StepPacer(start=40, step=-20, end=10, limit=0, step_duration=SECOND, max_duration=0)
    assert [pacer.rate(second * SECOND) for second in range(5)] == [40, 20, 10, 10, 10]


def test_a_rate_that_falls_to_zero_ends_the_load() -> None:
    pacer = StepPacer(start=20, step=-10, end=0, limit=0, step_duration=SECOND, max_duration=0)
    assert len(starts(pacer, 9)) == pytest.approx(30, abs=1)


def test_after_its_time_a_rate_stays_where_it_should_end() -> None:
    pacer = StepPacer(start=10, step=10, end=50, limit=0, step_duration=SECOND, max_duration=2 * SECOND)
    assert [pacer.rate(second * SECOND) for second in range(4)] == [10, 20, 50, 50]
    without_end = StepPacer(start=10, step=10, end=0, limit=0, step_duration=SECOND, max_duration=2 * SECOND)
    assert [without_end.rate(second * SECOND) for second in range(5)] == [10, 20, 30, 30, 30]


def test_a_line_is_steps_of_a_second() -> None:
    pacer = pacer_of(config(load_schedule="line", load_start=5, load_step=5, load_end=20, total=30))
    moments = starts(pacer, 60)
    assert len(moments) == 30
    assert per_second(moments, 3) == pytest.approx([5, 10, 15], abs=1)


def test_workers_are_all_there_from_the_start() -> None:
    assert list(worker_changes(config(concurrency=7))) == [(0, 7)]


def test_workers_grow_in_steps_until_the_end_is_reached() -> None:
    keys = {"concurrency_schedule": "step", "concurrency_start": 2, "concurrency_step": 3, "concurrency_end": 8}
    changes = list(worker_changes(config(**keys, concurrency_step_duration="500ms")))
    assert changes == [(0, 2), (SECOND // 2, 3), (SECOND, 3)]


def test_workers_take_the_rest_of_the_way_when_their_time_is_over() -> None:
    keys = {"concurrency_schedule": "line", "concurrency_start": 10, "concurrency_step": -2, "concurrency_end": 1}
    changes = list(worker_changes(config(**keys, concurrency_max_duration="3s")))
    assert changes == [(0, 10), (SECOND, -2), (2 * SECOND, -2), (3 * SECOND, -5)]


def test_workers_without_an_end_grow_for_ever() -> None:
    keys = {"concurrency_schedule": "line", "concurrency_start": 1, "concurrency_step": 1}
    assert [change for _, change in islice(worker_changes(config(**keys)), 100)] == [1] * 100
