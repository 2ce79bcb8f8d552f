"""The client against servers that end in ways of their own."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress

import pytest

from service.http2.client import Channel
from tests.unit.http2.peer import (
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PREFACE,
    SETTINGS,
    Peer,
    fields,
    frame,
)

ENDED = frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x88" + fields([(b"grpc-status", b"14")]))


@pytest.mark.parametrize("more", [b"", frame(3, 0, 1, bytes(4))], ids=["without a reset", "and resets it"])
async def test_a_stream_whose_server_says_how_it_ended_has_ended(more: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        await reader.readexactly(len(PREFACE))
        peer.send(frame(SETTINGS, 0, 0))
        assert (await peer.next()).kind == HEADERS
        peer.send(ENDED + more)
        with suppress(ConnectionError):
            await reader.read()
        writer.close()
        gone.set()

    gone = asyncio.Event()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    channel = Channel(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    ended: list[bool] = []
    told = asyncio.Event()

    def end() -> None:
        ended.append(True)
        told.set()

    stream = await channel.stream("/a/b", lambda message: None, end)
    async with asyncio.timeout(10):
        await told.wait()
    stream.send(b"late")
    stream.cancel()
    channel.close()
    await gone.wait()
    server.close()
    assert ended == [True]


async def test_a_closed_channel_ends_streams_on_a_connection_that_the_server_has_given_up() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readexactly(len(PREFACE))
            peer.send(frame(SETTINGS, 0, 0))
            await peer.next()
            peer.send(frame(GOAWAY, 0, 0, bytes([0, 0, 0, 1]) + bytes(4)))
            await reader.read()
        writer.close()
        gone.append(True)

    gone: list[bool] = []
    ended: list[int] = []
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    channel = Channel(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    await channel.stream("/a/b", lambda message: None, lambda: ended.append(1))
    first = channel._connection
    assert first is not None
    async with asyncio.timeout(10):
        while first.is_usable:  # noqa: ASYNC110 nothing tells
            await asyncio.sleep(0.01)
        await channel.stream("/a/b", lambda message: None, lambda: ended.append(2))
        assert not ended
        channel.close()
        while len(ended) < 2 or len(gone) < 2:  # noqa: ASYNC110 nothing tells
            await asyncio.sleep(0.01)
    server.close()


async def test_a_server_that_hangs_up_at_once_is_one_that_cannot_be_reached_whenever_it_is_noticed() -> None:
    """A Triton that dies or starts looks like that: its port takes connections that are gone before they are used."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)

        async def hang_up() -> None:
            while True:
                taken, _ = await asyncio.get_running_loop().sock_accept(listening)
                taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # by a reset
                taken.close()

        hanging_up = asyncio.create_task(hang_up())
        for _ in range(200):  # it is noticed while connecting, before the stream begins, and after
            channel = Channel(f"127.0.0.1:{listening.getsockname()[1]}")
            with suppress(OSError):
                await channel.stream("/a/b", lambda message: None, lambda: None)
            channel.close()
        hanging_up.cancel()
