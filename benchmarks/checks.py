"""Whether a subject answers rightly: one call of it with another client than the load generator."""

from __future__ import annotations

import time
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

import grpc
import numpy as np

from benchmarks.work import Call, Predictions

SECONDS = 30.0
GRPC_PREFIX_BYTES = 5
TOLERANCE = 1e-4


class WrongAnswer(Exception):
    """A subject does not answer what all others do; the message says how."""


def reply_bytes(call: Call, expected: Predictions, seconds: float = SECONDS) -> int:
    """Makes one call and returns the bytes of its reply's body, framing included.

    Raises:
        WrongAnswer: It fails, or a message of the reply does not hold the expected predictions.
    """
    try:
        replies = _grpc(call, seconds) if call.transport == "grpc" else [_http(call, seconds)]
        for reply in replies:
            _compare(call.read(reply), expected)
    except grpc.RpcError as error:
        raise WrongAnswer(f"{call.url}: {error.code().name}: {error.details()}") from error
    except (OSError, HTTPException, ValueError, KeyError) as error:
        raise WrongAnswer(f"{call.url}: {error}") from error
    framing = GRPC_PREFIX_BYTES * len(replies) if call.transport == "grpc" else 0
    return sum(map(len, replies)) + framing


def first_reply_bytes(call: Call, expected: Predictions) -> int:
    """Does what `reply_bytes` does, but gives a subject that has just been thawed some time to answer rightly."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            return reply_bytes(call, expected)
        except WrongAnswer:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def _compare(found: Predictions, expected: Predictions) -> None:
    if found.shape != expected.shape:
        raise ValueError(f"{found.shape} predictions came back for {expected.shape}")
    if not np.allclose(found.astype(np.float64), expected.astype(np.float64), rtol=TOLERANCE, atol=TOLERANCE):
        raise ValueError(f"the predictions are {found[:5]}..., those of the others {expected[:5]}...")


def _grpc(call: Call, seconds: float) -> list[bytes]:
    url = urlsplit(call.url)
    with grpc.insecure_channel(url.netloc, [("grpc.max_receive_message_length", -1)]) as channel:
        # A stream to the server and back is on the wire what a unary call is, but for the number of messages.
        method: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(url.path)
        return list(method(iter(call.messages), timeout=seconds, wait_for_ready=True))


def _http(call: Call, seconds: float) -> bytes:
    url = urlsplit(call.url)
    connection = HTTPConnection(url.netloc, timeout=seconds)
    try:
        connection.request("POST", url.path, call.messages[0], {"content-type": "application/json"})
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise ValueError(f"status {response.status}: {body[:300]!r}")
    return body
