"""The batcher: who shares a batch with whom, and what each caller gets when something goes wrong."""

from __future__ import annotations

import asyncio
import gc
import random
import sys

import numpy as np
import pytest

from service.alertness import Alertness
from service.domain.batcher import (
    LONE_TRIES,
    MAX_IN_FLIGHT,
    PIPELINE_REQUESTS,
    FeatureBatcher,
    watched,
)
from service.domain.entities import Floats
from service.domain.errors import Reason, ServiceError
from service.domain.ports import ModelCrashed
from tests.unit.domain.fakes import Gate, rows_of, turns, until

BAD = -1.0


class Server:
    """Adds up each row; refuses batches with a bad row; holds batches while its gate is shut."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.batches: list[list[float]] = []
        self.error: Exception | None = None

    async def infer(self, batch: bytes, rows: int) -> Floats:
        features = np.frombuffer(batch, np.float32).reshape(rows, 2)
        self.batches.append(features[:, 0].tolist())
        await self.gate.passed()
        if self.error is not None:
            raise self.error
        if BAD in features:
            raise ServiceError(Reason.INTERNAL, "a bad row")
        scores: Floats = features.sum(axis=1, keepdims=True)
        return scores


@pytest.fixture
def server() -> Server:
    return Server()


def batcher_of(server: Server, max_batch_rows: int = 8, max_queued_rows: int = 1000) -> FeatureBatcher:
    return FeatureBatcher("iris", server.infer, max_batch_rows, max_queued_rows)


def ask(batcher: FeatureBatcher, *values: float) -> asyncio.Task[Floats]:
    return asyncio.create_task(batcher.predict(rows_of(*values), len(values)))


async def fill_pipeline(batcher: FeatureBatcher, server: Server) -> list[asyncio.Task[Floats]]:
    """Has as many batches in flight as may be."""
    server.gate.shut()
    tasks = []
    for number in range(MAX_IN_FLIGHT):
        tasks.append(ask(batcher, 100 + number))
        await until(lambda wanted=number + 1: server.gate.waiting == wanted)  # type: ignore[misc]
    return tasks


async def test_a_lone_request_goes_at_once(server: Server) -> None:
    scores = await batcher_of(server).predict(rows_of(3), 1)
    assert scores.tolist() == [[6]]
    assert server.batches == [[3]]


async def test_the_event_loop_is_kept_awake_for_lone_requests_only(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    awake: list[bool] = []

    class Noted(Alertness):
        def __enter__(self) -> None:
            awake.append(True)

        def __exit__(self, *_: object) -> None:
            awake.append(False)

    monkeypatch.setattr("service.domain.batcher.Alertness", Noted)
    batcher = batcher_of(server)
    await batcher.predict(rows_of(3), 1)
    assert awake == [True, False]
    server.error = ServiceError(Reason.INTERNAL, "no")
    with pytest.raises(ServiceError):
        await batcher.predict(rows_of(3), 1)
    assert awake == [True, False] * 2
    server.error = None
    await asyncio.gather(ask(batcher, 1), ask(batcher, 2))
    assert awake == [True, False] * 2


async def test_a_request_waits_for_no_other_as_long_as_there_is_room_in_flight(server: Server) -> None:
    batcher = batcher_of(server)
    server.gate.shut()
    first = ask(batcher, 1)
    await turns(3)
    second = ask(batcher, 2)
    await turns(3)
    assert server.batches == [[1], [2]]
    server.gate.open()
    await asyncio.gather(first, second)


async def test_requests_of_one_turn_share_a_batch_and_each_gets_its_own_scores(server: Server) -> None:
    batcher = batcher_of(server)
    answers = await asyncio.gather(ask(batcher, 1), ask(batcher, 2, 3), ask(batcher, 4))
    assert server.batches == [[1, 2, 3, 4]]
    assert [scores.ravel().tolist() for scores in answers] == [[2], [4, 6], [8]]


async def test_a_batch_has_no_more_rows_than_the_model_takes(server: Server) -> None:
    batcher = batcher_of(server, max_batch_rows=4)
    await asyncio.gather(*(ask(batcher, n, n, n) for n in range(4)))
    assert [len(batch) for batch in server.batches] == [3, 3, 3, 3]


async def test_while_batches_are_in_flight_the_next_one_fills(server: Server) -> None:
    batcher = batcher_of(server)
    first = await fill_pipeline(batcher, server)
    later = [ask(batcher, n) for n in range(5)]
    await turns()
    assert len(server.batches) == MAX_IN_FLIGHT
    server.gate.open()
    await asyncio.gather(*first, *later)
    assert server.batches[MAX_IN_FLIGHT:] == [[0, 1, 2, 3, 4]]


async def test_with_many_requests_in_flight_only_one_batch_is(server: Server) -> None:
    batcher = batcher_of(server, max_batch_rows=PIPELINE_REQUESTS)
    server.gate.shut()
    many = [ask(batcher, n) for n in range(PIPELINE_REQUESTS)]
    await turns()
    more = ask(batcher, 7)
    await turns()
    assert len(server.batches) == 1
    server.gate.open()
    await asyncio.gather(*many, more)


async def test_a_free_place_in_the_pipeline_is_taken_while_the_other_batch_is_still_in_flight() -> None:
    """Only the batch that ends makes room: nothing else wakes the queue."""
    ends: list[asyncio.Future[None]] = []

    async def infer(batch: bytes, rows: int) -> Floats:
        ends.append(asyncio.get_running_loop().create_future())
        await ends[-1]
        return np.frombuffer(batch, np.float32).reshape(rows, 2)

    batcher = FeatureBatcher("iris", infer, 8, 1000)
    tasks = []
    for number in range(3):
        tasks.append(ask(batcher, number))
        await turns()
    assert len(ends) == 2
    ends[0].set_result(None)
    await until(lambda: len(ends) == 3)
    for end in ends[1:]:
        end.set_result(None)
    await asyncio.gather(*tasks)


async def test_rows_that_wait_are_sent_when_all_batches_end_in_the_same_turn(server: Server) -> None:
    batcher = batcher_of(server)
    first = await fill_pipeline(batcher, server)
    last = ask(batcher, 5)
    await turns()
    server.gate.open()
    async with asyncio.timeout(1):
        assert (await last).tolist() == [[10]]
    await asyncio.gather(*first)


async def test_callers_who_have_gone_are_dropped_before_the_batch(server: Server) -> None:
    batcher = batcher_of(server)
    first = await fill_pipeline(batcher, server)
    staying, going = ask(batcher, 1), ask(batcher, 2)
    await turns()
    going.cancel()
    server.gate.open()
    await asyncio.gather(staying, *first)
    assert server.batches[-1] == [1]
    assert going.cancelled()


async def test_callers_who_have_gone_hold_no_place_in_the_queue(server: Server) -> None:
    batcher = batcher_of(server, max_queued_rows=3)
    first = await fill_pipeline(batcher, server)
    staying, going = ask(batcher, 1), ask(batcher, 2, 3)
    await turns()
    going.cancel()
    await turns()
    assert batcher.pending_requests == MAX_IN_FLIGHT + 1
    newcomer = ask(batcher, 4, 5)
    await turns()
    server.gate.open()
    assert (await newcomer).ravel().tolist() == [8, 10]
    await asyncio.gather(staying, *first)


async def test_the_data_of_callers_who_have_gone_is_let_go_at_once(server: Server) -> None:
    batcher = batcher_of(server)
    first = await fill_pipeline(batcher, server)
    data = rows_of(1)
    references = sys.getrefcount(data)
    going = asyncio.create_task(batcher.predict(data, 1))
    await turns()
    assert sys.getrefcount(data) > references
    gc.disable()  # which would hide references in cycles
    try:
        going.cancel()
        await asyncio.gather(going, return_exceptions=True)
        del going
        await turns()
        assert sys.getrefcount(data) == references
    finally:
        gc.enable()
    server.gate.open()
    await asyncio.gather(*first)


async def test_a_batch_in_flight_is_left_to_finish_when_its_caller_goes(server: Server) -> None:
    batcher = batcher_of(server)
    server.gate.shut()
    staying, going = ask(batcher, 1), ask(batcher, 2)
    await until(lambda: server.gate.waiting == 1)
    going.cancel()
    await turns()
    server.gate.open()
    assert (await staying).tolist() == [[2]]


async def test_a_bad_request_fails_alone(server: Server) -> None:
    batcher = batcher_of(server)
    answers = await asyncio.gather(ask(batcher, 1), ask(batcher, BAD), ask(batcher, 3), return_exceptions=True)
    assert [answer.tolist() for answer in (answers[0], answers[2]) if isinstance(answer, np.ndarray)] == [[[2]], [[6]]]
    assert isinstance(answers[1], ServiceError)
    assert answers[1].reason == Reason.INTERNAL
    assert server.batches == [[1, BAD, 3], [1], [BAD], [3]]


async def test_a_model_that_always_fails_costs_a_few_lone_tries_and_none_soon_after(server: Server) -> None:
    batcher = batcher_of(server, max_batch_rows=100)
    bad = [BAD] * 50
    answers = await asyncio.gather(*(ask(batcher, value) for value in bad), return_exceptions=True)
    assert {answer.reason for answer in answers if isinstance(answer, ServiceError)} == {Reason.INTERNAL}
    assert len(answers) == 50
    assert [len(batch) for batch in server.batches] == [50, *[1] * LONE_TRIES]
    await asyncio.gather(ask(batcher, BAD), ask(batcher, BAD), return_exceptions=True)
    assert [len(batch) for batch in server.batches[1 + LONE_TRIES :]] == [2]


async def test_many_bad_requests_keep_the_good_ones_among_them_from_nothing(server: Server) -> None:
    batcher = batcher_of(server, max_batch_rows=100)
    values = [1.0, *[BAD] * 49, 2.0]
    answers = await asyncio.gather(*(ask(batcher, value) for value in values), return_exceptions=True)
    assert [answer.item() for answer in answers if isinstance(answer, np.ndarray)] == [2, 4]


async def test_a_batch_without_an_answer_is_a_crash_of_its_model(server: Server) -> None:
    server.gate.shut()
    batcher = FeatureBatcher("iris", watched(server.infer, "iris", 0.05), 8, 1000)
    answers = await asyncio.gather(ask(batcher, 1), ask(batcher, 2), return_exceptions=True)
    assert [type(answer) for answer in answers] == [ModelCrashed, ModelCrashed]
    assert server.gate.waiting == 0
    server.gate.open()
    assert (await batcher.predict(rows_of(1), 1)).tolist() == [[2]]


@pytest.mark.parametrize("error", [ServiceError(Reason.TRITON_UNAVAILABLE, "broken"), ModelCrashed("iris")])
async def test_a_server_that_is_away_fails_the_whole_batch_without_a_second_try(
    server: Server, error: ServiceError
) -> None:
    batcher = batcher_of(server)
    server.error = error
    answers = await asyncio.gather(ask(batcher, 1), ask(batcher, 2), return_exceptions=True)
    assert list(answers) == [error, error]
    assert len(server.batches) == 1


async def test_an_unexpected_error_reaches_every_caller_and_the_next_batch_goes(server: Server) -> None:
    batcher = batcher_of(server)
    server.error = ValueError("a bug")
    answers = await asyncio.gather(ask(batcher, 1), ask(batcher, 2), return_exceptions=True)
    assert list(answers) == [server.error, server.error]
    server.error = None
    assert (await batcher.predict(rows_of(1), 1)).tolist() == [[2]]


async def test_a_batch_that_there_is_no_memory_for_fails_its_callers_and_the_next_goes(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    batcher = batcher_of(server)

    def no_memory(parts: object) -> bytes:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(batcher, "_join", no_memory)
        answers = await asyncio.wait_for(asyncio.gather(ask(batcher, 1), ask(batcher, 2), return_exceptions=True), 5)

    assert [type(answer) for answer in answers] == [MemoryError, MemoryError]
    assert (await batcher.predict(rows_of(3), 1)).tolist() == [[6]]


async def test_more_rows_than_may_wait_are_refused_at_once(server: Server) -> None:
    batcher = batcher_of(server, max_queued_rows=3)
    first = await fill_pipeline(batcher, server)
    waiting = ask(batcher, 1, 2)
    await turns()
    with pytest.raises(ServiceError) as refused:
        await batcher.predict(rows_of(3, 4), 2)
    assert refused.value.reason == Reason.PREDICTION_QUEUE_FULL
    assert refused.value.metadata == {"model": "iris", "limit": "3"}
    server.gate.open()
    await asyncio.gather(waiting, *first)
    await batcher.predict(rows_of(3, 4), 2)


async def test_a_request_larger_than_the_queue_is_taken_when_nobody_waits(server: Server) -> None:
    assert len(await batcher_of(server, max_queued_rows=1).predict(rows_of(1, 2, 3), 3)) == 3


async def test_drained_waits_for_what_waits_and_what_is_in_flight(server: Server) -> None:
    batcher = batcher_of(server)
    await batcher.drained()
    first = await fill_pipeline(batcher, server)
    last = ask(batcher, 1)
    await turns()
    draining = asyncio.create_task(batcher.drained())
    await turns()
    assert not draining.done()
    assert batcher.pending_requests == MAX_IN_FLIGHT + 1
    server.gate.open()
    await draining
    assert last.done()
    assert batcher.pending_requests == 0
    await asyncio.gather(*first)


async def test_drained_does_not_wait_for_callers_who_have_gone(server: Server) -> None:
    batcher = batcher_of(server)
    going = ask(batcher, 1)
    await asyncio.sleep(0)
    going.cancel()
    async with asyncio.timeout(1):
        await batcher.drained()
    assert server.batches == []


@pytest.mark.parametrize("seed", range(40))
async def test_whatever_the_order_every_caller_gets_its_own_answer_and_nothing_is_left(seed: int) -> None:
    chance = random.Random(seed)
    limit = chance.choice([1, 3, 8])

    async def infer(batch: bytes, rows: int) -> Floats:
        assert 1 <= rows <= limit
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        if chance.random() < 0.1:
            raise ServiceError(Reason.TRITON_UNAVAILABLE, "broken")
        features = np.frombuffer(batch, np.float32).reshape(rows, 2)
        if BAD in features:
            raise ServiceError(Reason.INTERNAL, "a bad row")
        scores: Floats = features.sum(axis=1, keepdims=True)
        return scores

    batcher = FeatureBatcher("iris", infer, limit, 1000)
    before = asyncio.all_tasks()
    asked: list[tuple[list[float], asyncio.Task[Floats]]] = []
    for number in range(60):
        values = [BAD if chance.random() < 0.05 else float(number) for _ in range(chance.randint(1, limit))]
        asked.append((values, ask(batcher, *values)))
        if chance.random() < 0.2:
            chance.choice(asked)[1].cancel()
        if chance.random() < 0.5:
            await asyncio.sleep(0)
    async with asyncio.timeout(5):
        answers = await asyncio.gather(*(task for _, task in asked), return_exceptions=True)
        await batcher.drained()
    for (values, task), answer in zip(asked, answers, strict=True):
        if isinstance(answer, ServiceError):
            assert answer.reason == Reason.TRITON_UNAVAILABLE or BAD in values
        elif isinstance(answer, np.ndarray):
            assert answer.ravel().tolist() == [2 * value for value in values]
        else:
            assert task.cancelled()
    await turns()
    assert asyncio.all_tasks() == before
    assert batcher.pending_requests == 0


# -- several copies of the model -------------------------------------------------------------------------------------


async def test_each_copy_has_a_batch_however_many_requests_are_in_flight(server: Server) -> None:
    batcher = batcher_of(server, max_batch_rows=PIPELINE_REQUESTS)
    batcher.resize(3, PIPELINE_REQUESTS, 1000)
    server.gate.shut()
    tasks = []
    for number in range(5):
        tasks += [ask(batcher, number) for _ in range(PIPELINE_REQUESTS)]
        await turns()
    assert len(server.batches) == 3
    server.gate.open()
    await asyncio.gather(*tasks)


async def test_with_few_requests_in_flight_one_more_batch_than_copies_is(server: Server) -> None:
    batcher = batcher_of(server)
    batcher.resize(3, 8, 1000)
    server.gate.shut()
    tasks = []
    for number in range(6):
        tasks.append(ask(batcher, number))
        await turns()
    assert len(server.batches) == 4
    server.gate.open()
    await asyncio.gather(*tasks)


async def test_idle_copies_share_what_waits(server: Server) -> None:
    batcher = batcher_of(server)
    batcher.resize(3, 8, 1000)
    server.gate.shut()
    asked = [*(ask(batcher, n, n) for n in range(3)), ask(batcher, 7)]
    await turns()
    assert [len(batch) for batch in server.batches] == [2, 2, 3]
    server.gate.open()
    answers = await asyncio.gather(*asked)
    assert [scores.ravel().tolist() for scores in answers] == [[0, 0], [2, 2], [4, 4], [14]]


async def test_a_request_that_is_larger_than_a_limit_that_came_later_is_answered(server: Server) -> None:
    batcher = batcher_of(server)
    first = await fill_pipeline(batcher, server)
    large, small = ask(batcher, 1, 2, 3, 4), ask(batcher, 5)
    await turns()
    batcher.resize(1, 2, 1000)
    server.gate.open()
    await asyncio.gather(*first, large, small)
    assert server.batches[MAX_IN_FLIGHT:] == [[1, 2, 3, 4], [5]]
