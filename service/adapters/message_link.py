"""Messages between two processes of the service: JSON objects, one a line, over a socket that both have inherited."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress

Message = Mapping[str, object]

_LONGEST_MESSAGE = 2**28


class MessageLink:
    """One end of a pair of sockets. Made by `open`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, end: socket.socket) -> MessageLink:
        """Returns the link over a socket, which it closes."""
        return cls(*await asyncio.open_unix_connection(sock=end, limit=_LONGEST_MESSAGE))

    def send(self, message: Message) -> None:
        """Sends a message; does nothing if the other process has ended."""
        if not self._writer.is_closing():
            self._writer.write(json.dumps(message).encode() + b"\n")

    async def messages(self) -> AsyncIterator[Message]:
        """Yields the messages that come, until the other process ends."""
        with suppress(ConnectionError):
            while line := await self._reader.readline():
                yield json.loads(line)

    def close(self) -> None:
        """Closes this end."""
        self._writer.close()
