"""A service that answers as a test tells it to, over a real channel, and both clients behind one face."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Iterator
from concurrent import futures
from typing import Any, NoReturn, TypeVar

import fitserve
import grpc
from fitserve.v1 import (
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
    server_service_pb2_grpc,
    training_service_pb2_grpc,
)
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

# Takes a request, or an iterator of them; gives a reply, or an iterator of them. The types differ by method.
Handler = Callable[[Any, grpc.ServicerContext], Any]
Result = TypeVar("Result")


class FakeService:
    """A service on this machine, on a free port unless one is given.

    Attributes:
        target: Its address.
        handlers: From the name of a method to what answers it; a method without a handler is UNIMPLEMENTED.
        calls: The names of the methods called, in order.
    """

    def __init__(self, port: int = 0) -> None:
        self.handlers: dict[str, Handler] = {}
        self.calls: list[str] = []
        self._server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        for module, name in (
            (training_service_pb2_grpc, "TrainingService"),
            (model_service_pb2_grpc, "ModelService"),
            (prediction_service_pb2_grpc, "PredictionService"),
            (server_service_pb2_grpc, "ServerService"),
        ):
            getattr(module, f"add_{name}Servicer_to_server")(_Servicer(self), self._server)
        self.target = f"127.0.0.1:{self._server.add_insecure_port(f'127.0.0.1:{port}')}"
        self._server.start()

    def stop(self) -> None:
        """Ends all calls and closes the port."""
        self._server.stop(None).wait()


class _Servicer:
    """Has every method that is asked for."""

    def __init__(self, service: FakeService) -> None:
        self._service = service

    def __getattr__(self, method: str) -> Handler:
        def answer(request: object, context: grpc.ServicerContext) -> object:
            self._service.calls.append(method)
            handler = self._service.handlers.get(method)
            if handler is None:
                context.abort(grpc.StatusCode.UNIMPLEMENTED, f"the test has no handler for {method}")
            return handler(request, context)

        return answer


class Blocking:
    """Makes an AsyncClient or AsyncJob look like its synchronous sibling, on an event loop in a thread."""

    def __init__(self, inner: object, loop: asyncio.AbstractEventLoop) -> None:
        self._inner = inner
        self._loop = loop

    # What an attribute is depends on its name.
    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not inspect.isroutine(found):
            return found
        return lambda *args, **kwargs: self._plain(found(*args, **kwargs))

    def __repr__(self) -> str:
        return repr(self._inner)

    def _plain(self, result: object) -> object:
        if inspect.iscoroutine(result):
            return self._plain(run(self._loop, result))
        if inspect.isasyncgen(result):
            return self._iterate(result)
        if isinstance(result, fitserve.AsyncJob):
            return Blocking(result, self._loop)
        if isinstance(result, list):
            return [self._plain(item) for item in result]
        return result

    # An asynchronous generator of anything.
    def _iterate(self, source: Any) -> Iterator[object]:
        try:
            while True:
                try:
                    yield run(self._loop, anext(source))
                except StopAsyncIteration:
                    return
        finally:
            run(self._loop, source.aclose())


def run(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[object, object, Result]) -> Result:
    """Runs a coroutine on a loop of another thread."""

    async def whole() -> Result:
        return await coroutine

    return asyncio.run_coroutine_threadsafe(whole(), loop).result(timeout=30)


def abort(context: grpc.ServicerContext, status: status_pb2.Status) -> NoReturn:
    """Ends a call with a rich status."""
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    codes = {code.value[0]: code for code in grpc.StatusCode}
    context.abort(codes[status.code], status.message)


def rich_status(
    code: grpc.StatusCode, reason: str, message: str, *details: Message, **metadata: str
) -> status_pb2.Status:
    """Makes a status as the service does."""
    status = status_pb2.Status(code=code.value[0], message=message)
    info = error_details_pb2.ErrorInfo(reason=reason, domain="fitserve", metadata=metadata)
    for detail in (info, *details):
        status.details.add().Pack(detail)
    return status
