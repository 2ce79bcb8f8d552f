"""What gRPC says in HTTP/2: metadata, time-outs, statuses and compression.

Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md.
"""

from __future__ import annotations

import base64
import binascii
import re
import urllib.parse
import zlib
from collections.abc import Callable, Iterable

import grpc

Metadatum = tuple[str, str | bytes]

PREFIX_BYTES = 5
"""Before each message: whether it is compressed, and its length in four bytes."""

MAX_MESSAGE_BYTES = 2**32 - 1
"""The largest message that there can be."""

BINARY = "-bin"
"""Metadata whose names end so have values of any bytes."""

_SECONDS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}

_MAX_TIMEOUT_DIGITS = 8

_RESERVED = (":", "grpc-")
"""How the names of headers begin that are HTTP's or gRPC's own."""

_OWN = ("content-type", "te")
"""Further headers that are no metadata."""

_PASSED_ON = ("grpc-trace-bin", "grpc-tags-bin")
"""gRPC's own headers that are told all the same."""

_NAME, _TEXT = re.compile(rb"[0-9a-z_.-]+"), re.compile(rb"[ -~]*")
"""The names that metadata may have, and its values unless they are binary."""

_UNESCAPED = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


class Packed(bytes):
    """A message that is compressed still."""


class BadMessage(Exception):
    """A message cannot be taken; the text says why."""


class MessageTooLarge(BadMessage):
    """A message is larger than is allowed."""


def seconds_of(timeout: bytes) -> float:
    """Returns the seconds of a header `grpc-timeout`, such as 100m. Raises ValueError if it is none."""
    digits, unit = timeout[:-1], timeout[-1:]
    if not digits.isdigit() or len(digits) > _MAX_TIMEOUT_DIGITS or unit not in _SECONDS:
        raise ValueError("it is no number with a unit")
    return int(digits) * _SECONDS[unit]


def metadata_of(headers: Iterable[tuple[bytes, bytes]]) -> tuple[Metadatum, ...]:
    """Returns what the other side has sent as metadata.

    What HTTP/2 allows and gRPC does not is left out: gRPC's client, which passes calls on, raises an error at it.
    """
    found: list[Metadatum] = []
    for raw, value in headers:
        if not _NAME.fullmatch(raw):
            continue
        name = raw.decode("ascii")
        if name in _OWN or (name.startswith(_RESERVED) and name not in _PASSED_ON):
            continue
        if name.endswith(BINARY):
            # Several values of one name may be joined by commas.
            found.extend((name, data) for part in value.split(b",") if (data := _bytes_of(part)) is not None)
        elif _TEXT.fullmatch(value):
            found.append((name, value.decode("ascii")))
    return tuple(found)


def headers_of(metadata: Iterable[Metadatum]) -> list[tuple[bytes, bytes]]:
    """Returns metadata as headers."""
    return [(name.lower().encode("ascii"), _written(name, value)) for name, value in metadata]


def _written(name: str, value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return base64.b64encode(data).rstrip(b"=") if name.lower().endswith(BINARY) else data


def _bytes_of(text: bytes) -> bytes | None:
    try:
        return base64.b64decode(text.strip() + b"=" * (-len(text.strip()) % 4), validate=True)
    except binascii.Error:
        return None


def escaped(details: str) -> bytes:
    """Returns a status's text as the header `grpc-message` has it."""
    return urllib.parse.quote(details, safe=_UNESCAPED).encode("ascii")


def status_fields(code: grpc.StatusCode, details: str, metadata: Iterable[Metadatum]) -> list[tuple[bytes, bytes]]:
    """Returns the trailers of a call's end."""
    number: int = code.value[0]
    fields = [(b"grpc-status", b"%d" % number)]
    if details:
        fields.append((b"grpc-message", escaped(details)))
    return fields + headers_of(metadata)


def prefix(length: int) -> bytes:
    """Returns what stands before a message that is not compressed."""
    return b"\0" + length.to_bytes(4, "big")


def _gunzip(data: bytes, limit: int) -> bytes:
    return _inflated(zlib.decompressobj(zlib.MAX_WBITS | 16), data, limit)


def _inflate(data: bytes, limit: int) -> bytes:
    return _inflated(zlib.decompressobj(), data, limit)


def _inflated(unpacking: zlib._Decompress, data: bytes, limit: int) -> bytes:
    try:
        message = unpacking.decompress(data, limit + 1)
    except zlib.error:
        raise BadMessage("a compressed message cannot be unpacked; it is damaged") from None
    if len(message) > limit:
        raise MessageTooLarge(f"a message has more than {limit} bytes when it is unpacked, and no more are allowed")
    if not unpacking.eof:
        raise BadMessage("a compressed message cannot be unpacked; its end is missing")
    return message


ENCODINGS: dict[bytes, Callable[[bytes, int], bytes] | None] = {
    b"identity": None,
    b"gzip": _gunzip,
    b"deflate": _inflate,
}
"""How messages may be compressed, with what unpacks them to at most so many bytes."""

ACCEPTED = b",".join(ENCODINGS)
"""The encodings, as the header `grpc-accept-encoding` names them."""
