"""What a loaded version counts of its work."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from service.domain.entities import LoadOrder
from service.domain.errors import Reason, ServiceError
from service.domain.loaded import BATCH_ROWS
from service.domain.predictor import Predictor
from service.domain.registry import Registry
from service.domain.usage import Usage
from tests.ports.fakes import InMemoryJournal
from tests.unit.domain.fakes import FakeArtifacts, FakeInference, SetClock, until

ROW = np.ones((1, 2), np.float32)


class Served:
    """A loaded model on a fake Triton."""

    def __init__(self) -> None:
        self.inference = FakeInference()
        self.artifacts = FakeArtifacts()
        self.registry = Registry(self.artifacts, InMemoryJournal(), self.inference, SetClock(), 1, 100_000)
        self.predictor = Predictor(self.registry)

    async def load(self) -> Usage:
        self.registry.add(self.artifacts.put("iris"))
        await self.registry.triton_is_up()
        await self.registry.load("iris", None, LoadOrder("test"))
        return self.registry.serving("iris", None).batcher.usage

    def predict(self, rows: np.ndarray = ROW) -> asyncio.Task:
        return asyncio.create_task(self.predictor.predict(self.predictor.find("iris", None), rows))


@pytest.fixture
async def served() -> Served:
    return Served()


async def test_requests_that_share_a_batch_are_one_execution(served: Served) -> None:
    usage = await served.load()
    await asyncio.gather(*(served.predict() for _ in range(5)))
    assert (usage.success.count, usage.rows, usage.executions) == (5, 5, 1)
    assert (usage.queue.count, usage.compute.count) == (5, 5)
    assert usage.batches.keys() == {5}
    assert usage.compute.ns == 5 * usage.batches[5].ns


async def test_a_request_larger_than_a_batch_is_one_success_of_several_executions(served: Served) -> None:
    usage = await served.load()
    await served.predict(np.ones((2 * BATCH_ROWS + 1, 2), np.float32))
    assert (usage.success.count, usage.rows) == (1, 2 * BATCH_ROWS + 1)
    assert usage.executions == 3


async def test_the_wait_for_a_batch_and_its_time_in_triton_are_told_apart(served: Served) -> None:
    usage = await served.load()
    served.inference.infer_gate.shut()
    first = served.predict()
    await until(lambda: served.inference.infer_gate.waiting == 1)
    await asyncio.sleep(0.05)
    served.inference.infer_gate.open()
    await first
    assert usage.compute.ns >= 50e6
    assert usage.queue.ns < 50e6
    assert usage.success.ns >= usage.compute.ns + usage.queue.ns


async def test_failures_are_counted_and_refused_or_abandoned_requests_are_not(served: Served) -> None:
    usage = await served.load()
    served.inference.infer_errors["iris"] = ServiceError(Reason.INTERNAL, "no")
    with pytest.raises(ServiceError):
        await served.predict()
    with pytest.raises(ServiceError, match="shape"):
        await served.predict(np.ones((1, 3), np.float32))
    abandoned = served.predict()
    await asyncio.sleep(0)
    abandoned.cancel()
    await asyncio.gather(abandoned, return_exceptions=True)
    assert (usage.success.count, usage.failure.count, usage.executions) == (0, 1, 0)


async def test_a_model_loaded_anew_counts_from_the_start(served: Served) -> None:
    usage = await served.load()
    await served.predict()
    await served.registry.unload("iris")
    assert (await served.load()).success.count == 0
    assert usage.success.count == 1
