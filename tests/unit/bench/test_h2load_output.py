"""What h2load says is read rightly, and its failures are noticed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.checks import WrongAnswer
from benchmarks.h2load import Load, LoadFailed, read, spacing
from benchmarks.throughput import check_replies
from benchmarks.work import Call, Predictions

SAID = """\
finished in {time}, 2649.00 req/s, 368.78KB/s
requests: 3 total, 3 started, 3 done, {succeeded} succeeded, {failed} failed, 0 errored, 0 timeout
status codes: 3 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 737.56KB (755258) total, 23.29KB (23850) headers (space savings 96.20%), 643.31KB ({data}) data
"""


def said(time: str = "2.50s", succeeded: int = 3, failed: int = 0, data: int = 87) -> str:
    return SAID.format(time=time, succeeded=succeeded, failed=failed, data=data)


def nothing(reply: bytes) -> Predictions:
    return np.zeros(0)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log"
    path.write_text("1795258747271599\t200\t111980\n1795258747271074\t200\t2000\n1795258747272163\t200\t4000\n")
    return path


@pytest.mark.parametrize(("time", "seconds"), [("2.50s", 2.5), ("143.95ms", 0.14395), ("496us", 0.000496)])
def test_a_load_has_its_time_its_bytes_and_the_latency_of_each_call(log: Path, time: str, seconds: float) -> None:
    load = read(said(time), log)
    assert load.seconds == pytest.approx(seconds)
    assert (load.calls, load.data) == (3, 87)
    assert load.latencies.tolist() == [0.11198, 0.002, 0.004]


def test_calls_that_were_begun_while_connecting_do_not_count_among_the_latencies(log: Path) -> None:
    load = read(said(), log, connecting_seconds=525e-6)
    assert (load.calls, load.latencies.tolist()) == (3, [0.11198, 0.004])


def test_failed_calls_are_an_error(log: Path) -> None:
    with pytest.raises(LoadFailed, match="1 calls failed"):
        read(said(succeeded=2, failed=1), log)


def test_a_load_that_did_not_run_is_an_error(log: Path) -> None:
    with pytest.raises(LoadFailed, match="value error"):
        read("-D: value error 0.5", log)


def test_a_call_of_grpc_that_failed_shows_by_the_bytes_of_the_replies() -> None:
    call = Call("grpc", "http://127.0.0.1:1/a.b/C", [b""], nothing)
    check_replies(call, Load(1.0, 3, 87, np.ones(3)), 29)
    with pytest.raises(WrongAnswer, match="3 replies have 58 bytes; each right one has 29"):
        check_replies(call, Load(1.0, 3, 58, np.ones(3)), 29)


@pytest.mark.parametrize(
    ("rate", "opened"), [(500, (1, 2)), (1400, (7, 5)), (200, (1, 5)), (2000, (2, 1)), (20, (1, 50))]
)
def test_connections_are_opened_at_the_rate_of_their_calls(rate: float, opened: tuple[int, int]) -> None:
    assert spacing(rate) == opened


@pytest.mark.parametrize("rate", [3.0, 55.5, 123.4, 842.3, 1396.0, 3486.2])
def test_connections_are_opened_few_at_once_and_nearly_at_any_rate(rate: float) -> None:
    opened, milliseconds = spacing(rate)

    assert opened / milliseconds * 1000 == pytest.approx(rate, rel=0.03)
    assert milliseconds <= max(20, 1000 / rate + 1)
