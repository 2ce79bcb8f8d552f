"""The event loop stays awake for callers who make one call after the other, and for nobody else."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress

import pytest

from service.alertness import LONGEST_SECONDS, LOOK_SECONDS, PAUSE_SECONDS, REST_SECONDS, SHARE, Alertness

QUICK, SOON = LONGEST_SECONDS / 2, PAUSE_SECONDS / 2
TURN_SECONDS = 0.00002


class Machine:
    """An event loop whose time passes only while it turns or sleeps, with a thread that gets a share of the processor."""

    def __init__(self) -> None:
        self.now = 100.0
        self.used = 5.0
        self.share = 1.0
        self.turns = 0
        self._ready: deque[Callable[[], None]] = deque()
        self.alertness = Alertness(self._ready.append, lambda: self.now, lambda: self.used)

    def passes(self, seconds: float) -> bool:
        """Lets time pass; returns whether the loop was awake to its end."""
        end = self.now + seconds
        while self._ready and self.now < end:
            self._ready.popleft()()
            self.turns += 1
            self.now += TURN_SECONDS
            self.used += self.share * TURN_SECONDS
        awake = bool(self._ready)
        self.now = max(self.now, end)
        return awake

    def call(self, answer: float = QUICK, pause: float = SOON) -> bool:
        """Makes a call, and lets some time pass after its answer; returns whether the loop was awake when it came."""
        with self.alertness:
            awake = self.passes(answer)
        self.passes(pause)
        return awake


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_the_second_of_two_calls_is_answered_awake(machine: Machine) -> None:
    assert [machine.call() for _ in range(4)] == [False, True, True, True]


def test_it_sleeps_when_no_call_follows(machine: Machine) -> None:
    machine.call()
    machine.call(pause=0)
    assert machine.passes(0.9 * PAUSE_SECONDS)
    assert not machine.passes(0.2 * PAUSE_SECONDS)
    turns = machine.turns
    machine.passes(60)
    assert machine.turns == turns


def test_callers_who_pause_are_slept_for(machine: Machine) -> None:
    assert not any(machine.call(pause=2 * PAUSE_SECONDS) for _ in range(10))
    assert machine.turns == 0


def test_answers_that_take_long_are_slept_for(machine: Machine) -> None:
    machine.call()
    assert not machine.call(answer=2 * LONGEST_SECONDS)
    assert machine.turns <= LONGEST_SECONDS / TURN_SECONDS + 2
    turns = machine.turns
    assert not any(machine.call(answer=2 * LONGEST_SECONDS) for _ in range(10))
    assert machine.turns == turns
    machine.call()
    assert machine.call()


def test_an_answer_that_is_an_error_ends_the_wait_too(machine: Machine) -> None:
    machine.call()
    with suppress(ZeroDivisionError), machine.alertness:
        machine.passes(QUICK)
        _ = 1 / 0
    machine.passes(2 * PAUSE_SECONDS)
    turns = machine.turns
    assert turns > 0
    machine.passes(60)
    assert machine.turns == turns


def test_it_rests_when_others_want_the_processor(machine: Machine) -> None:
    machine.share = SHARE / 2
    calls = [machine.call() for _ in range(int(REST_SECONDS / (QUICK + SOON)))]
    assert any(calls)
    assert sum(calls) <= 2 * LOOK_SECONDS / (QUICK + SOON)
    machine.share = 1.0
    later = [machine.call() for _ in range(int(REST_SECONDS / (QUICK + SOON)))]
    assert later[-1]
