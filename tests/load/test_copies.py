"""What copies of a heavy model gain: 256 rows a call through 500 trees, by one copy and by two, on this machine's cores."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import fitserve
import numpy as np
import pytest
from sklearn.datasets import load_digits

from service import cores
from tests.conftest import StartService

CALLERS = 6
ROWS = 256
SECONDS = 10.0
LEAST_GAIN = 1.3
"""The least gain of a second copy on two cores, of which the service and the callers take a part."""


def rows_a_second(client: fitserve.Client, rows: np.ndarray) -> float:
    """Returns how many rows are answered in a second when `CALLERS` send batches one after the other."""
    stop = threading.Event()

    def call() -> int:
        answered = 0
        while not stop.is_set():
            answered += len(client.predict("forest", rows))
        return answered

    with ThreadPoolExecutor(CALLERS) as pool:
        start = time.monotonic()
        calls = [pool.submit(call) for _ in range(CALLERS)]
        stop.wait(SECONDS)
        stop.set()
        answered = sum(each.result() for each in calls)
        return answered / (time.monotonic() - start)


@pytest.mark.long
@pytest.mark.skipif(cores.available() < 2, reason="two copies work in parallel on two cores")
def test_two_copies_answer_more_than_one_on_two_cores(
    start_service: StartService, capsys: pytest.CaptureFixture[str]
) -> None:
    digits = load_digits()
    rows = np.resize(digits.data, (ROWS, 64)).astype(np.float32)
    with fitserve.Client(start_service().address) as client:
        client.fit("forest", digits.data, digits.target, algorithm="random_forest", n_estimators=500, load=True).wait(
            120
        )
        client.predict("forest", rows)
        one = rows_a_second(client, rows)
        client.load("forest", instances=2)
        client.predict("forest", rows)
        two = rows_a_second(client, rows)
    with capsys.disabled():
        print(f"\nrows a second: {one:.0f} by one copy, {two:.0f} by two, {two / one:.2f} times as many")
    assert two > LEAST_GAIN * one
