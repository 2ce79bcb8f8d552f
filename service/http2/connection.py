"""One HTTP/2 connection on the event loop: bytes to streams and back."""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, cast

from service.http2.nghttp2 import (
    END_STREAM,
    ERR_CALLBACK_FAILURE,
    ERR_TEMPORAL_CALLBACK_FAILURE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    NO_ERROR,
    NO_FLAG,
    ffi,
    lib,
)

if TYPE_CHECKING:
    from service.http2.stream import Stream

log = logging.getLogger("fitserve.http2")

STREAM_WINDOW = 2**20
"""So many bytes of one stream may be on their way, or unread, at one time."""

CONNECTION_WINDOW = 2**24
"""So many bytes of a connection may be on their way at one time."""

MAX_UNSENT_FRAMES = 2**15
"""So many frames may wait to be sent; data does not count, it waits in its stream. That is more than the calls have that may
be open at one time: a connection with more makes us say what is wrong with it, and does not read."""

RESETS_AT_ONCE, RESETS_A_SECOND = 2**14, 2**10
"""A connection that resets more streams ends. Callers reset calls whose deadlines pass: if answers are late, all at once."""

FLUSH_BYTES = 2**18
"""So many bytes are given to the socket at one time."""


class Settings:
    """What one side of a connection tells the other, besides how much of a stream may be on its way.

    Args:
        entries: Numbers and values of settings.
    """

    def __init__(self, *entries: tuple[int, int]) -> None:
        self.length = len(entries) + 1
        self.pointer: Any = ffi.new("nghttp2_settings_entry[]", [(INITIAL_WINDOW_SIZE, STREAM_WINDOW), *entries])


class Connection(asyncio.Protocol):
    """An nghttp2 session and its transport.

    What is to be sent is written once a turn of the event loop, so that many small answers share a system call.
    """

    SETTINGS: Settings
    """What the other side is told."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.streams: dict[int, Stream] = {}
        self.transport: asyncio.Transport | None = None
        self.session: Any = None  # Any: cffi's pointers have no types
        self.heard = self.loop.time()
        """When something has last been received, by the loop's clock."""
        self.reading: Stream | None = None
        """Whose headers come: between them nothing else does."""
        self._pointer = ffi.new("uint8_t **")
        self._handle = ffi.new_handle(self)
        self._flushing = False
        self._paused = False
        self._unconsumed = 0
        self._to_reset: list[Stream] = []

    @abstractmethod
    def _new_session(self, session: Any, handle: Any) -> None:
        """Makes the nghttp2 session, for the server's or for the client's side."""

    @abstractmethod
    def begin_stream(self, stream_id: int) -> None:
        """The other side begins a stream."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Has the settings sent with what is sent first: a write of their own would wake the other side for nothing."""
        self.transport = cast("asyncio.Transport", transport)
        made = ffi.new("nghttp2_session **")
        self._new_session(made, self._handle)
        self.session = made[0]
        lib.nghttp2_submit_settings(self.session, NO_FLAG, self.SETTINGS.pointer, self.SETTINGS.length)
        lib.nghttp2_session_set_local_window_size(self.session, NO_FLAG, 0, CONNECTION_WINDOW)

    def data_received(self, data: bytes) -> None:
        """Takes bytes from the socket apart; the session calls back for each part."""
        self.heard = self.loop.time()
        taken = lib.nghttp2_session_mem_recv(self.session, ffi.from_buffer(data), len(data))
        if taken < 0:
            self._hang_up()
            return
        if self._unconsumed:
            # Of the whole connection's window nobody waits for the reader of one stream.
            lib.nghttp2_session_consume_connection(self.session, self._unconsumed)
            self._unconsumed = 0
        if lib.nghttp2_session_get_outbound_queue_size(self.session) > MAX_UNSENT_FRAMES:
            self.abort()
            return
        if lib.nghttp2_session_want_write(self.session) or not lib.nghttp2_session_want_read(self.session):
            self.flush_soon()

    def chunk_received(self, stream_id: int, chunk: bytes) -> None:
        """Takes a part of what a stream brings."""
        self._unconsumed += len(chunk)
        if stream := self.streams.get(stream_id):
            stream.received(chunk)

    def stream_closed(self, stream_id: int) -> None:
        """Forgets a stream that has ended, be it well or not."""
        if stream := self.streams.pop(stream_id, None):
            stream.closed()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends all streams."""
        self.transport = None
        session, self.session = self.session, None
        streams, self.streams = self.streams, {}
        for stream in streams.values():
            stream.closed()
        lib.nghttp2_session_del(session)
        self._handle = self.reading = None  # the one refers to this object, the other may hold a call

    def pause_writing(self) -> None:
        """Writes no more: the socket's buffer is full."""
        self._paused = True

    def resume_writing(self) -> None:
        """Goes on writing."""
        self._paused = False
        self.flush_soon()

    def flush_soon(self) -> None:
        """Writes what is to be sent at the end of this turn of the event loop."""
        if not self._flushing:
            self._flushing = True
            self.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Writes what is to be sent, as far as the other side takes it."""
        self._flushing = False
        while self.transport is not None and not self._paused:
            frames = self._frames()
            if not frames:
                if not lib.nghttp2_session_want_read(self.session) and not lib.nghttp2_session_want_write(self.session):
                    self.transport.close()
                return
            self.transport.write(b"".join(frames))

    def _frames(self) -> list[bytes]:
        """Returns the next frames to be sent, about `FLUSH_BYTES` of them at most."""
        frames = []
        size = 0
        session, pointer, send, buffer = self.session, self._pointer, lib.nghttp2_session_mem_send, ffi.buffer
        while size < FLUSH_BYTES:
            length = send(session, pointer)
            if length == 0 and self._to_reset:
                resets, self._to_reset = self._to_reset, []
                for stream in resets:
                    stream.reset(NO_ERROR)
                continue
            if length <= 0:
                if length < 0:
                    self._hang_up()
                break
            frames.append(buffer(pointer[0], length)[:])
            size += length
        return frames

    def reset_when_sent(self, stream: Stream) -> None:
        """Resets a stream after what is to be sent of it. At once would be instead of it: nghttp2 drops the rest then."""
        self._to_reset.append(stream)

    def ping(self) -> None:
        """Asks the other side for a sign of life."""
        lib.nghttp2_submit_ping(self.session, NO_FLAG, ffi.NULL)
        self.flush_soon()

    def go_away(self) -> None:
        """Tells the other side that this connection takes no further streams. It is closed after the last one."""
        last = lib.nghttp2_session_get_last_proc_stream_id(self.session)
        lib.nghttp2_submit_goaway(self.session, NO_FLAG, last, NO_ERROR, ffi.NULL, 0)
        self.flush()  # a stream that begins before it is sent would be one that the other side may try again elsewhere

    def abort(self) -> None:
        """Ends the connection at once, and with it its streams."""
        if self.transport is not None:
            self.transport.abort()

    def _hang_up(self) -> None:
        """Ends a connection whose other side speaks no HTTP/2, after what is there to tell it why."""
        if self.transport is None:
            return
        length = lib.nghttp2_session_mem_send(self.session, self._pointer)
        if length > 0:
            self.transport.write(ffi.buffer(self._pointer[0], length)[:])
        self.transport.close()


def _log_bug(kind: Any, error: Any, traceback: Any) -> None:
    """Logs an exception that a callback has raised; the connection ends then. Any: what cffi gives."""
    log.error("a callback of nghttp2 has failed", exc_info=(kind, error, traceback))


def _callback(signature: str) -> Any:
    """Returns cffi's decorator of a function that C calls. Any: cffi's pointers have no types."""
    return ffi.callback(signature, error=ERR_CALLBACK_FAILURE, onerror=_log_bug)


@_callback("on_frame_callback")
def _on_begin_headers(session: Any, frame: Any, handle: Any) -> int:
    connection: Connection = ffi.from_handle(handle)
    if frame.stream_id not in connection.streams:
        connection.begin_stream(frame.stream_id)
    connection.reading = connection.streams.get(frame.stream_id)
    return 0


@_callback("on_header_callback")
def _on_header(
    session: Any, frame: Any, name: Any, name_length: int, value: Any, value_length: int, flags: int, handle: Any
) -> int:
    connection: Connection = ffi.from_handle(handle)
    stream = connection.reading
    if stream is None or stream.header(ffi.buffer(name, name_length)[:], ffi.buffer(value, value_length)[:]):
        return 0
    return ERR_TEMPORAL_CALLBACK_FAILURE  # has the stream reset, and passes over the rest of its headers


@_callback("on_frame_callback")
def _on_frame(session: Any, frame: Any, handle: Any) -> int:
    kind = frame.type
    if kind > HEADERS:
        return 0
    connection: Connection = ffi.from_handle(handle)
    stream = connection.streams.get(frame.stream_id)
    if stream is None:
        return 0
    if kind == HEADERS:
        connection.reading = None
        stream.headers_ended()
    if frame.flags & END_STREAM:
        stream.remote_ended()
    return 0


@_callback("on_data_chunk_callback")
def _on_data_chunk(session: Any, flags: int, stream_id: int, data: Any, length: int, handle: Any) -> int:
    connection: Connection = ffi.from_handle(handle)
    connection.chunk_received(stream_id, ffi.buffer(data, length)[:])
    return 0


@_callback("on_stream_close_callback")
def _on_stream_close(session: Any, stream_id: int, error_code: int, handle: Any) -> int:
    connection: Connection = ffi.from_handle(handle)
    connection.stream_closed(stream_id)
    return 0


@_callback("read_callback")
def _read(session: Any, stream_id: int, buffer: Any, length: int, flags: Any, source: Any, handle: Any) -> int:
    connection: Connection = ffi.from_handle(handle)
    return connection.streams[stream_id].provide(buffer, length, flags)


def _make_callbacks() -> Any:
    made = ffi.new("nghttp2_session_callbacks **")
    lib.nghttp2_session_callbacks_new(made)
    callbacks = made[0]
    lib.nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, _on_begin_headers)
    lib.nghttp2_session_callbacks_set_on_header_callback(callbacks, _on_header)
    lib.nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, _on_frame)
    lib.nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, _on_data_chunk)
    lib.nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, _on_stream_close)
    return callbacks


def _make_options() -> Any:
    made = ffi.new("nghttp2_option **")
    lib.nghttp2_option_new(made)
    lib.nghttp2_option_set_no_auto_window_update(made[0], 1)
    # Else a server's session keeps as many ended streams as may be open, for priorities that nobody uses.
    lib.nghttp2_option_set_no_closed_streams(made[0], 1)
    if hasattr(lib, "nghttp2_option_set_no_rfc9113_leading_and_trailing_ws_validation"):
        # gRPC's metadata may have blanks around, which nghttp2 refuses from its version 1.50 on.
        lib.nghttp2_option_set_no_rfc9113_leading_and_trailing_ws_validation(made[0], 1)
    if hasattr(lib, "nghttp2_option_set_stream_reset_rate_limit"):
        lib.nghttp2_option_set_stream_reset_rate_limit(made[0], RESETS_AT_ONCE, RESETS_A_SECOND)
    return made[0]


CALLBACKS, OPTIONS = _make_callbacks(), _make_options()
"""Of every session; they live as long as the process."""

PROVIDER = ffi.new("nghttp2_data_provider *", {"read_callback": _read})
"""Has the session ask the stream for its data when it can send some."""
