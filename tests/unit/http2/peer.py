"""The other side of a connection, frame by frame: it does what no library of gRPC does."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 7, 8
END_STREAM, END_HEADERS = 1, 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SECONDS = 10.0
"""The longest that a frame may be in coming."""

Fields = Iterable[tuple[bytes, bytes]]


class Frame(NamedTuple):
    """A frame that has come."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Returns the bytes of a frame."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def fields(given: Fields) -> bytes:
    """Returns a block of headers, none of them compressed; names and values have less than 127 bytes."""
    return b"".join(bytes([0, len(name)]) + name + bytes([len(value)]) + value for name, value in given)


def begun(stream: int, path: bytes, more: Fields = ()) -> bytes:
    """Returns the headers of a call, without its messages."""
    headers = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"here")]
    headers += [(b"te", b"trailers"), (b"content-type", b"application/grpc"), *more]
    return frame(HEADERS, END_HEADERS, stream, fields(headers))


def message(data: bytes, packed: bool = False) -> bytes:
    """Returns a message as it goes over the wire."""
    return struct.pack(">BI", packed, len(data)) + data


def called(stream: int, path: bytes, more: Fields = ()) -> bytes:
    """Returns a call with an empty message."""
    return begun(stream, path, more) + frame(DATA, END_STREAM, stream, message(b""))


def window(stream: int, size: int) -> bytes:
    """Returns the frame that gives so many bytes to a stream's window; 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big"))


class Peer:
    """What reads and writes frames."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, data: bytes) -> None:
        """Sends frames."""
        self._writer.write(data)

    async def next(self) -> Frame:
        """Returns the next frame that is not about the connection. Raises IncompleteReadError if none comes any more."""
        while True:
            async with asyncio.timeout(SECONDS):
                head = await self._reader.readexactly(9)
                payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
            found = Frame(head[3], head[4], int.from_bytes(head[5:], "big"), payload)
            if found.kind == SETTINGS and not found.flags:
                self.send(frame(SETTINGS, 1, 0))
            if found.stream:
                return found

    async def until_ended(self, stream: int) -> bytes:
        """Returns all data of a stream, after its last frame. Raises IncompleteReadError if that does not come."""
        data = b""
        while True:
            found = await self.next()
            if found.stream == stream and found.kind == DATA:
                data += found.payload
            if found.stream == stream and (found.kind == RST_STREAM or (found.flags & END_STREAM and found.kind < 2)):
                return data


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Peer]:
    """Yields the caller's side of a connection to a server."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    peer = Peer(reader, writer)
    peer.send(PREFACE + frame(SETTINGS, 0, 0))
    try:
        yield peer
    finally:
        writer.close()
        with suppress(ConnectionError):  # the server may have ended it first
            await writer.wait_closed()
