"""A gRPC server on libnghttp2, in place of grpc.aio's: a call changes no thread (docs/adr/0004-nghttp2.md has figures).

It answers the handlers of `rpc.boundary`, which read and write the messages of a call through its context. What such a
handler may do with the context is what grpc.aio's allows, as far as the service uses it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, NoReturn, Protocol, cast

import grpc
import grpc.aio

from service.http2 import wire
from service.http2.connection import CALLBACKS, OPTIONS, PROVIDER, Connection, Settings
from service.http2.listener import Listener
from service.http2.nghttp2 import (
    CANCEL,
    DATA_NO_END_STREAM,
    MAX_CONCURRENT_STREAMS,
    MAX_HEADER_LIST_SIZE,
    NV_NO_COPY,
    HeaderBlock,
    ffi,
    lib,
)
from service.http2.stream import Stream

log = logging.getLogger("fitserve.http2")

MAX_STREAMS = 2**13
"""The most open streams of a connection. The calls at work are bounded by the boundary; this bounds those that wait, and how
long others wait when one caller opens as many as it may at once."""

HEADER_BYTES = 2**14
"""The most bytes of the headers of one call, counted as HTTP/2 counts them: each has `FIELD_BYTES` more than its text."""

FIELD_BYTES = 32
"""A header may be sent as one byte, and is objects of more than a hundred here."""

MOST_HEADER_BYTES = 2**16
"""A call with more headers is not told so: it is reset, and the rest of them is passed over, which costs a tenth."""

FEW_HEADERS = 32
"""So many headers each call may have."""

FURTHER_HEADERS = 2**18
"""The most that all open calls together may have beyond these: about 35 MB, for which callers need not send 2 MB."""

SMALL_REPLY_BYTES = 2**12
"""Of a smaller reply nobody watches whether it is taken."""

UNTAKEN_SECONDS = 60.0
"""A lone reply of which nothing was taken for so long is given up. It holds memory, and its call is not at work any more."""

MESSAGES_ON_THEIR_WAY = 8
"""Messages that are not complete hold no slot of the calls at work. All together may be as large as so many of the
largest."""

LAST_BYTES_SECONDS = 1.0
"""How long the last bytes of calls may take that are cut off when the server stops."""

IDLE_SECONDS = 0.01
"""The time between two looks at whether all has been sent when the server stops."""

STOPPING = "the service is stopping"

HandOver = Callable[[socket.socket, int], bool]
"""Gives a caller's connection to another process, or leaves it to this one, which has so many. Returns whether it did."""

_GRPC, _GRPC_KINDS = b"application/grpc", (b"application/grpc+", b"application/grpc;")
_RESPONSE = [(b":status", b"200"), (b"content-type", _GRPC), (b"grpc-accept-encoding", wire.ACCEPTED)]
_RESPONSE_BLOCK = HeaderBlock(_RESPONSE, NV_NO_COPY)
_OK_BLOCK = HeaderBlock([(b"grpc-status", b"0")], NV_NO_COPY)


class Keepalive(NamedTuple):
    """When a connection is given up whose other side is gone without a word.

    Attributes:
        seconds: One that was silent for so long is pinged.
        timeout: One that does not answer in so long is closed.
    """

    seconds: float
    timeout: float


KEEPALIVE = Keepalive(60.0, 20.0)


def _nobody_asks() -> None:
    """Does nothing: it is of no interest that a connection has ended."""


class Work(Protocol):
    """What is done for a call."""

    def cancel(self) -> object:
        """Ends it: nobody waits for it any more."""


AtOnce = Callable[["ServerCall", bytes], Work | None]
"""Begins to answer a call, whose one message has come, without a task: what it returns has the call answered later by
`ServerCall.answer_well`, unless it has ended the call. Returns None if the call needs a task."""


class Handlers(Protocol):
    """Finds what answers the calls of a method."""

    def service(self, handler_call_details: grpc.HandlerCallDetails, /) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Returns the handler, which takes nothing but the context; None if there is no such method."""

    def at_once(self, method: str, /) -> AtOnce | None:
        """Returns what may answer without a task; None if nothing does."""


class _Method(NamedTuple):
    """What answers the calls of a method. Any: the messages differ from method to method."""

    handler: grpc.RpcMethodHandler[Any, Any]
    at_once: AtOnce | None


class Server:
    """Listens, and calls the handlers. Construct it inside of the event loop.

    Args:
        handlers: Finds the handler of a method; the handlers take nothing but the context.
        max_message_bytes: The largest message that is taken.
        hand_over: Shares the callers with other processes; None if there are none.
        on_gone: Called whenever a caller's connection has ended.
        keepalive: When silent connections are given up.
    """

    def __init__(
        self,
        handlers: Handlers,
        max_message_bytes: int,
        hand_over: HandOver | None = None,
        on_gone: Callable[[], None] = _nobody_asks,
        keepalive: Keepalive = KEEPALIVE,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._handlers = handlers
        self._methods: dict[bytes, _Method] = {}
        self.begun: list[tuple[ServerCall, bytes]] = []
        """The calls, and their methods, whose headers have come with what is being read."""
        self.max_message_bytes = max_message_bytes
        self.incomplete_bytes = 0
        """Of messages that are not complete, in all calls."""
        self.further_headers = 0
        """Of calls that have more than `FEW_HEADERS`."""
        self._hand_over = hand_over
        self._on_gone = on_gone
        self._callers = 0
        self._keepalive = keepalive
        self._ports = Listener(self._take)
        self._names = Listener(lambda connection: self._open_soon(connection, _nobody_asks))
        self._opening: set[asyncio.Task[None]] = set()
        self.connections: dict[ServerConnection, float | None] = {}
        """With the time at which each was pinged, None if it needs no ping."""
        self.tasks: set[asyncio.Task[None]] = set()
        """Of the calls at work. Each forgets itself: to have it done by a callback costs a turn of the loop a call."""
        self._watcher: asyncio.TimerHandle | None = None
        self._looked = self._loop.time()
        self.stopping = False

    def add_insecure_port(self, address: str) -> int:
        """Takes an address, host:port with port 0 for a free one: callers can connect, and are answered after the start.

        Returns:
            The port.

        Raises:
            OSError: The address is taken, or is not this machine's.
        """
        return self._ports.add(address)

    def answer_processes(self, name: str) -> None:
        """Answers other processes of the service at unix-abstract:NAME from now on; they are no callers."""
        self._names.add(name)
        self._names.start()

    async def start(self) -> None:
        """Answers callers from now on."""
        self._ports.start()
        self._watch()

    def _take(self, connection: socket.socket) -> None:
        """Answers a caller here, or has another process answer."""
        if self._hand_over is not None and self._hand_over(connection, self._callers):
            connection.close()
        else:
            self.adopt(connection)

    def adopt(self, connection: socket.socket) -> None:
        """Answers a caller whose connection was accepted, here or in another process."""
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._callers += 1
        self._open_soon(connection, self._caller_gone)

    def _open_soon(self, connection: socket.socket, on_gone: Callable[[], None]) -> None:
        task = self._loop.create_task(self._open(connection, on_gone))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, connection: socket.socket, on_gone: Callable[[], None]) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: ServerConnection(self, on_gone), connection)
        except OSError as error:
            log.error("a connection is closed that cannot be read: %s", error)
            connection.close()
            on_gone()

    def _caller_gone(self) -> None:
        self._callers -= 1
        self._on_gone()

    def _watch(self) -> None:
        """Pings silent connections, and gives up those that do not answer."""
        now, pause = self._loop.time(), min(self._keepalive) / 4
        # What came in while the loop, or the machine, stood still has not been read yet.
        was_away, self._looked = now - self._looked > 2 * pause, now
        for connection, pinged in list(self.connections.items()):
            if pinged is None or connection.heard > pinged:
                silent = now - connection.heard >= self._keepalive.seconds
                self.connections[connection] = now if silent else None
                if silent:
                    connection.ping()
            elif now - pinged >= self._keepalive.timeout and not was_away:
                connection.abort()
        self._watcher = self._loop.call_later(pause, self._watch)

    async def stop(self, grace: float | None) -> None:
        """Takes no more calls, gives those at work so many seconds to end, and closes all connections."""
        self.stopping = True
        self._ports.stop()
        for connection in self.connections:
            connection.go_away()
        if grace:
            with suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self._idle()
        for task in self.tasks:
            task.cancel()
        for connection in self.connections:
            for stream in list(connection.streams.values()):
                cast("ServerCall", stream).stop()
        with suppress(TimeoutError):  # what the calls that were cut off are told
            async with asyncio.timeout(LAST_BYTES_SECONDS):
                await self._idle()
        for connection in list(self.connections):
            connection.abort()
        if self._watcher is not None:
            self._watcher.cancel()
        self._names.stop()

    async def _idle(self) -> None:
        """Returns when all calls have ended and all that they are answered is sent: connections close then by themselves."""
        if self.tasks:
            await asyncio.wait(self.tasks)
        while self.connections:  # noqa: ASYNC110 each ends when its caller has read
            await asyncio.sleep(IDLE_SECONDS)

    def answer_begun(self) -> None:
        """Has the calls answered that have begun, in the order in which they came."""
        begun, self.begun = self.begun, []
        for call, name in begun:
            if call.done():
                continue
            method = self._methods.get(name) or self._find(call, name)
            if method is None or (method.at_once is not None and call.answered_at_once(method.handler, method.at_once)):
                continue
            task = self._loop.create_task(call.answer(method.handler))
            self.tasks.add(task)
            call.work = task

    def _find(self, call: ServerCall, name: bytes) -> _Method | None:
        """Returns what answers a method; None, and ends the call, if nothing does."""
        details = _Details(name.decode("latin-1"), ())
        handler = self._handlers.service(cast("grpc.HandlerCallDetails", details))
        if handler is None:
            call.end(grpc.StatusCode.UNIMPLEMENTED, f"the service has no method {details.method}")
            return None
        self._methods[name] = found = _Method(handler, self._handlers.at_once(details.method))
        return found


class _Details(NamedTuple):
    """What a generic handler is told of a call, as grpc.HandlerCallDetails."""

    method: str
    invocation_metadata: Sequence[wire.Metadatum]


class ServerConnection(Connection):
    """A connection of a caller, or of another process of the service.

    Args:
        server: Whose it is.
        on_gone: Called when it has ended.
    """

    SETTINGS = Settings((MAX_CONCURRENT_STREAMS, MAX_STREAMS), (MAX_HEADER_LIST_SIZE, HEADER_BYTES))

    def __init__(self, server: Server, on_gone: Callable[[], None]) -> None:
        super().__init__()
        self._server = server
        self._on_gone = on_gone

    def _new_session(self, session: Any, handle: Any) -> None:
        lib.nghttp2_session_server_new2(session, CALLBACKS, handle, OPTIONS)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Sends the settings."""
        super().connection_made(transport)
        self._server.connections[self] = None
        if self._server.stopping:
            self.go_away()

    def data_received(self, data: bytes) -> None:
        """Has the calls answered that begin with what came."""
        super().data_received(data)
        if self._server.begun:
            self._server.answer_begun()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancels the calls."""
        super().connection_lost(exc)
        del self._server.connections[self]
        self._on_gone()

    def begin_stream(self, stream_id: int) -> None:
        """A caller begins a call."""
        self.streams[stream_id] = ServerCall(self, stream_id, self._server)


class ServerCall(Stream, grpc.aio.ServicerContext[Any, Any]):  # Any: the messages differ from method to method
    """A call, and the context with which its handler reads and writes."""

    work: Work | None = None
    """What is done to answer it."""
    _encode: Any = None  # Any: the messages differ from method to method
    _method, _content_type, _path = b"", b"", b""
    _began = False
    _header_bytes = 0
    _incomplete_bytes = 0
    _further_headers = 0
    _has_begun_reply = False
    _initial: Iterable[wire.Metadatum] = ()
    _trailing: Iterable[wire.Metadatum] = ()
    _trailers = _OK_BLOCK
    _deadline: float | None = None
    _alarm: asyncio.TimerHandle | None = None

    def __init__(self, connection: ServerConnection, stream_id: int, server: Server) -> None:
        Stream.__init__(self, connection, stream_id, server.max_message_bytes)
        self._server = server

    # What the connection calls.

    def header(self, name: bytes, value: bytes) -> bool:
        """Takes a header, unless there are too many. Returns False if there are so many that no more are looked at."""
        self._header_bytes += len(name) + len(value) + FIELD_BYTES
        if self._header_bytes > HEADER_BYTES or self._began:
            return self._header_bytes <= MOST_HEADER_BYTES
        if name == b":path":
            self._path = value
        elif name == b":method":
            self._method = value
        elif name == b"content-type":
            self._content_type = value
        elif not name.startswith(b":"):
            self._headers.append((name, value))
        return True

    def headers_ended(self) -> None:
        """Begins to answer; what comes as trailers is not used, as gRPC has none from callers."""
        if self._began:
            return
        self._began = True
        if self._header_bytes > HEADER_BYTES:
            self._headers = []
            why = f"the call has {self._header_bytes} bytes of metadata, and {HEADER_BYTES} are allowed"
            self.end(grpc.StatusCode.RESOURCE_EXHAUSTED, why)
            return
        if len(self._headers) > FEW_HEADERS and not self._count_headers():
            return
        for name, value in self._headers:
            if name == b"grpc-timeout":
                self._set_deadline(value)
            elif name == b"grpc-encoding":
                self._set_encoding(value)
        if self._method != b"POST":
            self._refuse_http(b"405")
        elif self._content_type != _GRPC and not self._content_type.startswith(_GRPC_KINDS):
            self._refuse_http(b"415")
        elif not self._has_ended:
            self._server.begun.append((self, self._path))

    def _count_headers(self) -> bool:
        """Notes the headers of a call that has many. Returns False if that is too much, which ends the call."""
        further = len(self._headers) - FEW_HEADERS
        if self._server.further_headers + further > FURTHER_HEADERS:
            self._headers = []
            why = f"open calls have too many headers; send {FEW_HEADERS} at the most, or try again later"
            self.end(grpc.StatusCode.RESOURCE_EXHAUSTED, why)
            return False
        self._further_headers = further
        self._server.further_headers += further
        return True

    def received(self, chunk: bytes) -> None:
        """Takes bytes of messages, unless the call has ended or too many messages are on their way."""
        if self._has_ended:
            return
        super().received(chunk)
        if self._partial or self._incomplete_bytes:
            self._count_incomplete()

    def _count_incomplete(self) -> None:
        """Notes what is there of a message that is not complete. One that is too much ends its call."""
        server, size = self._server, len(self._partial or b"")
        server.incomplete_bytes += size - self._incomplete_bytes
        self._incomplete_bytes = size
        limit = MESSAGES_ON_THEIR_WAY * server.max_message_bytes
        if size and server.incomplete_bytes > limit:
            why = f"{limit} bytes of messages that are not complete have come, and no more are taken; try again later"
            self._cut_off(grpc.StatusCode.RESOURCE_EXHAUSTED, why)
            self._partial = None
            self._count_incomplete()

    def closed(self) -> None:
        """The call has ended: well, or the caller has cancelled it or is gone."""
        super().closed()
        if self._incomplete_bytes:
            self._count_incomplete()
        self._server.further_headers -= self._further_headers
        if self._alarm is not None:
            self._alarm.cancel()
        if not self._has_ended:
            self._cancel_work()
        self.work = None
        self._has_ended = True

    def _end_data(self, flags: Any) -> None:
        flags[0] |= DATA_NO_END_STREAM
        block = self._trailers
        lib.nghttp2_submit_trailer(self._connection.session, self._id, block.pointer, block.length)
        self._stop_caller()

    # What the handler uses.

    async def read(self) -> Any:
        """Returns the next message; `grpc.aio.EOF` after the last. Raises AbortError if the call was ended meanwhile."""
        message = await self._next_message()
        if self._has_ended:
            raise grpc.aio.AbortError("the call has ended")
        return grpc.aio.EOF if message is None else message

    async def write(self, message: Any) -> None:
        """Sends a message; returns when most of what was written is sent."""
        if self._has_ended:
            raise grpc.aio.AbortError("the call has ended")
        self._send(self._encode(message))
        self._begin_reply()
        self._connection.flush_soon()
        await self._sent()

    async def send_initial_metadata(self, initial_metadata: Iterable[wire.Metadatum]) -> None:
        """Sends metadata ahead of the first message."""
        self._initial = tuple(initial_metadata)
        self._begin_reply()
        self._connection.flush_soon()

    def set_trailing_metadata(self, trailing_metadata: Iterable[wire.Metadatum]) -> None:
        """Sends metadata at the end of the call."""
        self._trailing = tuple(trailing_metadata)

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Iterable[wire.Metadatum] = ()
    ) -> NoReturn:
        """Ends the call with a status, and the handler by raising AbortError."""
        self._trailing = tuple(trailing_metadata) or self._trailing
        self.end(code, details)
        raise grpc.aio.AbortError("the handler has ended the call")

    def invocation_metadata(self) -> tuple[wire.Metadatum, ...]:  # type: ignore[override]  # as grpc.aio's does
        """Returns what the caller has sent as metadata."""
        return wire.metadata_of(self._headers)

    def peer(self) -> str:
        """Returns who calls, such as ipv4:127.0.0.1:40412."""
        transport = self._connection.transport
        name = transport.get_extra_info("peername") if transport is not None else None
        if not isinstance(name, tuple):
            return "unix:"
        host, port = name[0], name[1]
        return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"

    def time_remaining(self) -> float | None:  # type: ignore[override]  # grpc.aio's has None too
        """Returns the seconds until the caller's deadline; None if there is none."""
        return None if self._deadline is None else max(0.0, self._deadline - self._connection.loop.time())

    def done(self) -> bool:
        """Whether the call has ended."""
        return self._has_ended

    # How a call goes.

    def answered_at_once(self, handler: Any, at_once: AtOnce) -> bool:
        """Whether the call needs no task: its one message is there, and more is not to be done than `at_once` does.

        Any: grpcio's types do not know a handler's attributes.
        """
        if not self._remote_has_ended or len(self._messages) != 1 or type(self._messages[0]) is wire.Packed:
            return False
        self._encode = handler.response_serializer or bytes
        work = at_once(self, self._messages[0])
        if work is None and not self._has_ended:
            self._encode = None
            return False
        self._pop_message()
        if not self._has_ended:
            self.work = work
        return True

    def answer_well(self, reply: Any) -> None:
        """Sends the one message of the reply, and ends the call; Any: it differs from method to method."""
        self.work = None
        self._send_reply(reply)
        self._end_well(is_watched=True)

    async def answer(self, handler: Any) -> None:
        """Runs the handler of a call, and ends the call. Any: grpcio's types do not know asynchronous handlers.

        It raises nothing: a task keeps what it raises, and with it the frames and messages that it came from.
        """
        try:
            self._encode = handler.response_serializer or bytes
            if handler.response_streaming:
                await handler.stream_stream(None, self)
            else:
                self._send_reply(await handler.stream_unary(None, self))
        except grpc.aio.AbortError:
            pass
        except asyncio.CancelledError:
            self.end(grpc.StatusCode.UNAVAILABLE, STOPPING)
        except Exception:
            log.exception("a handler has failed")
            self.end(grpc.StatusCode.INTERNAL, "the service has failed; its log says why")
        else:
            # Of several messages a caller may take the next one whenever it likes.
            self._end_well(is_watched=not handler.response_streaming)
        finally:
            self.work = None
            # Without the loop it would be asked for, which takes a system call.
            if (task := asyncio.current_task(self._connection.loop)) is not None:
                self._server.tasks.discard(task)

    def _end_well(self, is_watched: bool) -> None:
        self.end(grpc.StatusCode.OK)
        if len(self._connection.streams) == 1:  # no other reply can share the write, so it need not wait
            self._connection.flush()
        if is_watched and self._is_open and self._unsent_bytes > SMALL_REPLY_BYTES:
            self._watch_reply()

    def _send_reply(self, reply: Any) -> None:
        """Sends the one message of a reply, unless the call has ended meanwhile."""
        if not self._has_ended:
            self._send(self._encode(reply))

    def end(self, code: grpc.StatusCode, details: str = "") -> None:
        """Ends the call with a status, unless it has ended. What was written before is sent before."""
        if self._has_ended:
            return
        self._has_ended = True
        if self._alarm is not None:
            self._alarm.cancel()
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
        trailing = self._trailing
        if code is grpc.StatusCode.OK and not trailing:
            fields = None
        else:
            fields = wire.status_fields(code, details, trailing)
            self._trailers = HeaderBlock(fields)
        if fields is not None and not self._has_begun_reply and not self._unsent:
            self._respond(HeaderBlock([*_RESPONSE, *fields]))
            return
        self._has_written_all = True
        self._begin_reply()
        self._resume()
        self._connection.flush_soon()

    def _watch_reply(self) -> None:
        """Gives up the reply unless something of it is taken in time, again and again."""
        unsent = self._unsent_bytes
        self._alarm = self._connection.loop.call_later(
            UNTAKEN_SECONDS, lambda: self._watch_reply() if self._unsent_bytes < unsent else self.reset(CANCEL)
        )

    def _begin_reply(self) -> None:
        """Sends the headers of the reply; its messages and trailers follow as they come."""
        if self._has_begun_reply or not self._is_open:
            return
        self._has_begun_reply = True
        block = HeaderBlock([*_RESPONSE, *wire.headers_of(self._initial)]) if self._initial else _RESPONSE_BLOCK
        lib.nghttp2_submit_response(self._connection.session, self._id, block.pointer, block.length, PROVIDER)

    def _respond(self, block: HeaderBlock) -> None:
        """Sends a reply of nothing but headers."""
        self._has_begun_reply = True
        if self._is_open:
            lib.nghttp2_submit_response(self._connection.session, self._id, block.pointer, block.length, ffi.NULL)
            self._stop_caller()
            self._connection.flush_soon()

    def _stop_caller(self) -> None:
        """Has a caller who is still sending send no more, after it got the status; see RFC 9113, 8.1."""
        if not self._remote_has_ended:
            self._connection.reset_when_sent(self)

    def _refuse(self, error: wire.BadMessage) -> None:
        too_large = isinstance(error, wire.MessageTooLarge)
        code = grpc.StatusCode.RESOURCE_EXHAUSTED if too_large else grpc.StatusCode.INTERNAL
        self._cut_off(code, str(error))

    def _refuse_http(self, status: bytes) -> None:
        """Answers what is no call of gRPC."""
        self._has_ended = True
        self._respond(HeaderBlock([(b":status", status)]))

    def _cut_off(self, code: grpc.StatusCode, details: str) -> None:
        """Ends the call, and what its handler is doing."""
        if self._has_ended:
            return
        self.end(code, details)
        self._cancel_work()

    def _cancel_work(self) -> None:
        """Cancels what the handler is doing."""
        if self.work is None:
            return
        self.work.cancel()
        if self._encode is None:  # it has not begun, and so does not come to forget itself
            self._server.tasks.discard(cast("asyncio.Task[None]", self.work))

    def stop(self) -> None:
        """Cuts off the call, unless a task answers it, which is told by its end."""
        if self.work is not None and self.work not in self._server.tasks:
            self._cut_off(grpc.StatusCode.UNAVAILABLE, STOPPING)

    def _set_deadline(self, timeout: bytes) -> None:
        try:
            seconds = wire.seconds_of(timeout)
        except ValueError:
            self.end(grpc.StatusCode.INTERNAL, "the header grpc-timeout cannot be read")
            return
        if self._alarm is not None:  # the header may come twice
            self._alarm.cancel()
        loop = self._connection.loop
        self._deadline = loop.time() + seconds
        self._alarm = loop.call_at(
            self._deadline, self._cut_off, grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline of the call has passed"
        )

    def _set_encoding(self, encoding: bytes) -> None:
        if encoding not in wire.ENCODINGS:
            accepted = wire.ACCEPTED.decode()
            self.end(grpc.StatusCode.UNIMPLEMENTED, f"messages may be compressed by {accepted} only")
            return
        self._encoding = encoding

    # What gRPC's context has and the service does not use.

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """Ends the call with a status."""
        await self.abort(status.code, status.details, status.trailing_metadata or ())

    def set_code(self, code: grpc.StatusCode) -> NoReturn:
        """Not to be used: handlers end calls with `abort`."""
        raise NotImplementedError

    def set_details(self, details: str) -> NoReturn:
        """Not to be used: handlers end calls with `abort`."""
        raise NotImplementedError

    def set_compression(self, compression: grpc.Compression) -> None:
        """Does nothing: replies are not compressed."""

    def disable_next_message_compression(self) -> None:
        """Does nothing: replies are not compressed."""

    def peer_identities(self) -> Iterable[bytes] | None:
        """Returns None: callers do not prove who they are."""
        return None

    def peer_identity_key(self) -> str | None:
        """Returns None: callers do not prove who they are."""
        return None

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Returns nothing: callers do not prove who they are."""
        return {}
