"""Sends a stream of requests over grpc.aio, and finds out why the call ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Coroutine, Iterable
from contextlib import aclosing
from typing import Any, Generic, NoReturn, TypeAlias, TypeVar

import grpc

from fitserve import errors

_Item = TypeVar("_Item")
_Request = TypeVar("_Request")
# The replies are the receiver's business.
_Call: TypeAlias = grpc.aio.StreamUnaryCall[_Request, Any] | grpc.aio.StreamStreamCall[_Request, Any]

_HIDDEN = "Internal error from Core"


class Sender(Generic[_Request]):
    """A task that writes requests to a call. What the caller's data raises there ends the call, and is kept.

    gRPC's own sending task would be left behind, waiting for the caller's data, when the service ends the call.
    """

    def __init__(self, call: _Call[_Request], requests: AsyncGenerator[_Request, None]) -> None:
        """Starts to send."""
        self._call = call
        self._error: Exception | None = None
        self._status: errors.FitServeError | None = None
        call.add_done_callback(self._note_status)
        self._task = asyncio.create_task(self._send(requests))

    async def close(self) -> None:
        """Ends the call if it has not ended, and the sending."""
        self._call.cancel()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def raise_cause(self, error: BaseException) -> NoReturn:
        """Raises what ended the call: its task's cancellation, the caller's data, or else the service's status."""
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            raise error
        if self._error is not None:
            raise self._error from None
        if isinstance(error, grpc.RpcError):
            told = errors.from_rpc_error(error)
            raise (self._status if self._status and told.message == _HIDDEN else told) from error
        raise error

    async def _send(self, requests: AsyncGenerator[_Request, None]) -> None:
        try:
            async with aclosing(requests):
                async for request in requests:
                    if not await self._done(self._call.write(request)):
                        return
            await self._done(self._call.done_writing())
        except Exception as error:
            self._error = error
            self._call.cancel()

    @staticmethod
    async def _done(operation: Awaitable[None]) -> bool:
        try:
            await operation
        except (grpc.RpcError, asyncio.InvalidStateError):
            # The call has ended, which its receiver sees too.
            return False
        return True

    def _note_status(self, call: _Call[_Request]) -> None:
        # When the service ends a call while a write is under way, the write that fails makes grpc.aio overwrite the
        # service's status with an INTERNAL of its own (https://github.com/grpc/grpc/issues/36066). If the service's
        # status came first, it is still there now.
        code = _at_once(call.code())
        if code is not grpc.StatusCode.OK:
            self._status = errors.from_call(code, _at_once(call.details()), _at_once(call.trailing_metadata()))


# Whatever the coroutine waits for.
def _at_once(ready: Coroutine[Any, Any, _Item]) -> _Item:
    """Returns the result of a coroutine that has nothing left to wait for, as those of a call that has ended."""
    try:
        ready.send(None)
    except StopIteration as stop:
        result: _Item = stop.value
        return result
    ready.close()
    raise RuntimeError("the call has not ended")


async def each(items: Iterable[_Item] | AsyncIterable[_Item]) -> AsyncGenerator[_Item, None]:
    """Yields the items of an iterable, asynchronous or not."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
