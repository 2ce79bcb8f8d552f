"""The outermost handler: every call is read, decoded, admitted and ended here.

What is wrong with a message is told in our words, and a caller who opens calls without sending anything must not hold slots
for ever. So all methods are served through the handlers for streamed requests: the first message is read with a time-out,
decoded here, and the call is counted only from then on.

It is a handler and no interceptor, and knows all methods itself, because that is faster: an interceptor costs two coroutines
a call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from contextvars import ContextVar
from typing import Any, NoReturn, cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from service.deadlines import Deadlines
from service.domain.errors import Reason, ServiceError
from service.http2.server import AtOnce, ServerCall, Work
from service.memory import Trimmer
from service.rpc.status import code_of, internal, shortened, status_of

FIRST_MESSAGE_SECONDS = 30.0
"""How long a caller may take to send the first message of a call."""

NEXT_MESSAGE_SECONDS = 3600.0
"""How long a caller may be silent in the middle of a stream. Pings find a caller who is gone long before."""

OPERATORS_SERVICES = (
    "/grpc.health.v1.",
    "/grpc.reflection.",
    "/fitserve.v1.ServerService/",
    "/inference.GRPCInferenceService/Server",  # ServerLive, ServerReady and ServerMetadata
)
"""What an operator looks at when the service is overloaded. These calls are cheap, and have slots of their own."""

LARGE_BYTES = 2**18
"""Work on every value of messages from this size on belongs in a thread."""

large_message: ContextVar[int] = ContextVar("large_message", default=0)
"""The size in bytes of the message that the current task has read last, 0 if it is below `LARGE_BYTES`. To ask protobuf
costs as much as to write the message anew."""

DETAILS = "grpc-status-details-bin"
"""The metadata with the details of an error."""

Context = grpc.aio.ServicerContext[Any, Any]  # Any: the messages differ from method to method
Behavior = Callable[[Any, Context], Any]
Handling = Callable[[ServerCall], Awaitable[Any]]
Decode = Callable[[bytes], Any]


class Methods:
    """Collects the handlers of services: what the generated functions `add_...Servicer_to_server` take for a server."""

    def __init__(self) -> None:
        self.handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    @property
    def server(self) -> grpc.aio.Server:
        """This object, as the server that the generated functions want."""
        return cast("grpc.aio.Server", self)

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Adds the methods of a service."""
        self.handlers.update({f"/{service}/{name}": handler for name, handler in handlers.items()})

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Does nothing: generated code gives the same handlers twice, and so by name too."""


class CallAtOnce:
    """A call that is answered without a task: no coroutine waits for what it needs, so it costs a fifth less.

    What begins the work of it, a function of a servicer, has it answered later, or failed, once.
    """

    __slots__ = ("_call", "_method", "_slots", "done", "work")

    def __init__(self, call: ServerCall, slots: _Slots, method: str) -> None:
        self._call = call
        self._slots = slots
        self._method = method
        self.work: Work | None = None
        """What is cancelled when nobody waits for the answer any more."""
        self.done = call.done
        """Whether that is so. It is the call's own function, as it is asked twice a call."""

    def answer(self, reply: Any) -> None:
        """Sends the reply. Any: the messages differ from method to method."""
        self._call.answer_well(reply)
        self._end()

    def fail(self, error: Exception) -> None:
        """Ends the call with an error."""
        self._end()
        self._call.work = None
        _end(self._call, shortened(error) if isinstance(error, ServiceError) else internal(self._method, error))

    def cancel(self) -> None:
        """Ends the work."""
        work = self.work
        self._end()
        if work is not None:
            work.cancel()

    def _end(self) -> None:
        self._slots.give_back()
        self.work = None  # it refers to this object, and has the rows of a call that may stay until its end is read


Begin = Callable[[Any, CallAtOnce], Work | None]
"""Begins to answer a request, which is a message, without a task; None if it needs one. Any: the messages differ."""


class Boundary(grpc.GenericRpcHandler):
    """Wraps the handlers of all methods. Construct it inside of the event loop.

    Args:
        methods: The handlers by the full name of their method.
        max_calls: The most calls at work at one time; as many again for the operators' services.
        max_message_bytes: The largest message.
        first_message_seconds: How long a caller may take to send the first message of a call.
        next_message_seconds: How long a caller may be silent in the middle of a stream.
        begin: What begins to answer requests without a task, by the name of their method.
    """

    def __init__(
        self,
        methods: Mapping[str, grpc.RpcMethodHandler[Any, Any]],
        max_calls: int,
        max_message_bytes: int,
        first_message_seconds: float = FIRST_MESSAGE_SECONDS,
        next_message_seconds: float = NEXT_MESSAGE_SECONDS,
        begin: Mapping[str, Begin] | None = None,
    ) -> None:
        self._slots = _Slots(max_calls)
        self._operators_slots = _Slots(max_calls)
        self._max_message_bytes = max_message_bytes
        self._first_message = _Silence(first_message_seconds)
        self._next_message = _Silence(next_message_seconds)
        self._trimmer = Trimmer()
        self._wrapped = {method: self._wrap(handler, method) for method, handler in methods.items()}
        self._at_once = {
            method: self._begun(one, method, methods[method].request_deserializer)
            for method, one in (begin or {}).items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Returns the wrapped handler of the method that is called; None if there is none, which is UNIMPLEMENTED."""
        return self._wrapped.get(handler_call_details.method)

    def at_once(self, method: str) -> AtOnce | None:
        """Returns what may answer calls of the method without a task; None if nothing does."""
        return self._at_once.get(method)

    def _begun(self, begin: Begin, method: str, decode: Any) -> AtOnce:
        """Returns what the server calls; Any: grpcio's type stubs do not know what decodes."""
        slots = self._slots_of(method)

        def at_once(context: ServerCall, first: bytes) -> Work | None:
            if len(first) >= LARGE_BYTES:
                return None
            call = CallAtOnce(context, slots, method)
            try:
                slots.take()
            except ServiceError as error:
                _end(context, shortened(error))
                return None
            try:
                call.work = begin(self._decode(first, method, decode), call)
            except Exception as error:
                call.fail(error)
                return None
            if call.work is None:
                slots.give_back()
                return None
            return call

        return at_once

    def _wrap(self, handler: Any, method: str) -> grpc.RpcMethodHandler[Any, Any]:
        """Returns a handler that takes bytes; Any: grpcio's type stubs do not know a handler's attributes."""
        decode = handler.request_deserializer
        encode = handler.response_serializer
        if handler.response_streaming:
            inner = handler.stream_stream if handler.request_streaming else handler.unary_stream
            work = self._streamed_reply(inner, method, decode, handler.request_streaming)
            return grpc.stream_stream_rpc_method_handler(_guarded(work, method), None, encode)
        inner = handler.stream_unary if handler.request_streaming else handler.unary_unary
        work = self._lone_reply(inner, method, decode, handler.request_streaming)
        return grpc.stream_unary_rpc_method_handler(_guarded(work, method), None, encode)

    def _lone_reply(self, inner: Behavior, method: str, decode: Decode, streamed: bool) -> Handling:
        slots = self._slots_of(method)

        async def work(context: ServerCall) -> Any:
            first = context.message_there()
            if first is None:
                first = await _read(context, self._first_message)
            slots.take()
            try:
                request = self._request(first, context, method, decode, streamed)
                replying = inner(request, context)
                del first, request  # the work may be long, and is to decide what it keeps
                return await replying
            finally:
                slots.give_back()
                if large_message.get():
                    self._trimmer.large_message()

        return work

    def _streamed_reply(self, inner: Behavior, method: str, decode: Decode, streamed: bool) -> Handling:
        slots = self._slots_of(method)

        async def work(context: ServerCall) -> None:
            first = context.message_there()
            if first is None:
                first = await _read(context, self._first_message)
            slots.take()
            try:
                request = self._request(first, context, method, decode, streamed)
                replies = inner(request, context)
                del first, request
                if not hasattr(replies, "__aiter__"):
                    await replies  # it writes by itself, as the health service's Watch does
                    return
                async with aclosing(replies):  # so that it ends at once when the caller goes away
                    async for reply in replies:
                        await context.write(reply)
                        del reply  # the next one may be long in coming
            finally:
                slots.give_back()

        return work

    def _slots_of(self, method: str) -> _Slots:
        return self._operators_slots if method.startswith(OPERATORS_SERVICES) else self._slots

    def _request(self, first: bytes | None, context: Context, method: str, decode: Decode, streamed: bool) -> Any:
        """Returns what the handler takes: the one message, or an iterator of all of them."""
        if streamed:
            return _Messages(
                first,
                lambda: _read(context, self._next_message),
                lambda data: self._decode(data, method, decode),
            )
        if first is None:
            raise ServiceError(Reason.UNDECODABLE_MESSAGE, "the call has no message; send one", {"method": method})
        return self._decode(first, method, decode)

    def _decode(self, data: bytes, method: str, decode: Decode) -> Any:
        self._note_size(len(data))
        if len(data) > self._max_message_bytes:
            raise ServiceError(
                Reason.MESSAGE_TOO_LARGE,
                f"the message has {len(data)} bytes and {self._max_message_bytes} are allowed (MAX_MESSAGE_BYTES); upload "
                "training data with UploadDataset, and send predictions in smaller batches or with PredictStream",
                {"limit_bytes": str(self._max_message_bytes)},
            )
        try:
            return decode(data)
        except DecodeError:
            raise ServiceError(
                Reason.UNDECODABLE_MESSAGE,
                "the message is not what the method takes; build it from the service's .proto files or by reflection",
                {"method": method},
            ) from None

    def _note_size(self, size: int) -> None:
        if size >= LARGE_BYTES:
            large_message.set(size)
            self._trimmer.large_message()
        elif large_message.get():
            large_message.set(0)


class _Silence:
    """Ends calls whose next message does not come in time.

    Args:
        seconds: How long a caller may be silent.
    """

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        self._deadlines = Deadlines(seconds, self._hang_up)
        self._hanging_up: set[asyncio.Task[None]] = set()
        self.begins, self.ends = self._deadlines.begins, self._deadlines.ends

    def _hang_up(self, context: Context) -> None:
        task = self._loop.create_task(_end_silent_call(context, self._seconds))
        self._hanging_up.add(task)
        task.add_done_callback(self._hanging_up.discard)


class _Slots:
    """Counts the calls at work."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0

    def take(self) -> None:
        """Takes a slot. Raises ServiceError TOO_MANY_CALLS if there is none."""
        if self._taken >= self._limit:
            raise ServiceError(
                Reason.TOO_MANY_CALLS,
                f"{self._taken} calls are at work and no more may be (MAX_CALLS); try again later",
                {"limit": str(self._limit)},
            )
        self._taken += 1

    def give_back(self) -> None:
        """Gives a slot back."""
        self._taken -= 1


class _Messages:
    """The messages of a stream, decoded one by one as they are asked for; none is kept.

    Args:
        first: The first message, which was read before the call was admitted; None if there is none.
        read: Returns the next message, None after the last.
        decode: Decodes a message.
    """

    def __init__(
        self, first: bytes | None, read: Callable[[], Awaitable[bytes | None]], decode: Callable[[bytes], Any]
    ) -> None:
        self._unread = [first]
        self._read = read
        self._decode = decode

    def __aiter__(self) -> _Messages:
        return self

    async def __anext__(self) -> Any:
        data = self._unread.pop() if self._unread else await self._read()
        if data is None:
            raise StopAsyncIteration
        return self._decode(data)


async def _read(context: Context, silence: _Silence) -> bytes | None:
    """Returns the next message of a call, None after the last. A caller who sends none in time loses the call.

    The call is ended, the read is not cancelled: so the caller is told why.
    """
    silence.begins(context)
    try:
        data = await context.read()  # raises AbortError if the call is ended meanwhile
    finally:
        silence.ends(context)
    return None if data is grpc.aio.EOF else data


def _guarded(work: Handling, method: str) -> Any:
    """Returns the behavior of a handler: errors of the work become the call's status. Any: it takes our context only."""

    async def behavior(_: object, context: ServerCall) -> Any:
        try:
            return await work(context)
        except ServiceError as error:
            failure = shortened(error)
        except (grpc.aio.AbortError, asyncio.CancelledError):
            raise
        except Exception as error:
            failure = internal(method, error)
        return await _abort(context, failure)

    return behavior


async def _abort(context: Context, error: ServiceError) -> NoReturn:
    """Ends a call with an error; never returns.

    To be called outside of `except`, with an error that was never raised: else AbortError has that error, and with it the
    frames of all that it came from, so a message that one of them holds would stay until the next full garbage collection.
    """
    status = status_of(error)
    await context.abort(code_of(error), status.message, ((DETAILS, status.SerializeToString()),))


def _end(call: ServerCall, error: ServiceError) -> None:
    """Ends a call with an error."""
    status = status_of(error)
    call.set_trailing_metadata(((DETAILS, status.SerializeToString()),))
    call.end(code_of(error), status.message)


async def _end_silent_call(context: Context, seconds: float) -> None:
    """Ends a call whose caller was silent for too long."""
    why = f"the service has waited {seconds:.0f} s for a message and ends the call; send it sooner"
    with suppress(grpc.aio.AbortError):
        await _abort(context, ServiceError(Reason.DEADLINE_EXCEEDED, why))
