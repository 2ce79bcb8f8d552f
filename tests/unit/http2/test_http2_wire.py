"""What gRPC says in HTTP/2, read and written."""

from __future__ import annotations

import gzip
import urllib.parse
import zlib

import grpc
import pytest

from service.http2 import wire


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [(b"1H", 3600), (b"2M", 120), (b"3S", 3), (b"100m", 0.1), (b"5u", 5e-6), (b"99999999n", 0.099999999), (b"0S", 0)],
)
def test_a_timeout_is_a_number_with_a_unit(timeout: bytes, seconds: float) -> None:
    assert wire.seconds_of(timeout) == pytest.approx(seconds)


@pytest.mark.parametrize("timeout", [b"", b"S", b"1", b"1s", b"-1S", b"1.5S", b"123456789S", b"\xb2S"])
def test_anything_else_is_no_timeout(timeout: bytes) -> None:
    with pytest.raises(ValueError, match="number"):
        wire.seconds_of(timeout)


def test_metadata_comes_back_as_it_was_sent() -> None:
    metadata = (("name", "value"), ("name", "again"), ("bytes-bin", b"\x00\xff,;"), ("empty-bin", b""))
    assert wire.metadata_of(wire.headers_of(metadata)) == metadata


def test_what_is_grpcs_own_is_no_metadata() -> None:
    headers = [
        (b":path", b"/a/b"),
        (b"grpc-timeout", b"1S"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        (b"user-agent", b"me"),
        (b"tenant", b"a"),
    ]
    assert wire.metadata_of(headers) == (("user-agent", "me"), ("tenant", "a"))


@pytest.mark.parametrize(
    ("name", "value"), [(b"na!me", b"a"), (b"caf\xc3\xa9", b"a"), (b"name", b"a\tb"), (b"name", b"caf\xc3\xa9")]
)
def test_what_grpc_does_not_take_as_metadata_is_left_out(name: bytes, value: bytes) -> None:
    assert wire.metadata_of([(name, value), (b"name", b"kept")]) == (("name", "kept"),)


def test_several_values_of_bytes_may_share_a_header_and_broken_ones_are_left_out() -> None:
    assert wire.metadata_of([(b"key-bin", b"AAE,AgM=, BA ,*")]) == (
        ("key-bin", b"\0\1"),
        ("key-bin", b"\2\3"),
        ("key-bin", b"\4"),
    )


@pytest.mark.parametrize("details", ["plain", "50 % of 100", "zwölf Zeilen\n\tüber", "\u2713 \U0001f600", ""])
def test_a_statuss_text_survives_its_header(details: str) -> None:
    written = wire.escaped(details)
    assert all(0x20 <= byte < 0x7F for byte in written)
    assert urllib.parse.unquote(written.decode()) == details


def test_the_trailers_of_a_status_are_its_number_its_text_and_its_metadata() -> None:
    fields = wire.status_fields(grpc.StatusCode.NOT_FOUND, "no model", [("key-bin", b"\xff")])
    assert fields == [(b"grpc-status", b"5"), (b"grpc-message", b"no model"), (b"key-bin", b"/w")]


@pytest.mark.parametrize(("encoding", "pack"), [(b"gzip", gzip.compress), (b"deflate", zlib.compress)])
def test_packed_messages_are_unpacked_up_to_a_limit(encoding: bytes, pack: object) -> None:
    unpack = wire.ENCODINGS[encoding]
    assert unpack is not None
    assert callable(pack)
    assert unpack(pack(b"a" * 1000), 1000) == b"a" * 1000
    with pytest.raises(wire.MessageTooLarge, match="more than 999 bytes"):
        unpack(pack(b"a" * 1000), 999)


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
def test_a_damaged_or_incomplete_packed_message_is_refused(encoding: bytes) -> None:
    unpack = wire.ENCODINGS[encoding]
    assert unpack is not None
    whole = (gzip.compress if encoding == b"gzip" else zlib.compress)(bytes(range(256)))
    with pytest.raises(wire.BadMessage, match="end is missing"):
        unpack(whole[: len(whole) // 2], 10_000)
    with pytest.raises(wire.BadMessage, match="damaged"):
        unpack(b"\0" * 20, 10_000)
