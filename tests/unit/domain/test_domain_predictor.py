"""Predictions through the registry: requests of any size, in parts and within bounds."""

from __future__ import annotations

import asyncio
import gc

import numpy as np
import pytest

from service.domain.batcher import Waiting
from service.domain.entities import Capacity, Floats, LoadOrder
from service.domain.errors import Reason, ServiceError
from service.domain.predictor import PARTS_AT_WORK, Prediction, Predictor, Request
from service.domain.registry import Registry
from service.rpc.status import status_of
from tests.ports.fakes import InMemoryJournal
from tests.unit.domain.fakes import FakeArtifacts, FakeInference, SetClock, turns, until

ROWS = np.ones((4, 2), np.float32)


@pytest.fixture
def inference() -> FakeInference:
    return FakeInference()


async def registry_of(inference: FakeInference) -> Registry:
    """Returns a registry with two models loaded."""
    artifacts = FakeArtifacts()
    registry = Registry(artifacts, InMemoryJournal(), inference, SetClock(), 10, 10**6)
    for name in ("iris", "rose"):
        registry.add(artifacts.put(name))
    await registry.triton_is_up()
    for name in ("iris", "rose"):
        await registry.load(name, None, LoadOrder("test"))
    return registry


async def predictor_of(inference: FakeInference, max_bytes: int = 2**20) -> Predictor:
    """Returns a predictor with two models loaded."""
    return Predictor(await registry_of(inference), max_bytes)


def ask(predictor: Predictor, model: str, rows: Floats) -> asyncio.Task[Prediction]:
    return asyncio.create_task(predictor.predict(predictor.find(model, None), rows))


async def refusal_of(call: asyncio.Task[Prediction]) -> ServiceError:
    with pytest.raises(ServiceError) as refused:
        await call
    return refused.value


async def test_a_request_of_more_rows_than_a_batch_is_answered_in_order(inference: FakeInference) -> None:
    rows = np.arange(10_000, dtype=np.float32).reshape(-1, 2)
    prediction = await ask(await predictor_of(inference), "iris", rows)
    assert prediction.scores.ravel().tolist() == rows.sum(axis=1).tolist()


async def test_a_request_of_very_many_parts_is_taken_apart_as_it_is_answered(inference: FakeInference) -> None:
    predictor = await predictor_of(inference)
    inference.infer_gate.shut()
    tasks = len(asyncio.all_tasks())
    call = ask(predictor, "iris", np.ones((10 * 1024 * PARTS_AT_WORK, 2), np.float32))
    await turns()
    assert len(asyncio.all_tasks()) - tasks < 3 * PARTS_AT_WORK
    inference.infer_gate.open()
    assert len((await call).scores) == 10 * 1024 * PARTS_AT_WORK


async def test_an_unload_waits_for_all_parts_of_a_request(inference: FakeInference) -> None:
    registry = await registry_of(inference)
    await registry.load("iris", None, LoadOrder("test", instances=PARTS_AT_WORK))  # which are then answered at once
    inference.infer_gate.shut()
    call = ask(Predictor(registry), "iris", np.ones((10 * 1024 * PARTS_AT_WORK, 2), np.float32))
    await until(lambda: inference.infer_gate.waiting == PARTS_AT_WORK)
    unload = asyncio.create_task(registry.unload("iris"))
    await turns()
    inference.infer_gate.open()
    assert len((await call).scores) == 10 * 1024 * PARTS_AT_WORK
    await unload


async def test_more_bytes_than_may_be_at_work_are_refused_whatever_their_model(inference: FakeInference) -> None:
    predictor = await predictor_of(inference, max_bytes=2 * ROWS.nbytes)
    inference.infer_gate.shut()
    first = [ask(predictor, "iris", ROWS), ask(predictor, "rose", ROWS)]
    await turns()
    refused = await refusal_of(ask(predictor, "rose", ROWS[:1]))
    assert refused.reason == Reason.PREDICTION_QUEUE_FULL
    assert refused.metadata["limit"] == str(2 * ROWS.nbytes)
    assert "PREDICTION_QUEUE_BYTES" in refused.message
    assert b"PREDICTION_QUEUE_BYTES: 64" in status_of(refused).SerializeToString()
    inference.infer_gate.open()
    await asyncio.gather(*first)
    await ask(predictor, "rose", ROWS)


async def test_the_bytes_of_callers_who_have_gone_count_no_more(inference: FakeInference) -> None:
    predictor = await predictor_of(inference, max_bytes=ROWS.nbytes)
    inference.infer_gate.shut()
    going = ask(predictor, "iris", ROWS)
    await turns()
    going.cancel()
    await asyncio.gather(going, return_exceptions=True)
    staying = ask(predictor, "iris", ROWS)
    inference.infer_gate.open()
    assert len((await staying).scores) == len(ROWS)


async def test_a_request_larger_than_the_bound_is_taken_when_nothing_else_is_at_work(inference: FakeInference) -> None:
    predictor = await predictor_of(inference, max_bytes=1)
    assert len((await ask(predictor, "iris", ROWS)).scores) == len(ROWS)


def in_memory() -> int:
    """Returns how many requests there are, those of other tests among them."""
    return sum(type(one) in (Request, Waiting) for one in gc.get_objects())  # some objects of others warn of isinstance


ENDS: dict[str, set[type]] = {
    "answered": {Prediction},
    "cancelled": {asyncio.CancelledError},
    "refused": {Prediction, ServiceError},
}


@pytest.mark.parametrize("end", ENDS)
async def test_nothing_is_left_of_a_request_that_has_ended(inference: FakeInference, end: str) -> None:
    predictor = await predictor_of(inference)
    if end == "refused":
        predictor.find("iris", None).resize(Capacity(1, 4, 4))
    gc.collect()
    before = in_memory()
    gc.disable()
    try:
        inference.infer_gate.shut()
        calls = [ask(predictor, "iris", ROWS) for _ in range(3)]
        await turns(5)
        if end == "cancelled":
            for call in calls:
                call.cancel()
        inference.infer_gate.open()
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(one) for one in ends} == ENDS[end]
        del calls, ends
        await turns(5)
        assert in_memory() == before
    finally:
        gc.enable()


async def test_the_rows_of_callers_who_have_gone_hold_no_place_in_the_queue(inference: FakeInference) -> None:
    predictor = await predictor_of(inference)
    loaded = predictor.find("iris", None)
    loaded.resize(Capacity(1, 4, 4))
    inference.infer_gate.shut()
    first = []
    for number in range(2):
        first.append(ask(predictor, "iris", ROWS))
        await until(lambda sent=number + 1: inference.infer_gate.waiting == sent)  # type: ignore[misc]
    going = ask(predictor, "iris", ROWS)
    await turns()
    assert loaded.pending_requests == 3
    going.cancel()
    await turns()
    assert loaded.pending_requests == 2
    newcomer = ask(predictor, "iris", ROWS)
    await turns()
    inference.infer_gate.open()
    ends = await asyncio.gather(*first, going, newcomer, return_exceptions=True)
    assert isinstance(ends[-2], asyncio.CancelledError)
    assert isinstance(ends[-1], Prediction)


async def test_a_caller_who_goes_when_the_answer_is_there_gives_its_room_back_once(inference: FakeInference) -> None:
    predictor = await predictor_of(inference, max_bytes=ROWS.nbytes)
    loaded = predictor.find("iris", None)
    answer: asyncio.Future[Prediction] = asyncio.get_running_loop().create_future()
    request = predictor.begin(loaded, ROWS, answer)
    await answer
    request.cancel()
    inference.infer_gate.shut()
    staying = ask(predictor, "iris", ROWS)
    await turns()
    assert (await refusal_of(ask(predictor, "rose", ROWS))).reason == Reason.PREDICTION_QUEUE_FULL
    inference.infer_gate.open()
    await staying


async def test_each_request_notes_that_the_version_is_in_use(inference: FakeInference) -> None:
    predictor = await predictor_of(inference)
    loaded = predictor.find("iris", None)
    before = loaded.last_used
    await ask(predictor, "iris", ROWS)
    assert loaded.last_used > before
