"""A stream of gRPC messages in both directions over one HTTP/2 stream."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from typing import Any

from service.http2 import wire
from service.http2.connection import STREAM_WINDOW, Connection
from service.http2.nghttp2 import DATA_EOF, ERR_DEFERRED, NO_FLAG, ffi, lib

GIVE_BACK_BYTES = STREAM_WINDOW // 4
"""So much of a window is given back at one time."""

UNSENT_BYTES = 2**16
"""A writer waits while so much of its stream is not sent."""


Queue = tuple[bytes, ...] | deque[bytes]
"""Messages, the oldest first. One alone is a tuple: most streams have no more at a time, and a deque takes 760 bytes."""


def _with(queue: Queue, message: bytes) -> Queue:
    """Returns a queue with one more message; the one that was given is not to be used any more."""
    if not queue:
        return (message,)
    longer = deque(queue) if isinstance(queue, tuple) else queue
    longer.append(message)
    return longer


def _without_first(queue: Queue) -> Queue:
    """Returns a queue without its first message; the one that was given is not to be used any more."""
    if isinstance(queue, tuple):
        return ()
    queue.popleft()
    return queue


class Stream(ABC):
    """What both sides of a call have in common.

    Messages that nobody has read yet hold back the other side: their bytes are given back to the stream's window only when
    they are read.

    Args:
        connection: Where the stream is.
        stream_id: Its number there; 0 as long as it has none.
        max_message_bytes: The largest message that is taken.
    """

    # What all calls begin with is the class's: most end before they need more, and there are many at one time.
    _encoding = b"identity"
    _partial: bytearray | None = None
    _messages: Queue = ()
    _unread = 0
    _remote_has_ended = False
    _reader: asyncio.Future[None] | None = None
    _unsent: Queue = ()
    _unsent_bytes = 0
    _provided = 0  # bytes of the first of them
    _waits_for_data = False
    _has_written_all = False
    _writer: asyncio.Future[None] | None = None
    _is_open = True
    _has_ended = False  # the call, for this side

    def __init__(self, connection: Connection, stream_id: int, max_message_bytes: int) -> None:
        self._connection = connection
        self._id = stream_id
        self._max_message_bytes = max_message_bytes
        self._headers: list[tuple[bytes, bytes]] = []

    # What the connection calls.

    def header(self, name: bytes, value: bytes) -> bool:
        """Takes a header, or a trailer. Returns whether more are looked at; if not, the stream is to be reset."""
        self._headers.append((name, value))
        return True

    @abstractmethod
    def headers_ended(self) -> None:
        """All headers, or all trailers, are there."""

    def received(self, chunk: bytes) -> None:
        """Takes bytes of messages."""
        try:
            if not self._partial and len(chunk) - wire.PREFIX_BYTES == int.from_bytes(chunk[1:5], "big"):
                self._take(chunk[0], chunk[wire.PREFIX_BYTES :])
            else:
                if self._partial is None:
                    self._partial = bytearray()
                self._partial += chunk
                self._take_messages(self._partial)
        except wire.BadMessage as error:
            self._refuse(error)
            return
        self._unread += len(chunk)
        if not self._messages:
            self._give_back()
        elif self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def remote_ended(self) -> None:
        """The other side sends no more."""
        self._remote_has_ended = True
        if self._partial:
            self._refuse(wire.BadMessage("the last message is not complete"))
        elif self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def closed(self) -> None:
        """The stream has ended, well or not; nothing more can be received or sent."""
        self._is_open = False
        self._remote_has_ended = True
        self._partial = None
        self._messages = self._unsent = ()
        for waiting in (self._reader, self._writer):
            if waiting is not None and not waiting.done():
                waiting.set_result(None)

    def provide(self, buffer: Any, length: int, flags: Any) -> int:
        """Puts the next bytes to be sent into nghttp2's buffer. Any: cffi's pointers have no types.

        Returns:
            How many, or `ERR_DEFERRED` if there are none yet.
        """
        unsent, filled = self._unsent, 0
        while unsent and filled < length:
            piece, start = unsent[0], self._provided
            fits = min(len(piece) - start, length - filled)
            end = start + fits
            ffi.memmove(buffer + filled, piece if fits == len(piece) else memoryview(piece)[start:end], fits)
            filled += fits
            if end < len(piece):
                self._provided = end
            else:
                self._provided = 0
                unsent = self._unsent = _without_first(unsent)
        self._unsent_bytes -= filled
        if self._writer is not None and self._unsent_bytes < UNSENT_BYTES and not self._writer.done():
            self._writer.set_result(None)
        if not unsent and self._has_written_all:
            flags[0] = DATA_EOF
            self._end_data(flags)
        elif not filled:
            self._waits_for_data = True
            return ERR_DEFERRED
        return filled

    @abstractmethod
    def _end_data(self, flags: Any) -> None:
        """All data is with the session; what follows it may be given to it now. Any: cffi's pointers have no types."""

    # What the sides of a call use.

    @abstractmethod
    def _refuse(self, error: wire.BadMessage) -> None:
        """Ends the call because of what was received."""

    def _take(self, compressed: int, message: bytes) -> None:
        if len(message) > self._max_message_bytes:
            self._check_size(len(message))
        if compressed:
            if compressed != 1 or wire.ENCODINGS[self._encoding] is None:
                raise wire.BadMessage("a message is marked as compressed, and the call's headers do not say how")
            message = wire.Packed(message)
        self._messages = _with(self._messages, message)

    def _take_messages(self, partial: bytearray) -> None:
        """Takes the complete messages out of the bytes that have come."""
        while len(partial) >= wire.PREFIX_BYTES:
            length = int.from_bytes(partial[1:5], "big")
            self._check_size(length)
            end = wire.PREFIX_BYTES + length
            if len(partial) < end:
                return
            compressed, message = partial[0], bytes(memoryview(partial)[wire.PREFIX_BYTES : end])
            del partial[:end]
            self._take(compressed, message)

    def _check_size(self, length: int) -> None:
        if length > self._max_message_bytes:
            raise wire.MessageTooLarge(f"a message has {length} bytes and {self._max_message_bytes} are allowed")

    def _give_back(self) -> None:
        """Lets the other side send as much again as was read, once that is worth telling."""
        if self._unread < GIVE_BACK_BYTES:
            return
        unread, self._unread = self._unread, 0
        if self._is_open and not self._remote_has_ended:
            lib.nghttp2_session_consume_stream(self._connection.session, self._id, unread)
            self._connection.flush_soon()

    async def _next_message(self) -> bytes | None:
        """Returns the next message, None after the last, and when the call has ended."""
        while not self._messages:
            if self._remote_has_ended or self._has_ended:
                return None
            self._reader = self._connection.loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        message = self._pop_message()
        if type(message) is wire.Packed:
            return self._unpacked(message)
        return message

    def message_there(self) -> bytes | None:
        """Returns the next message if it has come, is not compressed and the call goes on; else None, and `read` tells."""
        if not self._messages or self._has_ended or type(self._messages[0]) is wire.Packed:
            return None
        return self._pop_message()

    def _pop_message(self) -> bytes:
        """Returns the first of the messages that have come."""
        message = self._messages[0]
        self._messages = _without_first(self._messages)
        if not self._messages:
            self._give_back()
        return message

    def _unpacked(self, message: wire.Packed) -> bytes | None:
        """Returns a message that came compressed; None if it cannot be taken, which ends the call.

        It is done when the message is read: those that wait are a thousand times as large unpacked.
        """
        unpack = wire.ENCODINGS[self._encoding]
        assert unpack is not None
        try:
            return unpack(message, self._max_message_bytes)
        except wire.BadMessage as error:
            self._refuse(error)
            return None

    def _send(self, message: bytes) -> None:
        """Gives a message to the session; it is for the caller to have it written."""
        if not self._is_open:
            return
        prefix = wire.prefix(len(message))
        if len(message) < UNSENT_BYTES:
            self._unsent = _with(self._unsent, prefix + message)
        else:
            self._unsent = _with(_with(self._unsent, prefix), message)
        self._unsent_bytes += len(prefix) + len(message)
        self._resume()

    def _resume(self) -> None:
        if self._waits_for_data and self._is_open:
            self._waits_for_data = False
            lib.nghttp2_session_resume_data(self._connection.session, self._id)

    async def _sent(self) -> None:
        """Returns when little of what was written is unsent."""
        while self._is_open and self._unsent_bytes >= UNSENT_BYTES:
            self._writer = self._connection.loop.create_future()
            try:
                await self._writer
            finally:
                self._writer = None

    def reset(self, code: int) -> None:
        """Tells the other side that nothing more is sent or taken."""
        if self._is_open:
            lib.nghttp2_submit_rst_stream(self._connection.session, NO_FLAG, self._id, code)
            self._connection.flush_soon()
