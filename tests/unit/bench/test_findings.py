"""What counts as a median, as met, and as the best of a peer's set-ups."""

from __future__ import annotations

import pytest

from benchmarks import memory
from benchmarks.findings import Finding, Goal
from benchmarks.ratios import Ratio, find
from benchmarks.throughput import Figure
from benchmarks.work import Work

WORK = Work("forest", 1, 256)
AT_LEAST = Goal("speed", "calls", "x", 2.0)
AT_MOST = Goal("latency", "p99", "ms", 20.0, least=False)


def figure(subject: str, *rounds: float | None, work: Work = WORK) -> Figure:
    return Figure("unary", subject, work, "calls/s", list(rounds))


def test_a_ratio_is_the_median_of_the_ratios_of_each_round_and_not_the_ratio_of_medians() -> None:
    figures = [figure("fitserve", 100, 400, 900), figure("triton", 100, 100, 300)]
    found = find(Ratio("r", WORK, ["triton"], 2.0), figures)
    assert found
    assert found.rounds == [1, 4, 3]
    assert found.value == 3
    assert found.met


def test_a_ratio_is_taken_against_the_fastest_set_up_of_a_peer() -> None:
    figures = [figure("fitserve", 90, 90), figure("peer", 10, 20), figure("peer-batching", 30, 30)]
    found = find(Ratio("r", WORK, ["peer", "peer-batching", "peer-missing"]), figures)
    assert found
    assert found.against == "peer-batching"
    assert found.rounds == [3, 3]
    assert found.met is None


def test_rounds_in_which_either_failed_do_not_count() -> None:
    figures = [figure("fitserve", 10, None, 30, 40), figure("triton", 10, 10, None, 20)]
    found = find(Ratio("r", WORK, ["triton"]), figures)
    assert found
    assert found.rounds == [1, 2]


@pytest.mark.parametrize(
    "figures",
    [
        [figure("fitserve", 10)],
        [figure("fitserve", 10), figure("triton", None)],
        [figure("fitserve", 10), figure("triton", 10, work=Work("forest", 32, 256))],
        [figure("triton", 10)],
    ],
)
def test_without_figures_of_both_for_the_same_work_there_is_no_ratio(figures: list[Figure]) -> None:
    assert find(Ratio("r", WORK, ["triton"]), figures) is None


def test_a_bound_is_met_from_its_own_side() -> None:
    assert Finding(AT_LEAST, [1.9, 2.0, 2.1]).met
    assert not Finding(AT_LEAST, [1.9]).met
    assert Finding(AT_MOST, [20.0]).met
    assert not Finding(AT_MOST, [20.1]).met


def test_nothing_is_met_with_errors() -> None:
    assert not Finding(AT_MOST, [1.0], errors=1).met


def test_memory_that_grows_at_first_and_then_stays_is_flat() -> None:
    assert memory.growth([100, 110, 120, 125, 130, 130, 130, 130, 130, 130]) == 0
    assert memory.growth([100, 101, 102, 103, 104, 105, 106, 107, 108, 109]) == pytest.approx(1)
