"""A further process's end of its link to the primary one: it does what it is asked, one thing after the other."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from pydantic import TypeAdapter

from service.adapters.message_link import Message, MessageLink
from service.domain.shared_state import SharedState, Work

_STATE = TypeAdapter(SharedState)
_WORK = TypeAdapter(dict[int, Work])


class Following(Protocol):
    """What goes by the state."""

    async def follow(self, state: SharedState) -> None:
        """Goes by a new state."""

    async def drain(self, serials: Sequence[int]) -> None:
        """Lets the calls on versions that are leaving finish."""

    def work(self) -> dict[int, Work]:
        """Returns the work of each version."""


class PrimaryLink:
    """Made by `open`."""

    def __init__(self, link: MessageLink) -> None:
        self._link = link
        self._draining: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(cls, descriptor: int) -> PrimaryLink:
        """Returns the link over an inherited socket."""
        return cls(await MessageLink.open(socket.socket(fileno=descriptor)))

    async def settings(self) -> dict[str, Any]:
        """Returns what the primary says first. Any: settings have several types. Raises EOFError if it has ended."""
        async for message in self._link.messages():
            self._answer(message)
            settings: dict[str, Any] = message["settings"]  # type: ignore[assignment]
            return settings
        raise EOFError

    def crashed(self, serial: int) -> None:
        """Tells that a version has crashed."""
        self._link.send({"crashed": serial})

    def caller_gone(self) -> None:
        """Tells that a connection which the primary has handed over has ended."""
        self._link.send({"told": "gone"})

    def caller_lost(self) -> None:
        """Tells that there was no room for a connection which the primary has handed over."""
        self._link.send({"told": "lost"})

    def stopping(self) -> None:
        """Tells that this process takes no more connections."""
        self._link.send({"told": "stopping"})

    async def obey(
        self,
        follower: Following,
        serve: Callable[[], Awaitable[None]],
        stop: Callable[[float], None],
    ) -> None:
        """Does what the primary asks, until it ends."""
        async for message in self._link.messages():
            match message["ask"]:
                case "follow":
                    await follower.follow(_STATE.validate_python(message["state"]))
                    self._answer(message)
                case "serve":
                    await serve()
                    self._answer(message)
                case "drain":
                    self._drain(follower, message)
                case "work":
                    self._answer(message, work=_WORK.dump_python(follower.work(), mode="json"))
                case "stop":
                    stop(float(str(message["grace"])))
                    self._answer(message)

    def _drain(self, follower: Following, message: Message) -> None:
        """Lets calls finish while other requests are answered."""

        async def drain() -> None:
            await follower.drain(message["serials"])  # type: ignore[arg-type]
            self._answer(message)

        task = asyncio.get_running_loop().create_task(drain())
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)

    def _answer(self, message: Message, **fields: object) -> None:
        self._link.send({"id": message["id"], **fields})
