"""Turns: taken at once, handed on in order, lost by nobody who goes."""

from __future__ import annotations

import asyncio

import pytest

from service.domain.turns import Turn
from tests.unit.domain.fakes import turns


async def waiting(turn: Turn, *operations: str) -> list[asyncio.Task[None]]:
    """Has some operations wait in order."""
    tasks = [asyncio.create_task(turn.wait(operation)) for operation in operations]
    await turns()
    return tasks


async def test_a_free_turn_is_had_at_once() -> None:
    turn = Turn()
    await turn.wait("load")
    assert (turn.taken, turn.operation) == (True, "load")
    turn.give_back()
    assert not turn.taken


async def test_the_turn_goes_to_who_has_waited_longest_without_being_free_between() -> None:
    turn = Turn()
    turn.take("first")
    tasks = await waiting(turn, "second", "third")
    for task, operation in zip(tasks, ("second", "third"), strict=True):
        turn.give_back()
        assert turn.operation == operation
        await task
    turn.give_back()
    assert not turn.taken


async def test_who_goes_before_its_turn_is_left_out() -> None:
    turn = Turn()
    turn.take("first")
    gone, stays = await waiting(turn, "gone", "stays")
    gone.cancel()
    await asyncio.wait([gone])
    turn.give_back()
    assert turn.operation == "stays"
    await stays


async def test_who_goes_in_the_moment_of_its_turn_passes_it_on() -> None:
    turn = Turn()
    turn.take("first")
    gone, stays = await waiting(turn, "gone", "stays")
    turn.give_back()
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert turn.operation == "stays"
    await stays
