"""Connections that one process accepts and another answers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from service.adapters import handed_over
from tests.unit.http2.test_http2_listener import no_room


@dataclass
class Sides:
    """Who gives connections, and who takes them."""

    giving: socket.socket
    taking: socket.socket
    taken: asyncio.Queue[socket.socket] = field(default_factory=asyncio.Queue)
    lost: int = 0

    def take(self) -> None:
        """Takes from now on."""

        def lose() -> None:
            self.lost += 1

        handed_over.take_connections(self.taking.detach(), self.taken.put_nowait, lose)


@pytest.fixture
async def sides() -> AsyncIterator[Sides]:
    """The two sides, in one process."""
    made = Sides(*handed_over.pair())
    yield made
    made.giving.close()
    made.taking.close()
    await asyncio.sleep(0.01)  # in which who takes learns that there are no more


async def test_a_caller_talks_to_the_process_that_took_the_connection(sides: Sides) -> None:
    sides.take()
    caller, connection = socket.socketpair()
    with caller:
        with connection:
            assert handed_over.give(sides.giving, connection)
        with await asyncio.wait_for(sides.taken.get(), 5) as taken:
            assert taken.getblocking() is False
            taken.send(b"hello")
            assert caller.recv(5) == b"hello"
        assert caller.recv(5) == b"", "no other copy is open"


async def test_a_process_that_does_not_take_is_given_no_more(sides: Sides) -> None:
    caller, connection = socket.socketpair()
    with caller, connection:
        given = 0
        while handed_over.give(sides.giving, connection):
            given += 1
            assert given < 100_000
        sides.take()
        for _ in range(given):
            (await asyncio.wait_for(sides.taken.get(), 5)).close()
        assert handed_over.give(sides.giving, connection)
        (await asyncio.wait_for(sides.taken.get(), 5)).close()


async def test_a_process_that_has_ended_is_given_none(sides: Sides) -> None:
    sides.taking.close()
    caller, connection = socket.socketpair()
    with caller, connection:
        assert not handed_over.give(sides.giving, connection)


async def test_a_connection_that_cannot_be_opened_is_counted_as_lost(sides: Sides) -> None:
    sides.take()
    caller, connection = socket.socketpair()
    with caller, connection:
        with no_room():
            assert handed_over.give(sides.giving, connection)
            await asyncio.sleep(0.05)
        assert (sides.lost, sides.taken.empty()) == (1, True)
        assert handed_over.give(sides.giving, connection)
        (await asyncio.wait_for(sides.taken.get(), 5)).close()
