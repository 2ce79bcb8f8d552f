"""The boundary between gRPC and the service, around handlers of the tests' own: who may call, and for how long."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2

from service.http2.server import Keepalive, Server
from service.rpc import uploads
from service.rpc.boundary import LARGE_BYTES, Boundary, Methods, large_message

Message = health_pb2.HealthCheckRequest  # with one text field
SERVICE = "test.Echo"
SECONDS = 0.5

SILENT_CALLER = """
import sys, threading, grpc
from grpc_health.v1 import health_pb2

def messages():
    yield health_pb2.HealthCheckRequest(service="a")
    threading.Event().wait()

echo = grpc.insecure_channel(sys.argv[1]).stream_stream(
    "/test.Echo/Echo",
    health_pb2.HealthCheckRequest.SerializeToString,
    health_pb2.HealthCheckRequest.FromString,
)
answers = echo(messages())
print(next(answers).service, flush=True)
threading.Event().wait()
"""
"""A program with a stream on which it has sent one message."""


class Handlers:
    """One method of each kind; they answer at once, or hold on while `hold` is clear."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.echo_ended = asyncio.Event()
        self.sizes: list[int] = []
        self.arrived = asyncio.Semaphore(0)
        self.address = ""

    async def lone(self, request: Message, context: Any) -> Message:
        self.sizes.append(large_message.get())
        self.arrived.release()
        await self.go_on.wait()
        return request

    async def collect(self, messages: AsyncIterator[Message], context: Any) -> Message:
        return Message(service=",".join([message.service async for message in messages]))

    async def echo(self, messages: AsyncIterator[Message], context: Any) -> AsyncIterator[Message]:
        try:
            async for message in messages:
                self.sizes.append(large_message.get())
                yield message
        finally:
            self.echo_ended.set()

    async def repeat(self, request: Message, context: Any) -> AsyncIterator[Message]:
        yield request
        yield request


def handler_of(make: Callable[..., Any], behavior: Callable[..., Any]) -> Any:
    return make(behavior, Message.FromString, Message.SerializeToString)


@asynccontextmanager
async def serving(handlers: Handlers, service: str = SERVICE, **limits: Any) -> AsyncIterator[grpc.aio.Channel]:
    """Yields a channel to a server of these handlers, which pings its callers every second."""
    behaviors = {
        "Lone": handler_of(grpc.unary_unary_rpc_method_handler, handlers.lone),
        "Collect": handler_of(grpc.stream_unary_rpc_method_handler, handlers.collect),
        "Echo": handler_of(grpc.stream_stream_rpc_method_handler, handlers.echo),
        "Repeat": handler_of(grpc.unary_stream_rpc_method_handler, handlers.repeat),
    }
    methods = Methods()
    for name in (SERVICE, service):
        methods.add_registered_method_handlers(name, behaviors)
    boundary = Boundary(methods.handlers, **({"max_calls": 1, "max_message_bytes": 2**20} | limits))
    server = Server(boundary, 2**22, keepalive=Keepalive(1.0, 3.0))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    handlers.address = f"127.0.0.1:{port}"
    async with grpc.aio.insecure_channel(handlers.address) as channel:
        yield channel
    await server.stop(None)


def stream(channel: grpc.aio.Channel, method: str, service: str = SERVICE) -> Any:
    """Starts a call whose messages the test sends itself, whatever kind the method is of."""
    call = channel.stream_stream(f"/{service}/{method}", Message.SerializeToString, Message.FromString)
    return call(timeout=20)


def lone(channel: grpc.aio.Channel, text: str, service: str = SERVICE) -> Any:
    call = channel.unary_unary(f"/{service}/Lone", Message.SerializeToString, Message.FromString)
    return call(Message(service=text), timeout=20)


@pytest.mark.parametrize("method", ["Lone", "Collect", "Echo", "Repeat"])
async def test_a_caller_who_sends_nothing_is_told_that_it_waited_too_long(method: str) -> None:
    async with serving(Handlers(), first_message_seconds=SECONDS) as channel:
        call = stream(channel, method)
        assert await call.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert "waited" in await call.details()
        assert b"DEADLINE_EXCEEDED" in dict(await call.trailing_metadata())["grpc-status-details-bin"]


@pytest.mark.parametrize("method", ["Lone", "Collect", "Echo", "Repeat"])
async def test_callers_who_send_nothing_take_no_slots(method: str) -> None:
    async with serving(Handlers(), max_calls=1) as channel:
        silent = [stream(channel, method) for _ in range(5)]
        await asyncio.gather(*(call.wait_for_connection() for call in silent))
        assert (await lone(channel, "a")).service == "a"
        await silent[0].write(Message(service="b"))
        await silent[0].done_writing()
        assert (await silent[0].read()).service == "b"


async def test_a_stream_takes_a_slot_with_its_first_message_and_gives_it_back_at_its_end() -> None:
    async with serving(Handlers(), max_calls=1) as channel:
        call = stream(channel, "Echo")
        await call.write(Message(service="a"))
        assert (await call.read()).service == "a"
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await lone(channel, "b")
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        await call.done_writing()
        assert await call.code() == grpc.StatusCode.OK
        assert (await lone(channel, "b")).service == "b"


class Uploads(Handlers):
    """Takes only uploads whose callers go on."""

    async def collect(self, messages: AsyncIterator[Message], context: Any) -> Message:
        return await super().collect(uploads.without_silence(messages), context)


async def test_an_upload_that_falls_silent_is_told_why_and_gives_its_slot_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(Uploads(), max_calls=1) as channel:
        whole = stream(channel, "Collect")
        for text in "ab":
            await whole.write(Message(service=text))
        await whole.done_writing()
        assert (await whole.read()).service == "a,b"
        monkeypatch.setattr(uploads, "SILENCE_SECONDS", SECONDS)
        silent = stream(channel, "Collect")
        await silent.write(Message(service="a"))
        assert await silent.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert "send it sooner" in await silent.details()
        assert (await lone(channel, "next")).service == "next"


async def test_a_stream_that_falls_silent_ends_and_gives_its_slot_back() -> None:
    async with serving(Handlers(), max_calls=1, next_message_seconds=SECONDS) as channel:
        call = stream(channel, "Echo")
        await call.write(Message(service="a"))
        assert (await call.read()).service == "a"
        assert await call.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert (await lone(channel, "b")).service == "b"


async def test_a_stream_whose_caller_hangs_ends_and_gives_its_slot_back() -> None:
    """As that of a machine which is gone would; one that is only silent for as long goes on."""
    handlers = Handlers()
    async with serving(handlers, max_calls=2) as channel:
        silent = stream(channel, "Echo")
        await silent.write(Message(service="a"))
        await silent.read()
        caller = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SILENT_CALLER, handlers.address, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert caller.stdout is not None
            await caller.stdout.readline()
            caller.send_signal(signal.SIGSTOP)
            await asyncio.wait_for(handlers.echo_ended.wait(), 20)
        finally:
            caller.kill()
            await caller.wait()
        assert (await lone(channel, "b")).service == "b"
        await silent.write(Message(service="c"))
        assert (await silent.read()).service == "c"


async def test_a_call_that_is_at_work_for_longer_than_a_caller_may_be_silent_goes_on() -> None:
    handlers = Handlers()
    handlers.go_on.clear()
    async with serving(handlers, first_message_seconds=SECONDS, next_message_seconds=SECONDS) as channel:
        call = lone(channel, "a")
        await asyncio.sleep(2 * SECONDS)  # the passing of this time is what the test is about
        handlers.go_on.set()
        assert (await call).service == "a"


@pytest.mark.parametrize("service", ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"])
async def test_operators_calls_have_slots_of_their_own_and_these_are_bounded_too(service: str) -> None:
    handlers = Handlers()
    handlers.go_on.clear()
    async with serving(handlers, service, max_calls=1) as channel:
        busy = [lone(channel, "a"), lone(channel, "b", service)]
        for _ in busy:
            await handlers.arrived.acquire()
        for name in (SERVICE, service):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await lone(channel, "c", name)
            assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        handlers.go_on.set()
        assert [(await call).service for call in busy] == ["a", "b"]


async def test_a_handler_can_ask_whether_the_message_is_large() -> None:
    handlers = Handlers()
    small, large = Message(service="a"), Message(service="a" * LARGE_BYTES)
    async with serving(handlers) as channel:
        await lone(channel, large.service)
        await lone(channel, "a")
        call = stream(channel, "Echo")
        for message in (small, large, small):
            await call.write(message)
            await call.read()
        call.cancel()
    size = large.ByteSize()
    assert handlers.sizes == [size, 0, 0, size, 0]


async def test_messages_of_a_stream_come_in_order_and_the_first_is_one_of_them() -> None:
    async with serving(Handlers()) as channel:
        call = stream(channel, "Collect")
        for text in "abc":
            await call.write(Message(service=text))
        await call.done_writing()
        assert (await call.read()).service == "a,b,c"


async def test_a_stream_without_messages_is_the_handlers_business_and_a_lone_call_without_one_is_refused() -> None:
    async with serving(Handlers()) as channel:
        empty = stream(channel, "Collect")
        await empty.done_writing()
        assert (await empty.read()).service == ""
        none = stream(channel, "Lone")
        await none.done_writing()
        assert await none.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_message_that_comes_compressed_is_unpacked() -> None:
    async with serving(Handlers()) as channel:
        method = channel.unary_unary(f"/{SERVICE}/Lone", Message.SerializeToString, Message.FromString)
        text = "packed" * 1000  # a short one is sent as it is
        assert (await method(Message(service=text), timeout=20, compression=grpc.Compression.Gzip)).service == text
