"""The further processes that answer predictions: started, told what is loaded, started again when they die, and stopped."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from pydantic import TypeAdapter

from service.adapters.follower_link import FollowerDied, FollowerLink
from service.domain.shared_state import SharedState, Work
from service.domain.usage import Usage

log = logging.getLogger("fitserve.followers")

START_SECONDS = 60.0
"""How long a process may take to import what it needs and to serve."""

ACK_SECONDS = 3.0
"""How long a process may take to go by a new state. One that does not is killed: it would answer by an old one."""

DRAIN_SECONDS = 40.0
"""How long a process may take to finish the calls on a version; it gives up by itself before that."""

PROBE_SECONDS = 5.0
"""The time between two looks at a process. One that hangs would keep its callers waiting for ever."""

PROBE_ANSWER_SECONDS = 20.0
"""How long a process may take to answer to a look."""

FIRST_DELAY = 0.1
"""Seconds before a process that died is started again; each further delay is twice the one before."""

LONGEST_DELAY = 10.0
"""The longest delay between two starts, in seconds."""

STABLE_SECONDS = 60.0
"""A process that dies after so long counts as one that dies for the first time."""

_STATE = TypeAdapter(SharedState)
_WORK = TypeAdapter(dict[int, Work])


class Source(Protocol):
    """Who knows what is loaded."""

    def shared_state(self) -> SharedState:
        """Returns what the processes need to know."""

    def has_crashed_elsewhere(self, serial: int) -> None:
        """Notes that a process has seen a loaded version crash."""


class FollowerProcesses:
    """Implements the port Followers. Before `start`, and with a count of 0, there are none.

    Args:
        count: How many further processes there are to be.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._source: Source | None = None
        self._settings: Mapping[str, object] = {}
        self._links: set[FollowerLink] = set()
        self._keepers: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()
        self._work_of: dict[FollowerLink, dict[int, Work]] = {}
        self._work_of_dead: dict[int, Usage] = {}
        self._told: set[asyncio.Task[None]] = set()

    # -- start and stop ------------------------------------------------------------------------------------------

    async def start(self, source: Source, settings: Mapping[str, object]) -> None:
        """Starts the processes; returns when all of them serve, or one has not managed to in its first try.

        Args:
            source: Knows what is loaded.
            settings: What each needs to know from its start.
        """
        self._source, self._settings = source, settings
        loop = asyncio.get_running_loop()
        first_tries = [loop.create_future() for _ in range(self._count)]
        self._keepers = [loop.create_task(self._keep(first)) for first in first_tries]
        if first_tries:
            await asyncio.wait(first_tries)

    async def _keep(self, first_try: asyncio.Future[None]) -> None:
        """Keeps one process running until the stop."""
        delay, loop = FIRST_DELAY, asyncio.get_running_loop()
        while not self._stopping.is_set():
            began = loop.time()
            try:
                await self._run(first_try)
            except OSError as error:
                log.error("a prediction process cannot be started: %s", error)
            if not first_try.done():
                first_try.set_result(None)
            if loop.time() - began > STABLE_SECONDS:
                delay = FIRST_DELAY
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)
            delay = min(2 * delay, LONGEST_DELAY)

    async def _run(self, first_try: asyncio.Future[None]) -> None:
        """Runs one process to its end."""
        assert self._source is not None
        link = await FollowerLink.launch(self._source.has_crashed_elsewhere)
        self._links.add(link)
        joining = asyncio.get_running_loop().create_task(self._join_and_watch(link, first_try))
        try:
            code = await link.wait()
            if not self._stopping.is_set():
                log.error("the prediction process %d ended with code %d; it is started again", link.pid, code)
        except asyncio.CancelledError:
            link.kill()
            await link.wait()
            raise
        finally:
            joining.cancel()
            self._links.discard(link)
            for serial, work in self._work_of.pop(link, {}).items():
                known = self._work_of_dead.get(serial, Usage())
                self._work_of_dead[serial] = Usage.sum([known, work.usage])

    async def _join_and_watch(self, link: FollowerLink, first_try: asyncio.Future[None]) -> None:
        """Brings a new process into service, and looks after it."""
        with suppress(FollowerDied):  # whoever waits for its end tells of it
            await link.ask("settings", START_SECONDS, settings=self._settings)
            link.follows = True
            await self._tell(link)
            await link.ask("serve", START_SECONDS)
            link.serves = True
            log.info("process %d answers predictions too", link.pid)
            if not first_try.done():
                first_try.set_result(None)
            while True:
                await asyncio.sleep(PROBE_SECONDS)
                await self._count_work(link)

    def hand_over(self, connection: socket.socket, here: int) -> bool:
        """Gives a caller's connection to the process that has the fewest, if that has fewer than this one.

        Args:
            connection: The connection; when it was given, this process's copy is to be closed.
            here: How many this process has.

        Returns:
            Whether it was given.
        """
        if self._stopping.is_set():
            return False
        fewer = [link for link in self._links if link.connections < here and link.takes_more]
        return any(link.hand_over(connection) for link in sorted(fewer, key=lambda link: link.connections))

    async def stop_accepting(self, grace: float) -> None:
        """Lets no further calls come to the processes; those in flight may take so many seconds."""
        self._stopping.set()
        for link in self._links:
            if not link.serves:
                link.kill()
        await self._ask_all("stop", ACK_SECONDS, grace=grace)

    async def ended(self, seconds: float) -> None:
        """Returns when all processes have ended; kills those that have not after so many seconds."""
        self._stopping.set()
        if not self._keepers:
            return
        _, late = await asyncio.wait(self._keepers, timeout=seconds)
        for keeper in late:
            keeper.cancel()
        if late:
            await asyncio.wait(late)

    # -- the port Followers --------------------------------------------------------------------------------------

    def tell(self) -> None:
        """Tells each process what is loaded now; returns at once."""
        if self._links:
            task = asyncio.get_running_loop().create_task(self.told())
            self._told.add(task)
            task.add_done_callback(self._told.discard)

    async def told(self) -> None:
        """Tells each process what is loaded now; returns when all go by it."""
        await self._with_all(self._tell)

    async def drained(self, serials: Sequence[int]) -> None:
        """Returns when no process works with these versions any more."""
        if serials:
            await self._ask_all("drain", DRAIN_SECONDS, serials=serials)
            for serial in serials:
                self._work_of_dead.pop(serial, None)

    async def work(self) -> Mapping[int, Sequence[Work]]:
        """Returns the work of each process with each loaded version."""
        await self._with_all(self._count_work)
        found: dict[int, list[Work]] = {serial: [Work(usage=usage)] for serial, usage in self._work_of_dead.items()}
        for works in self._work_of.values():
            for serial, work in works.items():
                found.setdefault(serial, []).append(work)
        return found

    async def _tell(self, link: FollowerLink) -> None:
        """Tells one process; what it is told is what is loaded when the message is written, so none is out of order."""
        assert self._source is not None
        state = _STATE.dump_python(self._source.shared_state(), mode="json")
        # The first state has all that is loaded, and no caller waits for a process that does not serve yet.
        await link.ask("follow", ACK_SECONDS if link.serves else START_SECONDS, state=state)

    async def _count_work(self, link: FollowerLink) -> None:
        answer = await link.ask("work", PROBE_ANSWER_SECONDS)
        if link in self._links:
            self._work_of[link] = _WORK.validate_python(answer["work"])

    async def _ask_all(self, what: str, seconds: float, **fields: object) -> None:
        await self._with_all(lambda link: link.ask(what, seconds, **fields))

    async def _with_all(self, do: Callable[[FollowerLink], Coroutine[Any, Any, object]]) -> None:
        """Does the same with each process that follows, at the same time. Any: what coroutines could be sent."""

        async def do_while_alive(link: FollowerLink) -> None:
            with suppress(FollowerDied):  # one that has died goes by no old state
                await do(link)

        followers = [link for link in self._links if link.follows]
        if followers:
            await asyncio.gather(*map(do_while_alive, followers))
