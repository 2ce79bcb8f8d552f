"""Calls that are passed on: the caller is told what the other side has said, however the call has ended there."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any, cast

import grpc
import grpc.aio
import pytest

from service.http2.server import Server
from service.rpc.boundary import Boundary
from service.rpc.caller import TOKEN, caller
from service.rpc.relay import Relay

UPLOAD = "/fitserve.v1.TrainingService/UploadDataset"
WATCH = "/fitserve.v1.TrainingService/WatchTrainingJob"
TRAILERS = (("grpc-status-details-bin", b"details"),)


class Answers(grpc.GenericRpcHandler):
    """The other side: ends uploads after their first message, and streams what it knows of the caller."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        return grpc.stream_stream_rpc_method_handler(self._end if details.method == UPLOAD else self._watch)

    async def _end(self, _: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await context.read()
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no dataset", TRAILERS)

    async def _watch(self, _: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await context.read()
        remaining = context.time_remaining() or 0
        header = dict(context.invocation_metadata() or ()).get("header")
        await context.write(f"{caller(context)} {header} {20 < remaining < 60}".encode())
        try:
            await asyncio.sleep(60)
        finally:
            self.cancelled.set()


@pytest.fixture
async def sides() -> AsyncIterator[tuple[str, Answers]]:
    """The address of a relay, and what it passes calls on to."""
    answers, address = Answers(), f"unix-abstract:relay-test-{secrets.token_hex(8)}"
    primary = grpc.aio.server(handlers=[answers])
    primary.add_insecure_port(address)
    async with grpc.aio.insecure_channel(address) as channel:
        relay = Server(Boundary(Relay(channel, TOKEN).handlers(), 100, 2**20), 2**20)
        port = relay.add_insecure_port("127.0.0.1:0")
        await primary.start()
        await relay.start()
        yield f"127.0.0.1:{port}", answers
        await relay.stop(None)
        await primary.stop(0)


def upload(address: str) -> grpc.Call:
    """Uploads, and returns how that has ended. By gRPC's other client: grpc.aio's hides ends of calls from callers too."""
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.stream_unary(UPLOAD)((b"rows" * 2000 for _ in range(50)), timeout=20)
    return cast("grpc.Call", caught.value)


async def test_an_error_in_the_middle_of_an_upload_comes_as_it_was(sides: tuple[str, Answers]) -> None:
    address, _ = sides
    for _ in range(30):  # the message that cannot be written any more is there in most of them
        ended = await asyncio.to_thread(upload, address)
        assert (ended.code(), ended.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "no dataset")
        assert tuple(ended.trailing_metadata() or ()) == TRAILERS


async def test_headers_deadline_and_caller_go_along_and_a_cancellation_too(
    sides: tuple[str, Answers],
) -> None:
    address, answers = sides
    forged = ("fitserve-relayed-for", "token ipv4:1.2.3.4:5")
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_stream(WATCH)(b"", timeout=40, metadata=(("header", "value"), forged))
        peer, header, deadline = (await call.read()).decode().split()
        assert peer.startswith("ipv4:127.0.0.1:")
        assert (header, deadline) == ("value", "True")
        call.cancel()
    await asyncio.wait_for(answers.cancelled.wait(), 20)


class Called:
    """A call that has come with a header that only the relay knows to make."""

    def __init__(self, header: str) -> None:
        self._header = header

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("fitserve-relayed-for", self._header),)

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"


@pytest.mark.parametrize("forged", ["token ipv4:1.2.3.4:5", "ключ ipv4:1.2.3.4:5", "", " "])
def test_who_forges_the_header_of_the_relay_is_called_by_the_own_name(forged: str) -> None:
    assert caller(cast("grpc.aio.ServicerContext[Any, Any]", Called(forged))) == "ipv4:127.0.0.1:1"
    real = Called(f"{TOKEN} ipv4:1.2.3.4:5")
    assert caller(cast("grpc.aio.ServicerContext[Any, Any]", real)) == "ipv4:1.2.3.4:5"
