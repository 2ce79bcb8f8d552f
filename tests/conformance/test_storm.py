"""Callers who come and go as they like, and such as speak no HTTP/2 at all."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.conformance.callers import AioCaller, Watch, aio_channel_to, method, new_name
from tests.conformance.conftest import Served
from tests.conformance.messages import Ask

pytestmark = pytest.mark.long

ROUNDS = 6
CHANNELS = 10
CALLS = 100
"""So many calls are made at one time on each connection, each round."""

LONGEST_SECONDS = 0.1
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def begin(channel: grpc.aio.Channel, dice: random.Random) -> Any:
    """Begins a call that takes a while, of any kind, perhaps with a deadline that passes. Any: calls of all kinds."""
    kind = dice.choice(["Hold", "HoldStream", "Pour"])
    milliseconds = dice.randrange(100) if kind == "Hold" else dice.randrange(-50, 50)
    ask = Ask(name=new_name(), count=milliseconds, size=dice.randrange(100_000), padding=bytes(dice.randrange(300_000)))
    timeout = dice.uniform(0, LONGEST_SECONDS) if dice.random() < 0.3 else None
    sent = iter([ask] * 5) if kind == "HoldStream" else ask
    return method(channel, kind)(sent, timeout=timeout)


async def call_and_perhaps_leave(channel: grpc.aio.Channel, dice: random.Random) -> None:
    """Makes a call, reads what comes, and cancels it at any moment."""
    call = begin(channel, dice)
    leaving = asyncio.get_running_loop().call_later(dice.uniform(0, LONGEST_SECONDS), call.cancel)
    with suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
        if isinstance(call, grpc.aio.UnaryUnaryCall):
            await call
        else:
            async for _ in call:
                pass
    leaving.cancel()


async def storm(served: Served, dice: random.Random) -> None:
    """Calls over many connections, half of which are closed while calls are at work on them."""

    async def one_connection() -> None:
        async with aio_channel_to(served.address) as channel:
            calls = [asyncio.create_task(call_and_perhaps_leave(channel, dice)) for _ in range(CALLS)]
            await asyncio.wait(calls, timeout=dice.uniform(0, LONGEST_SECONDS) if dice.random() < 0.5 else None)
        await asyncio.gather(*calls, return_exceptions=True)

    await asyncio.gather(*(one_connection() for _ in range(CHANNELS)))


async def test_calls_that_end_at_any_moment_leave_nothing(served: Served, watch: Watch) -> None:
    dice, memory = random.Random(7), []
    for _ in range(ROUNDS):
        await storm(served, dice)
        await watch.until_all_have_ended()
        memory.append(served.memory())
    assert min(memory[3:]) - max(memory[:3]) < 10_000_000
    caller = AioCaller(served.address)
    assert (await caller.exchange("Hold", [Ask(name=new_name())], timeout=20)).code == grpc.StatusCode.OK
    await caller.close()


@pytest.mark.parametrize("beginning", [b"", PREFACE, b"GET / HTTP/1.1\r\n\r\n"], ids=["none", "HTTP/2", "HTTP/1.1"])
async def test_noise_ends_its_connection_and_no_other(served: Served, beginning: bytes) -> None:
    dice, caller = random.Random(7), AioCaller(served.address)
    beside = asyncio.create_task(caller.exchange("Hold", [Ask(name=new_name(), count=1000)], timeout=20))
    for _ in range(50):
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(beginning + dice.randbytes(dice.randrange(20, 5000)))
        with suppress(ConnectionError):
            if dice.random() < 0.5:
                writer.write_eof()
            await asyncio.wait_for(reader.read(), 20)
        writer.close()
    assert (await beside).code == grpc.StatusCode.OK
    await caller.close()
