"""What the server under test serves: the TestService of gRPC's interoperability tests, and a probe of our own."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from service.rpc.boundary import Methods
from tests.conformance.messages import (
    Answer,
    Ask,
    Empty,
    Payload,
    SimpleRequest,
    SimpleResponse,
    StreamingInputCallRequest,
    StreamingInputCallResponse,
    StreamingOutputCallRequest,
    StreamingOutputCallResponse,
)

TEST_SERVICE = "grpc.testing.TestService"
PROBE = "conformance.Probe"
KINDS: dict[str, Callable[..., Any]] = {
    "unary_unary": grpc.unary_unary_rpc_method_handler,
    "stream_unary": grpc.stream_unary_rpc_method_handler,
    "unary_stream": grpc.unary_stream_rpc_method_handler,
    "stream_stream": grpc.stream_stream_rpc_method_handler,
}
CODES = {code.value[0]: code for code in grpc.StatusCode}

# Any, in all of this module: the messages are made at run time.


async def _echo_metadata(context: Any) -> None:
    """Sends back what gRPC's test cases want to see again, before and after the messages."""
    came = context.invocation_metadata()
    if initial := [pair for pair in came if pair[0] == "x-grpc-test-echo-initial"]:
        await context.send_initial_metadata(initial)
    context.set_trailing_metadata([pair for pair in came if pair[0] == "x-grpc-test-echo-trailing-bin"])


async def _refuse_if_asked(request: Any, context: Any) -> None:
    status = request.response_status
    if status.code:
        await context.abort(CODES[status.code], status.message)


async def _outputs(request: Any) -> AsyncIterator[Any]:
    for wanted in request.response_parameters:
        await asyncio.sleep(wanted.interval_us / 1e6)
        yield StreamingOutputCallResponse(payload=Payload(body=bytes(wanted.size)))


class TestService:
    """As gRPC's "Interoperability Test Case Descriptions" have it."""

    __test__ = False  # pytest takes it for a class of tests

    async def empty_call(self, request: Any, context: Any) -> Any:
        return request

    async def unary_call(self, request: Any, context: Any) -> Any:
        await _echo_metadata(context)
        await _refuse_if_asked(request, context)
        server = "the only one" if request.fill_server_id else ""
        return SimpleResponse(payload=Payload(body=bytes(request.response_size)), server_id=server)

    async def streaming_output_call(self, request: Any, context: Any) -> AsyncIterator[Any]:
        async for output in _outputs(request):
            yield output

    async def streaming_input_call(self, requests: AsyncIterator[Any], context: Any) -> Any:
        sizes = [len(request.payload.body) async for request in requests]
        return StreamingInputCallResponse(aggregated_payload_size=sum(sizes))

    async def full_duplex_call(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        await _echo_metadata(context)
        async for request in requests:
            await _refuse_if_asked(request, context)
            async for output in _outputs(request):
                yield output

    async def half_duplex_call(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        for request in [request async for request in requests]:
            async for output in _outputs(request):
                yield output

    def methods(self) -> dict[str, tuple[str, Callable[..., Any], Any]]:
        """Returns kind, behavior and the type of requests of each method."""
        return {
            "EmptyCall": ("unary_unary", self.empty_call, Empty),
            "UnaryCall": ("unary_unary", self.unary_call, SimpleRequest),
            "StreamingOutputCall": ("unary_stream", self.streaming_output_call, StreamingOutputCallRequest),
            "StreamingInputCall": ("stream_unary", self.streaming_input_call, StreamingInputCallRequest),
            "FullDuplexCall": ("stream_stream", self.full_duplex_call, StreamingOutputCallRequest),
            "HalfDuplexCall": ("stream_stream", self.half_duplex_call, StreamingOutputCallRequest),
        }


class Probe:
    """Does what a test needs, and tells how the calls of others have ended."""

    def __init__(self) -> None:
        self._calls: dict[str, str] = {}
        self._written: Counter[str] = Counter()
        self._here: Counter[str] = Counter()
        self._all_here: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    @contextmanager
    def _noted(self, name: str) -> Iterator[None]:
        """Notes how a call ends that its caller has given a name."""
        self._calls[name] = "begun"
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):  # the latter ends a generator that waits for nothing
            self._calls[name] = "cancelled"
            raise
        self._calls[name] = "finished"

    async def calls(self, request: Any, context: Any) -> Any:
        """Answers how far the calls are that have a name, and how many messages each has written."""
        return Answer(text=json.dumps({"calls": self._calls, "written": self._written}))

    async def metadata(self, request: Any, context: Any) -> Any:
        """Answers with the metadata that came, values in hexadecimal digits; those with `echo` in the key come back."""
        came = [(key, value) for key, value in context.invocation_metadata()]
        context.set_trailing_metadata(tuple((key, value) for key, value in came if "echo" in key))
        shown = [(key, (value.encode() if isinstance(value, str) else value).hex()) for key, value in came]
        return Answer(text=json.dumps(shown), padding=bytes(request.size))

    async def meet(self, request: Any, context: Any) -> Any:
        """Answers when as many calls of one name as `count` are here."""
        self._here[request.name] += 1
        if self._here[request.name] == request.count:
            self._all_here[request.name].set()
        await self._all_here[request.name].wait()
        return Answer()

    async def hold(self, request: Any, context: Any) -> Any:
        """Answers after `count` milliseconds; with a negative one never."""
        with self._noted(request.name):
            await asyncio.sleep(request.count / 1e3 if request.count >= 0 else 3600)
        return Answer()

    async def hold_stream(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """Answers each message, but those with a negative `count` never."""
        first = await anext(requests)
        with self._noted(first.name):
            yield Answer()
            if first.count < 0:
                await asyncio.sleep(3600)
            async for _ in requests:
                yield Answer()

    async def pour(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """Answers with `count` messages of `size` bytes, as fast as they are taken."""
        with self._noted(request.name):
            for _ in range(request.count):
                yield Answer(padding=bytes(request.size))
                self._written[request.name] += 1

    async def answer_early(self, requests: AsyncIterator[Any], context: Any) -> Any:
        """Answers after the first message, however many follow."""
        return Answer(text=(await anext(requests)).name)

    async def refuse_early(self, requests: AsyncIterator[Any], context: Any) -> Any:
        """Refuses after the first message."""
        first = await anext(requests)
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, first.name)

    async def refuse_stream_early(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """Refuses after the first message and an answer to it."""
        first = await anext(requests)
        yield Answer(text=first.name)
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, first.name)

    def methods(self) -> dict[str, tuple[str, Callable[..., Any], Any]]:
        """Returns kind, behavior and the type of requests of each method."""
        return {
            "Calls": ("unary_unary", self.calls, Ask),
            "Metadata": ("unary_unary", self.metadata, Ask),
            "Meet": ("unary_unary", self.meet, Ask),
            "Hold": ("unary_unary", self.hold, Ask),
            "HoldStream": ("stream_stream", self.hold_stream, Ask),
            "Pour": ("unary_stream", self.pour, Ask),
            "AnswerEarly": ("stream_unary", self.answer_early, Ask),
            "RefuseEarly": ("stream_unary", self.refuse_early, Ask),
            "RefuseStreamEarly": ("stream_stream", self.refuse_stream_early, Ask),
        }


def all_methods() -> Methods:
    """Returns the handlers of both services. To be called while a loop runs."""
    methods = Methods()
    for service, listed in ((TEST_SERVICE, TestService().methods()), (PROBE, Probe().methods())):
        methods.add_registered_method_handlers(
            service,
            {
                name: KINDS[kind](behavior, request.FromString, lambda reply: reply.SerializeToString())
                for name, (kind, behavior, request) in listed.items()
            },
        )
    return methods
