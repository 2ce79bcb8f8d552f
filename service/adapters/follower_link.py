"""One further process: how it is started, asked, and ended."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from service.adapters import handed_over
from service.adapters.message_link import Message, MessageLink

log = logging.getLogger("fitserve.followers")

NO_ROOM_SECONDS = 1.0
"""A process that has no room for a connection is given none for so long. Whom it loses would else be its next caller: it has
the fewest."""

_ROOT = str(Path(__file__).resolve().parents[2])


class FollowerDied(Exception):
    """The process has ended, or was ended because it did not answer."""


class FollowerLink:
    """A further process that runs. Made by `launch`; `wait` must be awaited.

    Attributes:
        follows: Whether it goes by the state, so that it is told of each new one.
        serves: Whether calls come to it.
        connections: How many callers' connections it has.
        takes_more: Whether it is to be given further ones.
    """

    def __init__(
        self, process: Process, link: MessageLink, callers: socket.socket, on_crash: Callable[[int], None]
    ) -> None:
        self.pid = process.pid
        self.follows = False
        self.serves = False
        self.connections = 0
        self._stops = False
        self._has_room_from = 0.0
        self._process = process
        self._link = link
        self._callers = callers
        self._on_crash = on_crash
        self._ids = itertools.count(1)
        self._asked: dict[object, asyncio.Future[Message]] = {}
        self._receiver = asyncio.get_running_loop().create_task(self._receive())

    @classmethod
    async def launch(cls, on_crash: Callable[[int], None]) -> FollowerLink:
        """Starts a process; returns before it does anything.

        Args:
            on_crash: Called with the serial number of a version that it has seen crash.

        Raises:
            OSError: It cannot be started.
        """
        ours, theirs = socket.socketpair()
        giving, taking = handed_over.pair()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "service.prediction_process",
                f"--link={theirs.fileno()}",
                f"--callers={taking.fileno()}",
                f"--parent={os.getpid()}",
                stdin=DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [_ROOT, os.environ.get("PYTHONPATH")]))},
                start_new_session=True,  # signals of a terminal go to the primary process, which says when to end
                pass_fds=[theirs.fileno(), taking.fileno()],
            )
        except BaseException:
            ours.close()
            giving.close()
            raise
        finally:
            theirs.close()
            taking.close()
        return cls(process, await MessageLink.open(ours), giving, on_crash)

    @property
    def takes_more(self) -> bool:
        """See the class."""
        return self.serves and not self._stops and asyncio.get_running_loop().time() >= self._has_room_from

    def hand_over(self, connection: socket.socket) -> bool:
        """Gives it a caller's connection. Returns False if it has not taken those before; it hangs then."""
        given = handed_over.give(self._callers, connection)
        self.connections += given
        return given

    async def ask(self, what: str, seconds: float, **fields: object) -> Message:
        """Returns the answer to a request. A process that does not answer in time is killed.

        Raises:
            FollowerDied: It has ended, or was ended.
        """
        number = next(self._ids)
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        self._link.send({"id": number, "ask": what, **fields})
        try:
            # In two halves: if all processes of the service stood still for a while, the first is over at once.
            await asyncio.wait([answer], timeout=seconds / 2)
            await asyncio.wait([answer], timeout=seconds / 2)
            if not answer.done():
                log.error("the prediction process %d does not answer to %r within %.1f s", self.pid, what, seconds)
                self.kill()
                await self._process.wait()
                answer.cancel()  # who has seen the end may have set it
                raise FollowerDied
            return await answer
        finally:
            self._asked.pop(number, None)

    def kill(self) -> None:
        """Kills the process."""
        self.follows = self.serves = False
        with suppress(ProcessLookupError):
            self._process.kill()

    async def wait(self) -> int:
        """Returns the exit code when the process has ended."""
        code = await self._process.wait()
        self.follows = self.serves = False
        await asyncio.wait([self._receiver])
        self._link.close()
        self._callers.close()
        return code

    def _note(self, told: object) -> None:
        """Notes what the process tells of the connections that it was given."""
        if told == "stopping":
            self._stops = True
            return
        self.connections -= 1
        if told == "lost" and self.takes_more:
            log.error(
                "the prediction process %d may open no more files, and has lost a connection; it is given none for %.0f s",
                self.pid,
                NO_ROOM_SECONDS,
            )
            self._has_room_from = asyncio.get_running_loop().time() + NO_ROOM_SECONDS

    async def _receive(self) -> None:
        async for message in self._link.messages():
            if (crashed := message.get("crashed")) is not None:
                self._on_crash(int(str(crashed)))
            elif told := message.get("told"):
                self._note(told)
            elif (answer := self._asked.get(message.get("id"))) is not None and not answer.done():
                answer.set_result(message)
        self.follows = self.serves = False
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(FollowerDied())
