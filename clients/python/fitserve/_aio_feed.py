"""Requests for grpc.aio's sending task, and the true reason why a call that takes a stream of them ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Coroutine, Iterable
from typing import Any, NoReturn, TypeVar

import grpc

from fitserve import errors

_Item = TypeVar("_Item")


class Feed(AsyncIterator[_Item]):
    """Requests for the sending task. What the caller's data raises there ends the call, and is kept."""

    def __init__(self, items: AsyncIterator[_Item]) -> None:
        self._items = items
        self._error: Exception | None = None
        self._status: errors.FitServeError | None = None

    async def __anext__(self) -> _Item:
        """Returns the next request."""
        try:
            return await anext(self._items)
        except StopAsyncIteration:
            raise
        except Exception as error:
            self._error = error
            raise

    # A call of any requests and replies.
    def note_status(self, call: grpc.aio.Call[Any, Any]) -> None:
        """Keeps the status with which the service ended the call; a callback for when the call is done.

        When the service ends a call while the client still sends, the write that fails makes grpc.aio replace the
        service's status by an INTERNAL of its own (https://github.com/grpc/grpc/issues/36066).
        """
        code = _at_once(call.code())
        if code is not grpc.StatusCode.OK:
            self._status = errors.from_call(code, _at_once(call.details()), _at_once(call.trailing_metadata()))

    def raise_cause(self, error: BaseException) -> NoReturn:
        """Raises what ended the call: its task's cancellation, the caller's data, or else the service's status."""
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            raise error
        if self._error is not None:
            raise self._error from None
        if isinstance(error, grpc.RpcError):
            raise self._status or errors.from_rpc_error(error) from error
        raise error


# Whatever the coroutine waits for.
def _at_once(ready: Coroutine[Any, Any, _Item]) -> _Item:
    """Returns the result of a coroutine that has nothing left to wait for, as those of a call that is done."""
    try:
        ready.send(None)
    except StopIteration as stop:
        result: _Item = stop.value
        return result
    ready.close()
    raise RuntimeError("the call is not done")


async def each(items: Iterable[_Item] | AsyncIterable[_Item]) -> AsyncIterator[_Item]:
    """Yields the items of an iterable, asynchronous or not."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
