"""What gRPC's clients do not send of themselves, sent with curl."""

from __future__ import annotations

import gzip
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from tests.conformance.callers import Watch, new_name
from tests.conformance.conftest import Served
from tests.conformance.messages import Ask

pytestmark = pytest.mark.long


def framed(message: bytes, compressed: bool = False) -> bytes:
    """Returns a message as it goes over the wire."""
    return struct.pack(">BI", compressed, len(message)) + message


EMPTY = framed(b"")
ANSWERED_BEFORE_ALL_WAS_SENT = 92
"""What curl 7 ends with then, if the answer comes at a moment that does not suit it."""

TRIES = 20


def post(served: Served, path: str, body: bytes, tmp_path: Path, **headers: str) -> dict[str, str]:
    """Posts bytes as a call; returns the headers and trailers of the answer, and "http" for its status."""
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    sent = tmp_path / "body"
    sent.write_bytes(body)
    given = {"content-type": "application/grpc", "te": "trailers"}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    options = [option for name, value in given.items() for option in ("-H", f"{name}: {value}")]
    command = ["curl", "-sS", "--http2-prior-knowledge", "-m", "10", "-o", "/dev/null", "-D", "-", *options]
    command += ["--data-binary", f"@{sent}", f"http://{served.address}{path}"]
    for _ in range(TRIES):
        ended = subprocess.run(command, capture_output=True, text=True)
        if ended.returncode != ANSWERED_BEFORE_ALL_WAS_SENT:
            break
    assert ended.returncode == 0, ended.stderr
    status, *lines = ended.stdout.splitlines()
    return {"http": status.split()[1]} | dict(line.split(": ", 1) for line in lines if line)


def unary(served: Served, body: bytes, tmp_path: Path, **headers: str) -> dict[str, str]:
    """Posts bytes as a call of a method that takes and gives a message without fields."""
    return post(served, "/grpc.testing.TestService/EmptyCall", body, tmp_path, **headers)


def test_an_answer_is_one_of_grpc(served: Served, tmp_path: Path) -> None:
    answer = unary(served, EMPTY, tmp_path)
    assert (answer["http"], answer["grpc-status"]) == ("200", "0")
    assert answer["content-type"].startswith("application/grpc")
    assert {"identity", "gzip", "deflate"} <= set(answer["grpc-accept-encoding"].replace(" ", "").split(","))


@pytest.mark.parametrize("kind", ["application/grpc+proto", "application/grpc;charset=utf-8"])
def test_the_content_type_may_say_more(served: Served, tmp_path: Path, kind: str) -> None:
    assert unary(served, EMPTY, tmp_path, content_type=kind)["grpc-status"] == "0"


def test_compressed_and_plain_messages_may_come_in_one_stream(served: Served, tmp_path: Path) -> None:
    body = EMPTY + framed(gzip.compress(b""), compressed=True) + EMPTY
    answer = post(served, "/grpc.testing.TestService/StreamingInputCall", body, tmp_path, grpc_encoding="gzip")
    assert answer["grpc-status"] == "0"


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [
        (framed(b"", compressed=True), "snappy", "12"),  # UNIMPLEMENTED
        (framed(b"", compressed=True), "identity", "13"),  # INTERNAL
        (framed(b"not what it says", compressed=True), "gzip", "13"),
        (framed(gzip.compress(bytes(1000))[:-20], compressed=True), "gzip", "13"),
    ],
    ids=["of a kind unknown", "of no kind", "wrongly", "cut off"],
)
def test_a_message_that_is_compressed_otherwise_is_refused(
    served: Served, tmp_path: Path, body: bytes, encoding: str, status: str
) -> None:
    assert unary(served, body, tmp_path, grpc_encoding=encoding)["grpc-status"] == status


@pytest.mark.parametrize("body", [b"\0", EMPTY[:4], framed(b"abc")[:-1]], ids=["byte", "length", "message"])
def test_a_message_that_ends_in_the_middle_is_refused(served: Served, tmp_path: Path, body: bytes) -> None:
    assert unary(served, body, tmp_path)["grpc-status"] != "0"


@pytest.mark.parametrize("timeout", ["300m", "300000u", "99999999n", "1S"])
def test_the_server_minds_a_deadline_that_its_client_does_not(
    served: Served, tmp_path: Path, watch: Watch, timeout: str
) -> None:
    body = framed(Ask(name=new_name(), count=-1).SerializeToString())
    assert post(served, "/conformance.Probe/Hold", body, tmp_path, grpc_timeout=timeout)["grpc-status"] == "4"


async def test_a_call_beyond_its_deadline_is_cancelled_on_the_server(
    served: Served, tmp_path: Path, watch: Watch
) -> None:
    name = new_name()
    post(
        served,
        "/conformance.Probe/Hold",
        framed(Ask(name=name, count=-1).SerializeToString()),
        tmp_path,
        grpc_timeout="300m",
    )
    await watch.until(name, "cancelled")
