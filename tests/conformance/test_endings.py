"""How calls end before their time, on either side, and that nothing of them goes on."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.conformance.callers import (
    AioCaller,
    Caller,
    Watch,
    aio_channel_to,
    channel_to,
    method,
    new_name,
)
from tests.conformance.conftest import Served, Start
from tests.conformance.messages import Ask, SimpleRequest, SimpleResponse
from tests.conformance.services import TEST_SERVICE
from tests.service_process import ROOT

pytestmark = pytest.mark.long

OK, UNAVAILABLE, CANCELLED = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED
DEADLINE_EXCEEDED = grpc.StatusCode.DEADLINE_EXCEEDED

NARROW = {"http2.bdp_probe": 0, "http2.lookahead_bytes": 2**16}
"""Options of a channel that takes no more than 64 KiB of a stream before it is read."""

CALLER = """
import sys, threading
from tests.conformance.callers import channel_to, method
from tests.conformance.messages import Ask, SimpleRequest, SimpleResponse
from tests.conformance.services import TEST_SERVICE

def messages():
    yield Ask(name=sys.argv[3])
    threading.Event().wait()

channel = channel_to(sys.argv[1])
lone = method(channel, "Hold").future(Ask(name=sys.argv[2], count=-1))
stream = method(channel, "HoldStream")(messages())
pour = method(channel, "Pour")(Ask(name=sys.argv[4], count=10_000, size=10_000))
print(next(stream), next(pour), flush=True)
threading.Event().wait()
"""
"""A program with a call at work, a stream and an answer that nobody reads."""


async def held(channel: grpc.aio.Channel, name: str, silent: bool = False) -> grpc.aio.StreamStreamCall[Any, Any]:
    """Returns a stream on which a message has been answered; the handler awaits the next one, or is silent for ever."""
    call = method(channel, "HoldStream")()
    await call.write(Ask(name=name, count=-1 if silent else 0))
    await call.read()
    return call  # type: ignore[no-any-return]  # chosen by name


@pytest.mark.parametrize("silent", [False, True], ids=["at its next message", "at work"])
async def test_a_stream_that_its_caller_cancels_ends(served: Served, watch: Watch, silent: bool) -> None:
    name = new_name()
    async with aio_channel_to(served.address) as channel:
        call = await held(channel, name, silent)
        await watch.until(name, "begun")
        call.cancel()
        await watch.until(name, "cancelled")
        assert await call.code() == CANCELLED
        assert await method(channel, "Hold")(Ask(name=new_name()), timeout=20)


async def test_a_lone_call_that_its_caller_cancels_ends(served: Served, watch: Watch) -> None:
    name = new_name()
    with channel_to(served.address) as channel:
        call = method(channel, "Hold").future(Ask(name=name, count=-1))  # type: ignore[attr-defined]  # chosen by name
        await watch.until(name, "begun")
        call.cancel()
        await watch.until(name, "cancelled")


async def test_a_stream_that_waits_for_its_caller_to_read_ends_when_it_is_cancelled(
    served: Served, watch: Watch
) -> None:
    name = new_name()
    with channel_to(served.address) as channel:
        call = method(channel, "Pour")(Ask(name=name, count=10_000, size=2**16))
        assert await watch.written_when_still(name) < 10_000
        call.cancel()
        await watch.until(name, "cancelled")


async def test_a_hundred_streams_cancelled_at_once_end_and_leave_the_others(served: Served, watch: Watch) -> None:
    names = [new_name() for _ in range(100)]
    async with aio_channel_to(served.address) as channel:
        calls = [await held(channel, name) for name in names]
        for call in calls[::2]:
            call.cancel()
        for name in names[::2]:
            await watch.until(name, "cancelled")
        for call in calls[1::2]:
            await call.write(Ask())
            await call.read()
            await call.done_writing()
        assert {await call.code() for call in calls[1::2]} == {OK}


@pytest.mark.parametrize("name", ["Hold", "HoldStream"])
async def test_a_call_whose_deadline_passes_ends_on_both_sides(caller: Caller, watch: Watch, name: str) -> None:
    call = new_name()
    ended = await caller.exchange(name, [Ask(name=call, count=-1)], timeout=0.5)
    assert ended.code == DEADLINE_EXCEEDED
    await watch.until(call, "cancelled")


async def test_calls_whose_connection_is_lost_end(served: Served, watch: Watch) -> None:
    names = [new_name() for _ in range(3)]
    program = [sys.executable, "-c", CALLER, served.address, *names]
    process = await asyncio.create_subprocess_exec(*program, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert await process.stdout.readline()
        for name in names:
            await watch.until(name, "begun")
    finally:
        process.kill()
        await process.wait()
    for name in names:
        await watch.until(name, "cancelled")


async def test_pings_are_answered_while_a_call_is_silent(start: Start) -> None:
    """The same call fails when the server hangs: so the client has been pinging."""
    server = start()
    pinging = {"keepalive_time_ms": 500, "keepalive_timeout_ms": 1000, "http2.max_pings_without_data": 0}
    pinging |= {"keepalive_permit_without_calls": 1, "http2.ping_timeout_ms": 1000}
    with channel_to(server.address, **pinging) as channel:
        hold = method(channel, "Hold").future  # type: ignore[attr-defined]  # chosen by name
        assert await asyncio.to_thread(hold(Ask(name="silent", count=4000)).result, 20)
        call = hold(Ask(name="hanging", count=4000))
        server.signal(signal.SIGSTOP)
        assert (await asyncio.to_thread(call.exception, 20)).code() == UNAVAILABLE


@asynccontextmanager
async def at_work(server: Served, milliseconds: int) -> AsyncIterator[tuple[Any, Any, AioCaller]]:
    """Yields a lone call and a stream that are at work, and a client with another connection that is open."""
    watch, another = Watch(server.address), AioCaller(server.address)
    async with aio_channel_to(server.address) as channel:
        lone = method(channel, "Hold")(Ask(name="lone", count=milliseconds))
        stream = await held(channel, "stream")
        await another.exchange("Hold", [Ask(name="open")])
        await watch.until("lone", "begun")
        watch.close()
        yield lone, stream, another
    await another.close()


async def until_refused(caller: AioCaller) -> grpc.StatusCode:
    """Returns the first status other than OK that a call gets."""
    while (ended := await caller.exchange("Hold", [Ask(name="new")], timeout=10)).code == OK:
        pass
    return ended.code


async def test_calls_at_work_finish_when_the_server_stops_and_new_ones_are_refused(start: Start) -> None:
    server = start(20.0)
    async with at_work(server, 3000) as (lone, stream, another):
        server.signal(signal.SIGTERM)
        assert await until_refused(another) == UNAVAILABLE
        assert not lone.done()
        assert await lone
        await stream.write(Ask())
        assert await stream.read()
        await stream.done_writing()
        assert await stream.code() == OK
        stopped = time.monotonic()
        assert await asyncio.to_thread(server.process.wait, 20) == 0
        assert time.monotonic() - stopped < 5  # it stops with the last call, not with the end of its grace


async def test_a_slow_reader_gets_all_of_its_answer_while_the_server_stops(start: Start) -> None:
    """The handler has finished when the server is told to stop, and what does not fit into the window is yet to be sent."""
    server = start(20.0)
    another = AioCaller(server.address)
    await another.exchange("Hold", [Ask(name="open")])
    with channel_to(server.address, **NARROW) as channel:
        ask = channel.unary_stream(
            f"/{TEST_SERVICE}/UnaryCall", SimpleRequest.SerializeToString, SimpleResponse.FromString
        )
        call = ask(SimpleRequest(response_size=5_000_000))
        call.initial_metadata()
        server.signal(signal.SIGTERM)
        await until_refused(another)
        assert [len(reply.payload.body) for reply in call] == [5_000_000]
        assert await asyncio.to_thread(server.process.wait, 20) == 0
    await another.close()


async def test_a_reader_who_takes_nothing_does_not_hold_up_the_stop(start: Start) -> None:
    server = start(1.0)
    with channel_to(server.address, **NARROW) as channel:
        calls = [method(channel, "Pour")(Ask(name=new_name(), count=count, size=2**16)) for count in (3, 1000)]
        for call in calls:
            next(call)
        begun = time.monotonic()
        server.signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.process.wait, 20) == 0
        assert time.monotonic() - begun < 8


async def test_calls_that_do_not_finish_in_the_grace_are_cut_off(start: Start) -> None:
    server = start(1.0)
    async with at_work(server, 60_000) as (lone, stream, _):
        begun = time.monotonic()
        server.signal(signal.SIGTERM)
        assert await lone.code() in (UNAVAILABLE, CANCELLED)
        assert await stream.code() in (UNAVAILABLE, CANCELLED)
        assert await asyncio.to_thread(server.process.wait, 20) == 0
        assert 1.0 <= time.monotonic() - begun < 8
