"""How long the primary process waits for those that follow it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest

from service.adapters import follower_processes as module
from service.adapters.follower_processes import ACK_SECONDS, FollowerProcesses
from service.domain.shared_state import SharedState


class Source:
    """Has nothing loaded."""

    def shared_state(self) -> SharedState:
        return SharedState("", [])

    def has_crashed_elsewhere(self, serial: int) -> None:
        raise AssertionError(serial)


class Link:
    """A process that does at once what it is asked, until it is killed."""

    pid = 1

    def __init__(self) -> None:
        self.follows = self.serves = False
        self.connections = 0
        self.has_room = True
        self.asked: list[tuple[str, float]] = []
        self._ended = asyncio.Event()

    async def ask(self, what: str, seconds: float, **fields: object) -> dict[str, object]:
        self.asked.append((what, seconds))
        return {"work": {}}

    @property
    def takes_more(self) -> bool:
        return self.serves

    def hand_over(self, connection: socket.socket) -> bool:
        self.connections += self.has_room
        return self.has_room

    def kill(self) -> None:
        self._ended.set()

    async def wait(self) -> int:
        await self._ended.wait()
        return 0


async def test_the_first_state_has_the_time_of_a_start_and_later_ones_are_answered_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    link = Link()

    async def launch(on_crash: Callable[[int], None]) -> Link:
        return link

    monkeypatch.setattr(module.FollowerLink, "launch", launch)
    processes = FollowerProcesses(1)
    await processes.start(Source(), {})
    await processes.told()
    follows = [seconds for what, seconds in link.asked if what == "follow"]
    assert follows[0] > 10 * ACK_SECONDS
    assert follows[1:] == [ACK_SECONDS]
    link.kill()
    await processes.ended(5)


async def test_a_connection_goes_to_the_process_that_has_the_fewest(monkeypatch: pytest.MonkeyPatch) -> None:
    links = [Link(), Link()]
    waiting = iter(links)

    async def launch(on_crash: Callable[[int], None]) -> Link:
        return next(waiting)

    monkeypatch.setattr(module.FollowerLink, "launch", launch)
    processes = FollowerProcesses(2)
    caller, connection = socket.socketpair()
    with caller, connection:
        assert not processes.hand_over(connection, 5), "none serves yet"
        await processes.start(Source(), {})
        assert not processes.hand_over(connection, 0)
        here = 0
        for _ in range(9):
            here += not processes.hand_over(connection, here)
        assert [here, *(link.connections for link in links)] == [3, 3, 3]
        links[1].connections = 0
        assert processes.hand_over(connection, here)
        assert links[1].connections == 1
        links[1].has_room = False
        here = 5
        assert processes.hand_over(connection, here), "there is one more"
        assert [link.connections for link in links] == [4, 1]
        await processes.stop_accepting(1.0)
        assert not processes.hand_over(connection, here)
    for link in links:
        link.kill()
    await processes.ended(5)
