"""The outer interceptor: every call is read, decoded, admitted and ended here.

grpc.aio sends the text of exceptions and of undecodable messages to the caller as UNKNOWN, and a caller who opens calls
without sending anything holds its slots for ever. So methods with one request are served through the handler for
streamed requests: the message is read with a time-out, decoded here, and counted only from then on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, NoReturn

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from service.domain.errors import Reason, ServiceError
from service.rpc.status import code_of, internal, shortened, status_of

READ_SECONDS = 30.0
"""How long a caller may take to send the message of a call with one request."""

Context = grpc.aio.ServicerContext[Any, Any]  # Any: the messages differ from method to method
Behavior = Callable[[Any, Context], Any]
Decode = Callable[[bytes], Any]


class Boundary(grpc.aio.ServerInterceptor):
    """Wraps the handlers of all methods.

    Args:
        max_calls: The most calls at work at one time.
        max_message_bytes: The largest message.
        read_seconds: How long a caller may take to send a lone request.
    """

    def __init__(self, max_calls: int, max_message_bytes: int, read_seconds: float = READ_SECONDS) -> None:
        self._max_calls = max_calls
        self._max_message_bytes = max_message_bytes
        self._read_seconds = read_seconds
        self._calls = 0
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Returns the wrapped handler of the method that is called."""
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return handler  # gRPC answers UNIMPLEMENTED
            wrapped = self._wrapped[method] = self._wrap(handler, method)
        return wrapped

    def _wrap(self, handler: Any, method: str) -> grpc.RpcMethodHandler[Any, Any]:
        """Returns a handler that takes bytes; Any: grpcio's type stubs do not know a handler's attributes."""
        decode = handler.request_deserializer
        encode = handler.response_serializer
        if handler.response_streaming:
            inner = handler.stream_stream if handler.request_streaming else handler.unary_stream
            behavior = self._streamed_reply(inner, method, decode, handler.request_streaming)
            return grpc.stream_stream_rpc_method_handler(behavior, None, encode)
        inner = handler.stream_unary if handler.request_streaming else handler.unary_unary
        behavior = self._lone_reply(inner, method, decode, handler.request_streaming)
        return grpc.stream_unary_rpc_method_handler(behavior, None, encode)

    def _lone_reply(self, inner: Behavior, method: str, decode: Decode, streamed: bool) -> Behavior:
        async def lone(messages: AsyncIterator[bytes], context: Context) -> Any:
            data = await self._read(messages, method)
            with self._slot():
                return await inner(self._decode(data, method, decode), context)

        async def behavior(messages: AsyncIterator[bytes], context: Context) -> Any:
            try:
                if streamed:
                    with self._slot():
                        return await inner(self._decoded(messages, method, decode), context)
                return await lone(messages, context)
            except ServiceError as error:
                failure = shortened(error)
            except (grpc.aio.AbortError, asyncio.CancelledError):
                raise
            except Exception:
                failure = internal(method)
            return await _abort(context, failure)

        return behavior

    def _streamed_reply(self, inner: Behavior, method: str, decode: Decode, streamed: bool) -> Behavior:
        async def reply_all(messages: AsyncIterator[bytes], context: Context) -> None:
            data = None if streamed else await self._read(messages, method)
            with self._slot():
                decoded = self._decoded(messages, method, decode)
                request = decoded if data is None else self._decode(data, method, decode)
                replies = inner(request, context)
                if not hasattr(replies, "__aiter__"):
                    await replies  # it writes by itself, as the health service's Watch does
                    return
                async with aclosing(replies):  # so that it ends at once when the caller goes away
                    async for reply in replies:
                        await context.write(reply)

        async def behavior(messages: AsyncIterator[bytes], context: Context) -> None:
            try:
                await reply_all(messages, context)
                return
            except ServiceError as error:
                failure = shortened(error)
            except (grpc.aio.AbortError, asyncio.CancelledError):
                raise
            except Exception:
                failure = internal(method)
            await _abort(context, failure)

        return behavior

    async def _read(self, messages: AsyncIterator[bytes], method: str) -> bytes:
        """Returns the one message of a call. A caller who sends none in time loses the call."""
        task = asyncio.current_task()
        assert task is not None
        # CancelledError must leave this function: swallowing it in a read leaks memory in grpcio.
        timer = asyncio.get_running_loop().call_later(self._read_seconds, task.cancel)
        try:
            return await anext(messages)
        except StopAsyncIteration:
            raise ServiceError(
                Reason.UNDECODABLE_MESSAGE, "the call has no message; send one", {"method": method}
            ) from None
        finally:
            timer.cancel()

    async def _decoded(self, messages: AsyncIterator[bytes], method: str, decode: Decode) -> AsyncIterator[Any]:
        async for data in messages:
            yield self._decode(data, method, decode)

    def _decode(self, data: bytes, method: str, decode: Decode) -> Any:
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

    @contextmanager
    def _slot(self) -> Iterator[None]:
        if self._calls >= self._max_calls:
            raise ServiceError(
                Reason.TOO_MANY_CALLS,
                f"{self._calls} calls are at work and no more may be (MAX_CALLS); try again later",
                {"limit": str(self._max_calls)},
            )
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1


async def _abort(context: Context, error: ServiceError) -> NoReturn:
    """Ends a call with an error; never returns.

    To be called outside of `except`, with an error that was never raised: grpcio's context keeps the AbortError, and with
    it the frames of all that it came from, so a message that one of them holds would stay until the next full garbage
    collection.
    """
    status = status_of(error)
    await context.abort(code_of(error), status.message, (("grpc-status-details-bin", status.SerializeToString()),))
