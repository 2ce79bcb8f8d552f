"""Passes calls on to the primary process, which has the one answer to everything but predictions of loaded versions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import grpc
import grpc.aio
from fitserve.v1 import model_service_pb2, prediction_service_pb2, server_service_pb2, training_service_pb2
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from tritonclient.grpc import service_pb2 as oip_pb2

from service.domain.errors import Reason, ServiceError
from service.rpc.boundary import Context
from service.rpc.caller import passed_on
from service.rpc.reflection import v1_reflection_service
from service.rpc.status import DOMAIN

STATUS_DETAILS = "grpc-status-details-bin"

CHANNEL_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
"""Of the channel to the primary process."""

STATUS_SECONDS = 1.0
"""How long the status of a call may take after a message to it could not be written."""

_WRITE_FAILED = "Internal error from Core"
"""What grpc.aio says then."""


class Relay:
    """Answers calls with what the primary process answers: messages, metadata, deadline, cancellation and status alike.

    Args:
        channel: Leads to the primary process.
        token: Shows it that this process belongs to it.
    """

    def __init__(self, channel: grpc.aio.Channel, token: str) -> None:
        self._channel = channel
        self._token = token

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """Returns the handlers of all methods that the primary has, by method; their messages are bytes."""
        return {
            f"/{service.full_name}/{method.name}": self._handler(f"/{service.full_name}/{method.name}", method)
            for service in _services()
            for method in service.methods
        }

    def _handler(self, name: str, method: MethodDescriptor) -> grpc.RpcMethodHandler[Any, Any]:
        if method.client_streaming and method.server_streaming:
            return grpc.stream_stream_rpc_method_handler(partial(self._streams, name), bytes, bytes)
        if method.client_streaming:
            return grpc.stream_unary_rpc_method_handler(partial(self._stream_in, name), bytes, bytes)
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(partial(self._stream_out, name), bytes, bytes)
        return grpc.unary_unary_rpc_method_handler(partial(self._lone, name), bytes, bytes)

    async def _lone(self, method: str, request: bytes, context: Context) -> bytes:
        call: Any = self._open(self._channel.unary_unary(method), context, request)
        try:
            reply: bytes = await call
            await _pass_trailers(call, context)
            return reply
        except grpc.aio.AioRpcError as error:
            end = _End.of(error)
        finally:
            call.cancel()
        return await end.abort(context)

    async def _stream_out(self, method: str, request: bytes, context: Context) -> AsyncIterator[bytes]:
        call: Any = self._open(self._channel.unary_stream(method), context, request)
        try:
            async for reply in call:
                yield reply
                del reply  # the next one may be long in coming
            await _pass_trailers(call, context)
            return
        except grpc.aio.AioRpcError as error:
            end = _End.of(error)
        finally:
            call.cancel()
        await end.abort(context)

    async def _stream_in(self, method: str, requests: AsyncIterator[bytes], context: Context) -> bytes:
        async with aclosing(self._streams(method, requests, context)) as replies:
            return await anext(replies)

    async def _streams(
        self, method: str, requests: AsyncIterator[bytes], context: Context
    ) -> AsyncGenerator[bytes, None]:
        call: Any = self._open(self._channel.stream_stream(method), context)
        ends = _Ends(call)
        sending = asyncio.get_running_loop().create_task(_send(requests, call))
        try:
            async for reply in call:
                yield reply
                del reply
            await _pass_trailers(call, context)
            return
        except grpc.aio.AioRpcError:
            end = await ends.true_one()
        except asyncio.CancelledError:
            if sending.done() and not sending.cancelled():
                await sending  # raises why the caller's messages have ended, which has cancelled the call
            raise
        finally:
            sending.cancel()
            call.cancel()
        await end.abort(context)

    def _open(self, method: Any, context: Context, *request: bytes) -> Any:
        """Begins a call to the primary. Any: grpcio's types do not know calls of bytes."""
        metadata = tuple(passed_on(context, self._token))
        return method(*request, timeout=context.time_remaining(), metadata=metadata)

    async def ask(self, method: str, request: Message, context: Context) -> list[bytes]:
        """Returns all that the primary answers to one message.

        Raises:
            ServiceError: What the primary has raised.
        """
        call: Any = self._open(self._channel.unary_stream(method), context, request.SerializeToString())
        try:
            return [reply async for reply in call]
        except grpc.aio.AioRpcError as error:
            failure = _raised(error)
        finally:
            call.cancel()
        raise failure


async def _pass_trailers(call: Any, context: Context) -> None:
    """Passes on what the primary says at the good end of a call. Any: grpcio's types do not know calls of bytes."""
    if trailers := await call.trailing_metadata():
        context.set_trailing_metadata(tuple(trailers))


@dataclass(frozen=True)
class _End:
    """The status of a call."""

    code: grpc.StatusCode
    details: str
    trailers: tuple[tuple[str, str | bytes], ...]

    @classmethod
    def of(cls, error: grpc.aio.AioRpcError) -> _End:
        """Returns the status that an error stands for."""
        return cls(error.code(), error.details() or "", tuple(error.trailing_metadata() or ()))

    async def abort(self, context: Context) -> NoReturn:
        """Ends a caller's call so. To be called outside of `except`; see `boundary`."""
        await context.abort(self.code, self.details, self.trailers)


class _Ends:
    """The statuses that grpc.aio gives to one call.

    A message that is written when the other side has just ended the call fails, and then the call has the status INTERNAL,
    before or after the one that the other side has sent.
    """

    def __init__(self, call: Any) -> None:
        self._call = call
        self._first: asyncio.Future[_End] = asyncio.get_running_loop().create_future()
        self._last: _End | None = None
        call.add_done_callback(self._note)

    def _note(self, _: object) -> None:
        self._last = _End(
            _at_once(self._call.code()),
            _at_once(self._call.details()) or "",
            tuple(_at_once(self._call.trailing_metadata()) or ()),
        )
        if self._last.details != _WRITE_FAILED and not self._first.done():
            self._first.set_result(self._last)

    async def true_one(self) -> _End:
        """Returns the status that the other side has sent; the last one if none comes."""
        await asyncio.wait([self._first], timeout=STATUS_SECONDS)
        if self._first.done() or self._last is None:
            return await self._first
        return self._last


def _at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Returns what a coroutine returns that has nothing to wait for. Any: of whatever type."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    coroutine.close()
    raise AssertionError("the call has not ended")


async def _send(requests: AsyncIterator[bytes], call: Any) -> None:
    """Passes on the caller's messages, then that there are no more. If they end badly, the call is cancelled."""
    try:
        async for request in requests:
            await call.write(request)
            del request  # the next one may be long in coming
        await call.done_writing()
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        pass  # the call has ended, and its status says why
    except BaseException:
        call.cancel()
        raise


def _services() -> Iterator[ServiceDescriptor]:
    """Yields the services that the primary has."""
    files = (
        model_service_pb2,
        prediction_service_pb2,
        server_service_pb2,
        training_service_pb2,
        oip_pb2,
        health_pb2,
        reflection_pb2,
    )
    for file in files:
        yield from file.DESCRIPTOR.services_by_name.values()
    yield v1_reflection_service()


def _raised(error: grpc.aio.AioRpcError) -> ServiceError:
    """Returns the error that a status was made of."""
    for key, value in error.trailing_metadata() or ():
        if key != STATUS_DETAILS or not isinstance(value, bytes):
            continue
        status = status_pb2.Status.FromString(value)
        info = error_details_pb2.ErrorInfo()
        for detail in status.details:
            if detail.Is(info.DESCRIPTOR) and detail.Unpack(info) and info.domain == DOMAIN:
                return ServiceError(Reason(info.reason), status.message, dict(info.metadata))
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return ServiceError(Reason.DEADLINE_EXCEEDED, "the deadline of the call has passed")
    return ServiceError(Reason.DRAINING, "the service is stopping; call another one, or again when it is back")
