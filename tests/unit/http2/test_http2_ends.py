"""What is left of calls that have ended, and what a server that stops waits for."""

from __future__ import annotations

import asyncio
import gc
import gzip
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import grpc
import pytest

from service.http2 import connection, wire
from service.http2 import server as http2_server
from service.http2.server import Server, ServerCall, ServerConnection
from tests.unit.http2.peer import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    Peer,
    begun,
    called,
    connected,
    frame,
    message,
    window,
)

REPLY_BYTES = 200_000
"""More than the window of a caller who has not asked for a larger one."""


class Methods(grpc.GenericRpcHandler):
    """What the server under test does, whatever a caller asks for."""

    def __init__(self, answer: Callable[[Any], Awaitable[bytes]]) -> None:  # Any: grpcio's contexts have no type
        self._answer = answer

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Returns the handler of any method. Any: grpcio's types do not know asynchronous handlers."""

        async def answer(_: object, context: Any) -> bytes:
            return await self._answer(context)

        return grpc.stream_unary_rpc_method_handler(answer)

    def at_once(self, method: str) -> None:
        """Returns that each call needs a task."""


async def first(context: Any) -> bytes:
    """Answers the first message."""
    return bytes(await context.read())


@asynccontextmanager
async def serving(answer: Callable[[Any], Awaitable[bytes]]) -> AsyncIterator[tuple[Server, Peer]]:
    """Yields a server, and a caller who is connected to it."""
    server = Server(Methods(answer), 2**20)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with connected(port) as peer:
        yield server, peer
    await server.stop(None)


@pytest.fixture
def uncollected() -> Iterator[Callable[[type], int]]:
    """Counts the objects of a type that are there, while the garbage collector collects none."""
    gc.collect()
    gc.disable()
    yield lambda kind: sum(type(one) is kind for one in gc.get_objects())
    gc.enable()


async def until(holds: Callable[[], bool]) -> None:
    """Waits for a state."""
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 nothing tells
            await asyncio.sleep(0.01)


async def test_a_deadline_that_is_given_twice_does_not_keep_the_call(uncollected: Callable[[type], int]) -> None:
    async with serving(first) as (_, peer):
        peer.send(called(1, b"/a/b", [(b"grpc-timeout", b"9999999H"), (b"grpc-timeout", b"1H")]))
        await peer.until_ended(1)
        peer.send(called(3, b"/a/b"))
        await peer.until_ended(3)
        await until(lambda: uncollected(ServerCall) == 0)


async def test_a_call_that_is_cancelled_before_it_begins_leaves_nothing(uncollected: Callable[[type], int]) -> None:
    async with serving(first) as (_, peer):
        peer.send(called(1, b"/a/b") + frame(RST_STREAM, 0, 1, bytes(4)) + called(3, b"/a/b"))
        await peer.until_ended(3)
        await until(lambda: uncollected(ServerCall) == 0)


@pytest.mark.parametrize("data", [b"\0\xff\xff\xff\xff", b"\2\0\0\0\0", b"\0\0"], ids=["large", "packed", "cut"])
async def test_a_call_that_is_refused_before_it_begins_leaves_nothing(
    uncollected: Callable[[type], int], data: bytes
) -> None:
    async with serving(first) as (server, peer):
        peer.send(begun(1, b"/a/b") + frame(DATA, END_STREAM, 1, data) + called(3, b"/a/b"))
        await peer.until_ended(3)
        await until(lambda: not server.tasks and uncollected(ServerCall) == 0)


async def test_a_connection_that_ends_leaves_nothing(uncollected: Callable[[type], int]) -> None:
    async with serving(first) as (server, peer):
        peer.send(called(1, b"/a/b"))
        await peer.until_ended(1)
        assert len(server.connections) == uncollected(ServerConnection) == 1
    await until(lambda: uncollected(ServerConnection) == 0)


async def test_messages_that_nobody_reads_stay_compressed(monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked = []

    def unpack(data: bytes, limit: int) -> bytes:
        unpacked.append(len(data))
        return gzip.decompress(data)

    monkeypatch.setitem(wire.ENCODINGS, b"gzip", unpack)
    one = message(gzip.compress(b"it"), packed=True)
    async with serving(first) as (_, peer):
        peer.send(begun(1, b"/a/b", [(b"grpc-encoding", b"gzip")]) + frame(DATA, 0, 1, one * 9))
        assert await peer.until_ended(1) == message(b"it")
    assert len(unpacked) == 1


async def test_a_server_that_stops_lets_callers_take_what_it_has_answered() -> None:
    async def much(context: Any) -> bytes:
        return bytes(REPLY_BYTES)

    async with serving(much) as (server, peer):
        peer.send(called(1, b"/a/b"))
        await until(lambda: any(call.done() for one in server.connections for call in one.streams.values()))  # type: ignore[attr-defined]  # a server's streams are calls
        stopping = asyncio.create_task(server.stop(20.0))
        await until(lambda: server.stopping)
        await asyncio.sleep(0)
        assert not stopping.done()
        peer.send(window(1, REPLY_BYTES) + window(0, REPLY_BYTES))
        assert len(await peer.until_ended(1)) == len(message(b"")) + REPLY_BYTES
        async with asyncio.timeout(10):
            await stopping


async def test_a_reply_that_is_not_taken_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2_server, "UNTAKEN_SECONDS", 0.1)

    async def much(context: Any) -> bytes:
        return bytes(REPLY_BYTES)

    async with serving(much) as (server, peer):
        peer.send(called(1, b"/a/b"))
        assert len(await peer.until_ended(1)) < REPLY_BYTES
        assert [call for one in server.connections for call in one.streams] == []


async def test_a_peer_who_has_us_answer_and_does_not_read_loses_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_UNSENT_FRAMES", 100)
    async with serving(first) as (server, peer):
        await until(lambda: len(server.connections) == 1)
        peer.send(b"".join(frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, b"\x83\x84\x86") for n in range(500)))
        await until(lambda: not server.connections)


async def test_thousands_of_calls_whose_deadlines_pass_at_once_do_not_end_the_connection() -> None:
    """Their caller resets each, as gRPC's clients do; libnghttp2 by itself takes more than 1,000 at once for an attack."""
    cancel = (8).to_bytes(4, "big")
    async with serving(first) as (server, peer):
        for stream in range(1, 4001, 2):
            peer.send(begun(stream, b"/a/b") + frame(RST_STREAM, 0, stream, cancel))
        peer.send(called(4001, b"/a/b"))
        await peer.until_ended(4001)
        peer.send(called(4003, b"/a/b"))
        await peer.until_ended(4003)
        assert len(server.connections) == 1


async def test_messages_that_never_become_complete_are_bounded_together() -> None:
    limit = http2_server.MESSAGES_ON_THEIR_WAY
    part = struct.pack(">BI", 0, 2**20) + bytes(2**20 - 10)
    streams = [2 * number + 3 for number in range(limit + 3)]
    async with serving(first) as (server, peer):
        peer.send(called(1, b"/a/b"))
        await peer.until_ended(1)  # and with it the server's windows are agreed on
        for stream in streams:
            peer.send(begun(stream, b"/a/b"))
            for start in range(0, len(part), 2**14):
                peer.send(frame(DATA, 0, stream, part[start : start + 2**14]))
        refused = {(await peer.next()).stream for _ in range(2)}  # a status, and a reset
        assert refused < set(streams)
        await until(lambda: server.incomplete_bytes > (limit - 1) * 2**20)
        assert server.incomplete_bytes <= limit * 2**20
        peer.send(called(1001, b"/a/b"))
        await peer.until_ended(1001)  # one that is complete is taken all the same
    await until(lambda: server.incomplete_bytes == 0)


@pytest.mark.parametrize(("number", "last"), [(600, HEADERS), (4000, RST_STREAM)])
async def test_headers_of_nothing_count_too(number: int, last: int) -> None:
    async with serving(first) as (_, peer):
        peer.send(begun(1, b"/a/b", [(b"x", b"")] * number))
        refused = await peer.next()
        assert (refused.stream, refused.kind) == (1, last)
        peer.send(called(3, b"/a/b", [(b"x", b"")] * 400))
        assert await peer.until_ended(3) == message(b"")


async def test_many_headers_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2_server, "FURTHER_HEADERS", 1000)
    many = [(b"x", b"")] * 432
    async with serving(first) as (server, peer):
        for number in (1, 3):
            peer.send(begun(number, b"/a/b", many))
        peer.send(called(5, b"/a/b", many))
        assert await peer.until_ended(5) == b""
        peer.send(called(7, b"/a/b"))
        assert await peer.until_ended(7) == message(b"")
        peer.send(frame(RST_STREAM, 0, 1, bytes(4)) + called(9, b"/a/b", many))
        assert await peer.until_ended(9) == message(b"")
        peer.send(frame(RST_STREAM, 0, 3, bytes(4)))
        await until(lambda: server.further_headers == 0)


@contextmanager
def accepted() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yields both sides of a connection that somebody else has accepted."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        caller = socket.create_connection(listening.getsockname())
        connection, _ = listening.accept()
    caller.setblocking(False)
    connection.setblocking(False)
    with caller:
        yield caller, connection


async def test_a_connection_that_comes_while_the_server_stops_is_closed() -> None:
    async def never(context: Any) -> bytes:
        await asyncio.sleep(60)
        return b""

    async with serving(never) as (server, peer):
        peer.send(called(1, b"/a/b"))
        await until(lambda: len(server.tasks) == 1)
        stopping = asyncio.create_task(server.stop(1.0))
        await until(lambda: server.stopping)
        with accepted() as (caller, connection):
            server.adopt(connection)
            caller.sendall(PREFACE + frame(SETTINGS, 0, 0))
            async with asyncio.timeout(0.5):  # at once, and not by the end of the server
                with suppress(ConnectionError):
                    while await asyncio.get_running_loop().sock_recv(caller, 2**16):
                        pass
        await stopping


async def test_a_connection_that_cannot_be_opened_counts_as_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise OSError("no room")

    gone: list[None] = []
    server = Server(Methods(first), 2**20, on_gone=lambda: gone.append(None))
    await server.start()
    monkeypatch.setattr(asyncio.get_running_loop(), "connect_accepted_socket", fail)
    with accepted() as (caller, connection):
        server.adopt(connection)
        await until(lambda: len(gone) == 1)
        assert await asyncio.get_running_loop().sock_recv(caller, 1) == b""
    await server.stop(None)
