"""The report's figures, from latencies that are known."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.ghz.config import Config, ConfigError
from benchmarks.ghz.report import Echo, Result, histogram, percentiles, report
from benchmarks.ghz.slo import Slo, load_slo

MS = 1_000_000
OK = [Result(number * MS, 0, "OK", "") for number in range(1, 101)]
FAILED = Result(1000 * MS, 0, "DeadlineExceeded", "rpc error: code = DeadlineExceeded desc = context deadline exceeded")


def report_of(results: list[Result], **keys: Any) -> dict[str, Any]:
    config = Config.model_validate({"call": "a.B.C"} | keys)
    return report(config, Echo(None, None, False), results, 2_000_000_000, "normal")


def test_a_percentile_at_a_whole_rank_is_the_value_before_it() -> None:
    found = {item["percentage"]: item["latency"] for item in percentiles(range(1, 101))}
    assert found == {10: 10, 25: 25, 50: 50, 75: 75, 90: 90, 95: 95, 99: 99}


def test_a_percentile_between_ranks_is_the_value_after_it() -> None:
    assert [item["latency"] for item in percentiles([1, 2, 3])] == [1, 1, 2, 3, 3, 3, 3]
    assert [item["latency"] for item in percentiles([7])] == [7] * 7


def test_a_histogram_has_eleven_marks_and_counts_every_value_once() -> None:
    bars = histogram([number * MS for number in range(1, 102)])
    assert [bar["mark"] for bar in bars] == pytest.approx([0.001 + 0.01 * number for number in range(11)])
    assert bars[0]["count"] == 1
    assert sum(bar["count"] for bar in bars) == 101
    assert sum(bar["frequency"] for bar in bars) == pytest.approx(1)


def test_equal_latencies_are_one_bar() -> None:
    assert [bar["count"] for bar in histogram([5, 5, 5])] == [3] + [0] * 10


def test_failed_calls_count_in_count_average_and_rps_only() -> None:
    found = report_of([*OK, FAILED])
    assert (found["count"], found["rps"]) == (101, 50.5)
    assert found["average"] == (5050 + 1000) * MS // 101
    assert found["slowest"] == 100 * MS
    assert found["statusCodeDistribution"] == {"DeadlineExceeded": 1, "OK": 100}
    assert found["errorDistribution"] == {FAILED.error: 1}


def test_count_errors_takes_failed_calls_into_the_latencies() -> None:
    assert report_of([*OK, FAILED], **{"count-errors": True})["slowest"] == 1000 * MS


def test_skip_first_leaves_out_the_calls_that_ended_first() -> None:
    found = report_of(OK, skipFirst=60)
    assert (found["count"], found["fastest"], len(found["details"])) == (40, 61 * MS, 40)


def test_a_report_without_successes_has_no_latencies() -> None:
    found = report_of([FAILED])
    assert (found["latencyDistribution"], found["histogram"], found["fastest"]) == (None, None, 0)


def test_a_report_without_calls_has_no_details() -> None:
    found = report_of([])
    assert (found["details"], found["count"], found["rps"], found["average"]) == (None, 0, 0, 0)


def test_each_threshold_is_checked() -> None:
    found = report_of([*OK, FAILED])
    limits = {"p50": "49ms", "p99": "2s", "average": "1ms", "slowest": "99ms", "min-rps": 51, "statuses": {"OK": 101}}
    violations = Slo.model_validate(limits).violations(found)
    assert [violation.split()[0] for violation in violations] == [
        "p50", "average", "slowest", "error", "rps", "statuses",
    ]  # fmt: skip
    held = {"p50": "50ms", "average": "1s", "slowest": "100ms", "min-rps": 50, "max-error-rate": 0.01}
    assert Slo.model_validate(held).violations(found) == []


def test_thresholds_are_not_held_by_a_load_in_which_nothing_succeeds() -> None:
    assert Slo.model_validate({"p50": "1s", "max-error-rate": 1}).violations(report_of([FAILED])) == [
        "p50 cannot be told: no call succeeded"
    ]
    assert "no call was made" in Slo().violations(report_of([]))[0]


@pytest.mark.parametrize(
    ("text", "said"), [("p98 = '1s'", "p98: unknown key"), ("p50 = '1'", "is no duration"), ("p50", "not TOML")]
)
def test_thresholds_that_cannot_be_read_are_refused(tmp_path: Any, text: str, said: str) -> None:
    (tmp_path / "a.slo.toml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_slo(tmp_path / "a.slo.toml")


def test_a_missing_file_of_thresholds_is_an_error(tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match="missing"):
        load_slo(tmp_path / "a.slo.toml")
