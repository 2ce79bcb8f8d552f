"""Closed-loop throughput: the same work by several subjects in turn, round after round."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.checks import WrongAnswer, first_reply_bytes, reply_bytes
from benchmarks.h2load import Load, LoadFailed, number_of_calls
from benchmarks.processor import ProcessorTime
from benchmarks.stage import Stage
from benchmarks.work import STREAM_MESSAGES, Call, Subject, Work

WARM_UP_SECONDS = 0.5

DISTURBED = 0.1
"""The share of the processors used by somebody else from which a load is tried again, and a figure marked as disturbed."""

TRIES = 3


@dataclass(frozen=True)
class Comparison:
    """The same work by several subjects, in slots that follow one another in each round.

    Attributes:
        section: The part of the benchmark that it belongs to.
        subjects: Names; those that are missing or cannot do the work are left out.
    """

    section: str
    work: Work
    subjects: Sequence[str]


@dataclass
class Figure:
    """What one subject achieved in one work.

    Attributes:
        unit: "calls/s" or "rows/s".
        rounds: One value a round; None where the subject failed.
        processor: For each round, microseconds of processor time a call, or a row of a stream, by who used it.
        foreign: For each round, the share of all processors that somebody else used meanwhile, from 0 to 1.
        problem: Why it failed the last time, or empty.
    """

    section: str
    subject: str
    work: Work
    unit: str
    rounds: list[float | None] = field(default_factory=list)
    processor: list[dict[str, float]] = field(default_factory=list)
    foreign: list[float] = field(default_factory=list)
    problem: str = ""

    @property
    def median(self) -> float | None:
        """The median of the rounds, or None if there is none."""
        values = [value for value in self.rounds if value is not None]
        return statistics.median(values) if values else None


def measure(
    stage: Stage, comparisons: Sequence[Comparison], rounds: int, seconds: float, say: Callable[[str], None]
) -> list[Figure]:
    """Returns a figure for each subject of each comparison.

    Args:
        stage: All subjects.
        comparisons: What is compared.
        rounds: How often everything is measured; the subjects take turns within each round.
        seconds: How long one load is.
        say: Told of each figure.
    """
    slots = [_slots(stage, comparison) for comparison in comparisons]
    for number in range(rounds):
        for comparison in slots:
            turned = number % max(1, len(comparison))  # nobody is always the first
            for figure in comparison[turned:] + comparison[:turned]:
                _measure_once(stage, figure, seconds)
                value = figure.rounds[-1]
                found = f"{value:,.0f} {figure.unit}" if value is not None else figure.problem
                say(f"round {number + 1}: {figure.work}: {figure.subject}: {found}")
    return [figure for comparison in slots for figure in comparison]


def _slots(stage: Stage, comparison: Comparison) -> list[Figure]:
    able = [
        name
        for name in comparison.subjects
        if name in stage.subjects and stage.subjects[name].call(comparison.work) is not None
    ]
    unit = "rows/s" if comparison.work.stream else "calls/s"
    return [Figure(comparison.section, name, comparison.work, unit) for name in able]


@dataclass(frozen=True)
class _Slot:
    """One load by one subject: what was done a second, and who used the processors (see `Figure`)."""

    per_second: float
    processor: dict[str, float]
    foreign: float


def _measure_once(stage: Stage, figure: Figure, seconds: float) -> None:
    """Notes a round. When somebody else uses the machine meanwhile it tries again, and the quietest try counts."""
    subject = stage.subjects[figure.subject]
    tries: list[_Slot] = []
    with stage.only(subject.servers):
        try:
            while len(tries) < TRIES and (not tries or tries[-1].foreign > DISTURBED):
                tries.append(_slot(stage, subject, figure.work, seconds))
        except (WrongAnswer, LoadFailed) as error:
            figure.problem = str(error)
            figure.rounds.append(None)
            return
    quietest = min(tries, key=lambda slot: slot.foreign)
    figure.rounds.append(quietest.per_second)
    figure.processor.append(quietest.processor)
    figure.foreign.append(quietest.foreign)


def _slot(stage: Stage, subject: Subject, work: Work, seconds: float) -> _Slot:
    """Runs one checked load. Raises WrongAnswer or LoadFailed."""
    call, expected = subject.call(work), stage.expected[work.model][: work.rows]
    assert call is not None
    size = first_reply_bytes(call, expected)
    calls = warm_up(call, work.in_flight, seconds)
    watch = ProcessorTime(subject.servers)
    load = number_of_calls(call, calls, work.in_flight)
    spent, foreign = watch.seconds(), watch.foreign_share()
    check_replies(call, load, size)
    reply_bytes(call, expected)
    done = load.calls * STREAM_MESSAGES * work.rows if work.stream else load.calls
    processor = {name: used / done * 1e6 for name, used in spent.items() if name != "others"}
    return _Slot(done / load.seconds, processor, foreign)


def warm_up(call: Call, in_flight: int, seconds: float) -> int:
    """Runs a short load, and returns how many calls will take about so many seconds with so many in flight.

    Loads are numbers of calls, all answered to their end. One that broke off would leave a slow server with work for
    nobody, which would count against the next; and Triton has been seen to die after streams that broke off.
    """
    load = number_of_calls(call, 2 * in_flight, in_flight)
    if load.seconds < WARM_UP_SECONDS:
        load = number_of_calls(call, _calls(load, WARM_UP_SECONDS, in_flight), in_flight)
    return _calls(load, seconds, in_flight)


def _calls(before: Load, seconds: float, in_flight: int) -> int:
    """Returns how many calls take so long, by the rate of a load before; at least two for each that is in flight."""
    return max(2 * in_flight, round(before.calls / before.seconds * seconds))


def check_replies(call: Call, load: Load, size: int) -> None:
    """Raises WrongAnswer if the replies of a load are not all as long as the right one, which has `size` bytes."""
    if load.data != load.calls * size:
        wrong = f"{load.calls} replies have {load.data} bytes; each right one has {size}"
        raise WrongAnswer(f"{call.url}: {wrong}")
