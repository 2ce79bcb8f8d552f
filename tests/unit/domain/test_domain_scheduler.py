"""The core budget: who gets cores, who waits, who is refused."""

from __future__ import annotations

import pytest

from service.domain.errors import Reason, ServiceError
from service.domain.scheduler import Scheduler
from tests.unit.domain.fakes import turns


async def test_cores_are_granted_at_once_while_there_are_some() -> None:
    scheduler = Scheduler(3, 10)
    assert scheduler.request(2, queue=False).done()
    assert scheduler.free_cores == 1
    scheduler.release(2)
    assert scheduler.free_cores == 3


async def test_without_queue_a_request_is_refused_when_no_core_is_free() -> None:
    scheduler = Scheduler(1, 10)
    scheduler.request(1, queue=False)
    with pytest.raises(ServiceError) as refused:
        scheduler.request(1, queue=False)
    assert refused.value.reason == Reason.NO_FREE_CORES
    assert refused.value.metadata == {"total": "1", "free": "0"}


async def test_more_cores_than_there_are_at_all_is_a_bad_field() -> None:
    with pytest.raises(ServiceError) as refused:
        Scheduler(2, 10).request(3, queue=True)
    assert refused.value.metadata["field"] == "cores"


async def test_without_cores_nothing_is_trained() -> None:
    with pytest.raises(ServiceError) as refused:
        Scheduler(0, 10).request(1, queue=True)
    assert refused.value.reason == Reason.UNIMPLEMENTED
    assert refused.value.metadata == {"setting": "TRAINING_CORES"}


async def test_who_waits_is_served_in_order_and_never_overtaken() -> None:
    scheduler = Scheduler(2, 10)
    scheduler.request(1, queue=False)
    large, small = scheduler.request(2, queue=True), scheduler.request(1, queue=True)
    assert (large.done(), small.done(), scheduler.free_cores) == (False, False, 1)
    with pytest.raises(ServiceError) as refused:
        scheduler.request(1, queue=False)
    assert refused.value.reason == Reason.NO_FREE_CORES
    scheduler.release(1)
    assert (large.done(), small.done()) == (True, False)
    scheduler.release(2)
    assert small.done()
    assert scheduler.free_cores == 1


async def test_the_queue_has_an_end() -> None:
    scheduler = Scheduler(1, 1)
    scheduler.request(1, queue=True)
    scheduler.request(1, queue=True)
    with pytest.raises(ServiceError) as refused:
        scheduler.request(1, queue=True)
    assert refused.value.reason == Reason.TRAINING_QUEUE_FULL
    assert refused.value.metadata == {"limit": "1"}


async def test_one_who_leaves_the_queue_makes_room_for_those_behind() -> None:
    scheduler = Scheduler(2, 10)
    scheduler.request(1, queue=False)
    large, small = scheduler.request(2, queue=True), scheduler.request(1, queue=True)
    large.cancel()
    await turns()
    assert small.done()
    assert (scheduler.queued, scheduler.free_cores) == (0, 0)


async def test_cores_released_in_the_turn_of_a_cancel_go_to_the_next_one() -> None:
    scheduler = Scheduler(1, 10)
    scheduler.request(1, queue=False)
    first, second = scheduler.request(1, queue=True), scheduler.request(1, queue=True)
    first.cancel()
    scheduler.release(1)
    await turns()
    assert second.done()
    assert scheduler.free_cores == 0
    scheduler.release(1)
    assert scheduler.free_cores == 1
