"""Latencies: of a lone request, at a fixed rate, while the machine trains, and of many clients.

At a fixed rate calls start whatever the answers take, so that a call that waits for others is counted as waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import fitserve
import numpy as np
from numpy.typing import NDArray

from benchmarks.checks import WrongAnswer, first_reply_bytes
from benchmarks.findings import Finding, Goal
from benchmarks.h2load import Load, LoadFailed, number_of_calls, open_loop
from benchmarks.stage import Stage
from benchmarks.throughput import check_replies, warm_up
from benchmarks.work import Call, Work

CALLS_PER_CONNECTION = 20
"""Calls a second of one connection at a fixed rate: so few that the connections' timers spread the calls evenly."""

CONNECTING_SECONDS = 1.0
"""At the begin of a load at a fixed rate, in which its connections are opened and calls do not count: at 6,000 calls a
second 300 connections are opened within 50 ms, and what that takes is not what a call takes."""

BUSY_RATE = 200
"""Calls a second while the machine trains, and while it does not."""

OURS = "fitserve"
ONE_PROCESS = "fitserve-1"
ONE_ROW = Work("xgboost", 1, 256)
LONE = Work("xgboost", 1, 1)
IMAGE = Work("cnn", 1, 1)

Say = Callable[[str], None]


@dataclass
class LatencyFigure:
    """The latencies of one subject under one load.

    Attributes:
        what: The load in words.
        rate: Calls a second, by round; 0 for a lone request, which follows the answer before.
        milliseconds: The percentiles 50, 90, 99 and the maximum, by round.
        errors: Calls that were not answered rightly, all rounds together.
        problem: Why it failed the last time, or empty.
    """

    section: str
    subject: str
    what: str
    errors: int = 0
    rate: list[float] = field(default_factory=list)
    milliseconds: list[dict[str, float]] = field(default_factory=list)
    problem: str = ""

    def add(self, rate: float, load: Load, errors: int) -> None:
        """Notes a round."""
        self.rate.append(round(rate, 1))
        self.milliseconds.append(percentiles(load.latencies))
        self.errors += errors


def percentiles(latencies: NDArray[np.float64]) -> dict[str, float]:
    """Returns p50, p90, p99 and the maximum of seconds, in milliseconds."""
    values = np.percentile(latencies, [50, 90, 99, 100]) * 1e3
    return {name: round(float(value), 3) for name, value in zip(("p50", "p90", "p99", "max"), values, strict=True)}


@dataclass(frozen=True)
class Setting:
    """How latencies are measured.

    Attributes:
        stage: All subjects.
        rounds: How often.
        seconds: How long one load is.
        say: Told of each figure.
    """

    stage: Stage
    rounds: int
    seconds: float
    say: Say

    def present(self, subjects: Sequence[str]) -> list[str]:
        """Returns those that run."""
        return [name for name in subjects if name in self.stage.subjects]

    def one_by_one(self, figure: LatencyFigure, work: Work) -> None:
        """Notes the latencies of one call after the other. The subject must be thawed.

        Raises:
            WrongAnswer, LoadFailed: The subject fails.
        """
        call, size = self._ready(figure.subject, work)
        load = number_of_calls(call, warm_up(call, 1, self.seconds), 1)
        check_replies(call, load, size)
        figure.add(0, load, errors=0)

    def at_rate(
        self, figure: LatencyFigure, work: Work, rate: float, seconds: float, connections: int | None = None
    ) -> None:
        """Notes the latencies at a rate, and how many calls failed. The subject must be thawed.

        Args:
            connections: Over so many connections, all of whose calls count; by default as many as the rate needs.

        Raises:
            WrongAnswer, LoadFailed: The subject fails.
        """
        call, size = self._ready(figure.subject, work)
        warm_up(call, 1, seconds)
        if connections is None:
            enough = max(1, round(rate / CALLS_PER_CONNECTION))
            load = open_loop(call, rate, seconds, enough, CONNECTING_SECONDS)
        else:
            load = open_loop(call, rate, seconds, connections)
        # A failed call of gRPC has no message in its reply.
        figure.add(rate, load, errors=load.calls - load.data // size)

    def _ready(self, subject: str, work: Work) -> tuple[Call, int]:
        """Returns the call of a work, which the subject has just answered rightly, and the bytes of its reply."""
        call = self.stage.subjects[subject].call(work)
        assert call is not None
        size = first_reply_bytes(call, self.stage.expected[work.model][: work.rows])
        return call, size


def lone(setting: Setting, subjects: Sequence[str]) -> tuple[list[LatencyFigure], list[Finding]]:
    """Measures one request at a time, and what FitServe adds to Triton's latency."""
    figures = {name: LatencyFigure("lone", name, f"{LONE}, one after the other") for name in setting.present(subjects)}
    for number in range(setting.rounds):
        for name in _in_turn(list(figures), number):
            with _noting(setting, figures[name]):
                setting.one_by_one(figures[name], LONE)
    found = []
    if figures.get(OURS) and figures.get("triton"):
        pairs = zip(figures[OURS].milliseconds, figures["triton"].milliseconds, strict=False)
        added = [ours["p50"] - triton["p50"] for ours, triton in pairs]
        goal = Goal(
            "lone_added_p50_ms", "latency that FitServe adds to Triton's, one call at a time, p50", "ms", 0.4, False
        )
        found = [Finding(goal, added, "triton")] if added else []
    return list(figures.values()), found


def half_rate(setting: Setting, subjects: Sequence[str]) -> tuple[list[LatencyFigure], list[Finding]]:
    """Measures latencies at half of the rate that each subject can take, which is measured just before."""
    figures = {
        name: LatencyFigure("half", name, "xgboost, 1 row a call, half of the saturating rate")
        for name in setting.present(subjects)
    }
    for number in range(setting.rounds):
        for name in _in_turn(list(figures), number):
            with _noting(setting, figures[name]):
                call = setting.stage.subjects[name].call(ONE_ROW)
                assert call is not None
                calls = warm_up(call, ONE_ROW.in_flight, setting.seconds)
                saturating = number_of_calls(call, calls, ONE_ROW.in_flight)
                rate = saturating.calls / saturating.seconds / 2
                setting.at_rate(figures[name], ONE_ROW, rate, setting.seconds)
    goal = Goal("half_rate_p99_vs_p50", "p99 at half of the saturating rate, against its own p50", "x", 5.0, False)
    rounds = [one["p99"] / one["p50"] for one in figures[OURS].milliseconds] if OURS in figures else []
    return list(figures.values()), [Finding(goal, rounds, "its own p50")] if rounds else []


def while_training(setting: Setting) -> tuple[list[LatencyFigure], list[Finding]]:
    """Measures Predict at a fixed rate, in turn with nothing else to do and while all training cores train."""
    idle = LatencyFigure("training", OURS, f"xgboost, 1 row a call, {BUSY_RATE} calls/s, idle")
    busy = LatencyFigure("training", OURS, f"xgboost, 1 row a call, {BUSY_RATE} calls/s, all training cores busy")
    for _ in range(setting.rounds):
        for figure in (idle, busy):
            with _noting(setting, figure), _training(setting.stage, figure is busy):
                setting.at_rate(figure, ONE_ROW, BUSY_RATE, 2 * setting.seconds)
    pairs = zip(busy.milliseconds, idle.milliseconds, strict=False)
    rounds = [one["p99"] / other["p99"] for one, other in pairs]
    goal = Goal(
        "training_p99_vs_idle", "p99 of Predict while all training cores are busy, against idle", "x", 2.0, False
    )
    return [idle, busy], [Finding(goal, rounds, "idle")] if rounds else []


def many_clients(
    setting: Setting, subjects: Sequence[str], clients: int = 1400, seconds: float = 30.0
) -> tuple[list[LatencyFigure], list[Finding]]:
    """Measures many connections that each send one image a second to the network."""
    what = f"cnn, {clients} clients with an image a second each"
    figures = {name: LatencyFigure("clients", name, what) for name in setting.present(subjects)}
    for figure in figures.values():
        with _noting(setting, figure):
            setting.at_rate(figure, IMAGE, clients, seconds, clients)
    found = []
    for name, key, wanted in ((OURS, "clients_p99_ms", 50.0), (ONE_PROCESS, "clients_1_process_p99_ms", None)):
        if name in figures:
            found += _p99(Goal(key, f"{what}, p99; no error ({name})", "ms", wanted, False), figures[name])
    return list(figures.values()), found


def sustained(setting: Setting, rate: int = 500, seconds: float = 60.0) -> tuple[list[LatencyFigure], list[Finding]]:
    """Measures a rate over a minute."""
    figure = LatencyFigure("sustained", OURS, f"xgboost, 1 row a call, {rate} calls/s for {seconds:g} s")
    with _noting(setting, figure):
        setting.at_rate(figure, ONE_ROW, rate, seconds)
    goal = Goal("sustained_p99_ms", f"{figure.what}, p99; no error", "ms", 20.0, False)
    return [figure], _p99(goal, figure)


def _p99(goal: Goal, figure: LatencyFigure) -> list[Finding]:
    rounds = [one["p99"] for one in figure.milliseconds]
    return [Finding(goal, rounds, errors=figure.errors, details={"errors": figure.errors})] if rounds else []


def _in_turn(names: list[str], number: int) -> list[str]:
    turned = number % max(1, len(names))
    return names[turned:] + names[:turned]


@contextmanager
def _noting(setting: Setting, figure: LatencyFigure) -> Iterator[None]:
    """Lets the figure's subject run alone, says what came of it, and notes its failure."""
    before = len(figure.milliseconds)
    with setting.stage.only(setting.stage.subjects[figure.subject].servers):
        try:
            yield
        except (WrongAnswer, LoadFailed) as error:
            figure.problem = str(error)
    if len(figure.milliseconds) > before:
        shown = ", ".join(f"{name} {value:.2f} ms" for name, value in figure.milliseconds[-1].items())
        setting.say(f"{figure.what}: {figure.subject}: {shown}; {figure.errors} errors")
    else:
        setting.say(f"{figure.what}: {figure.subject}: {figure.problem}")


@contextmanager
def _training(stage: Stage, wanted: bool) -> Iterator[None]:
    """Keeps all training cores busy with fits that take long, and cancels them at the end."""
    if not wanted:
        yield
        return
    rows = np.random.default_rng(0).normal(size=(20_000, 40)).astype(np.float32)
    with fitserve.Client(stage.fitserve.address) as client:
        cores = client.status().training.total_cores
        jobs = [
            client.fit(f"busy-{n}", rows, rows[:, 0] > 0, algorithm="random_forest", n_estimators=2000)
            for n in range(cores)
        ]
        try:
            for job in jobs:
                for update in job.watch():
                    if update.steps:
                        break
            yield
        finally:
            for job in jobs:
                job.cancel()
