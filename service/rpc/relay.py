"""Passes calls on to the primary process, which has the one answer to everything but predictions of loaded versions."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from service.domain.errors import Reason, ServiceError
from service.memory import Trimmer
from service.rpc.boundary import LARGE_BYTES, Context
from service.rpc.caller import passed_on
from service.rpc.status import DOMAIN

STATUS_DETAILS = "grpc-status-details-bin"

CHANNEL_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
"""Of the channel to the primary process."""


class Relay(grpc.GenericRpcHandler):
    """Answers each call with what the primary process answers.

    The wire does not tell a lone message from a stream, so all methods are passed on as streams of bytes:
    messages, metadata, deadline, cancellation and status as they come.

    Args:
        channel: Leads to the primary process.
        token: Shows it that this process belongs to it.
    """

    def __init__(self, channel: grpc.aio.Channel, token: str) -> None:
        self._channel = channel
        self._token = token
        self._trimmer = Trimmer()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        """Returns the handler of any method."""
        method = handler_call_details.method

        async def behavior(_: object, context: Context) -> None:
            await self.pass_on(context, method)

        return grpc.stream_stream_rpc_method_handler(behavior)

    async def pass_on(self, context: Context, method: str) -> None:
        """Passes on a call. Any: grpcio's types do not know calls of bytes."""
        call: Any = self._channel.stream_stream(method)(
            timeout=context.time_remaining(), metadata=tuple(passed_on(context, self._token))
        )
        sending = asyncio.get_running_loop().create_task(self._send(context, call))
        try:
            failure = await self._answer(context, call)
        finally:
            sending.cancel()
            call.cancel()
        if failure is not None:
            await context.abort(failure.code(), failure.details() or "", failure.trailing_metadata() or ())

    async def _send(self, context: Context, call: Any) -> None:
        """Passes on the caller's messages, then that there are no more."""
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the call has ended, whose status says why
            while (message := await context.read()) is not grpc.aio.EOF:
                self._note_size(message)
                await call.write(message)
                del message  # the next one may be long in coming
            await call.done_writing()

    async def _answer(self, context: Context, call: Any) -> grpc.aio.AioRpcError | None:
        """Passes on the primary's messages; returns the error with which it ends the call."""
        try:
            while (reply := await call.read()) is not grpc.aio.EOF:
                self._note_size(reply)
                await context.write(reply)
                del reply  # the next one may be long in coming
        except grpc.aio.AioRpcError as error:
            return error
        context.set_trailing_metadata(await call.trailing_metadata() or ())
        return None

    def _note_size(self, message: bytes) -> None:
        if len(message) >= LARGE_BYTES:
            self._trimmer.large_message()

    async def ask(self, method: str, request: Message, context: Context) -> list[bytes]:
        """Returns all that the primary answers to one message.

        Raises:
            ServiceError: What the primary has raised.
        """
        open_call: Any = self._channel.unary_stream(method)  # Any: as above
        call = open_call(
            request.SerializeToString(),
            timeout=context.time_remaining(),
            metadata=tuple(passed_on(context, self._token)),
        )
        try:
            return [reply async for reply in call]
        except grpc.aio.AioRpcError as error:
            failure = _raised(error)
        finally:
            call.cancel()
        raise failure


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
