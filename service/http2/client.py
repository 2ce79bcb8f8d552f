"""Streams of gRPC messages to another server, on libnghttp2."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from typing import Any

from service.http2 import wire
from service.http2.connection import CALLBACKS, OPTIONS, PROVIDER, Connection, Settings
from service.http2.nghttp2 import CANCEL, ENABLE_PUSH, HeaderBlock, ffi, lib
from service.http2.stream import Stream

CONNECT_SECONDS = 20.0
"""How long it may take to reach a server; by itself the system would try for minutes."""


class Channel:
    """Leads to a server: connects when a stream wants to, and again when the connection was lost.

    Args:
        address: host:port of the server.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._connection: ClientConnection | None = None
        self._connections: weakref.WeakSet[ClientConnection] = weakref.WeakSet()
        self._connecting = asyncio.Lock()
        self._closed = False

    async def stream(self, method: str, receive: Callable[[bytes], None], ended: Callable[[], None]) -> ClientStream:
        """Begins a call whose messages go both ways.

        Args:
            method: Its path, such as /package.Service/Method.
            receive: Is called with each message that comes.
            ended: Is called once when the call has ended, be it well or not; not if it is cancelled here.

        Raises:
            OSError: The server cannot be reached, or not in time.
        """
        async with self._connecting:
            if self._closed:
                raise ConnectionError("the channel is closed")
            if self._connection is None or not self._connection.is_usable:
                self._connection = await self._connect()
        return ClientStream(self._connection, method, receive, ended)

    async def _connect(self) -> ClientConnection:
        host, _, port = self.address.rpartition(":")
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_SECONDS):
            _, connection = await loop.create_connection(
                lambda: ClientConnection(self.address), host.strip("[]"), int(port)
            )
        if not connection.is_usable:
            raise ConnectionError("the server has hung up at once")
        self._connections.add(connection)
        if self._closed:
            connection.abort()
            raise ConnectionError("the channel is closed")
        return connection

    def close(self) -> None:
        """Ends all streams and connections, also those on which a server goes on that takes no further streams there."""
        self._closed = True
        for connection in list(self._connections):
            connection.abort()


class ClientConnection(Connection):
    """The connection to a server."""

    SETTINGS = Settings((ENABLE_PUSH, 0))

    def __init__(self, authority: str) -> None:
        super().__init__()
        self.authority = authority

    @property
    def is_usable(self) -> bool:
        """Whether further streams can begin."""
        return self.transport is not None and bool(lib.nghttp2_session_check_request_allowed(self.session))

    def _new_session(self, session: Any, handle: Any) -> None:
        lib.nghttp2_session_client_new2(session, CALLBACKS, handle, OPTIONS)

    def begin_stream(self, stream_id: int) -> None:
        """Servers begin none: they were told not to."""


class ClientStream(Stream):
    """A call whose messages go both ways; `Channel.stream` begins it."""

    def __init__(
        self, connection: ClientConnection, method: str, receive: Callable[[bytes], None], ended: Callable[[], None]
    ) -> None:
        block = HeaderBlock(
            [
                (b":method", b"POST"),
                (b":scheme", b"http"),
                (b":path", method.encode()),
                (b":authority", connection.authority.encode()),
                (b"te", b"trailers"),
                (b"content-type", b"application/grpc"),
            ]
        )
        number = lib.nghttp2_submit_request(
            connection.session, ffi.NULL, block.pointer, block.length, PROVIDER, ffi.NULL
        )
        super().__init__(connection, number, wire.MAX_MESSAGE_BYTES)
        if number < 0:
            raise ConnectionError("the connection takes no more streams")
        self._receive = receive
        self._ended = ended
        connection.streams[number] = self
        connection.flush_soon()

    def headers_ended(self) -> None:
        """Does nothing: how the call ends tells its caller enough."""

    def received(self, chunk: bytes) -> None:
        """Passes on the messages that are complete."""
        super().received(chunk)
        while self._messages and not self._has_ended:
            self._receive(self._pop_message())

    def remote_ended(self) -> None:
        """Ends the call: a server that has said how it ended takes no more messages, and need not reset the stream."""
        self._remote_has_ended = True
        self._end()
        self.reset(CANCEL)

    def closed(self) -> None:
        """Tells that the call has ended."""
        super().closed()
        self._end()

    def _end(self) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._ended()

    def send(self, message: bytes) -> None:
        """Sends a message: now, if the server takes it. Not to be called from within `receive` and `ended`."""
        self._send(message)
        self._connection.flush()

    def cancel(self) -> None:
        """Ends the call."""
        if not self._has_ended:
            self._has_ended = True
            self.reset(CANCEL)

    def _end_data(self, flags: Any) -> None:
        """Does nothing: after the data of a caller comes nothing."""

    def _refuse(self, error: wire.BadMessage) -> None:
        self.reset(CANCEL)
