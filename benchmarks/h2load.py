"""Runs h2load, nghttp2's load generator in C, and reads what it says.

It knows HTTP and not gRPC: a failed call of gRPC is a success to it. Such a call has no message in its reply, so the bytes
of all replies together tell whether there was one.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.work import Call

CONNECTIONS = 8
"""The most connections over which gRPC calls in flight are spread; HTTP/1.1 has one for each."""

SLOW_RATE = 50
"""Below so many calls a second the time between two is a whole number of milliseconds, nearly enough."""

_GRPC_HEADERS = ("content-type: application/grpc", "te: trailers")
_HTTP_HEADERS = ("content-type: application/json",)
_REQUESTS = re.compile(r"requests: (\d+) total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored")
_FINISHED = re.compile(r"finished in ([\d.]+)(us|ms|s)")
_DATA = re.compile(r"\((\d+)\) data$", re.MULTILINE)
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


class LoadFailed(Exception):
    """h2load is missing, or calls failed; the message says which."""


@dataclass(frozen=True)
class Load:
    """What came of a load.

    Attributes:
        seconds: How long it took.
        calls: The calls that were answered.
        data: The bytes of all replies' bodies.
        latencies: How long each call took, in seconds, but for those that were begun in a time that is not to count.
    """

    seconds: float
    calls: int
    data: int
    latencies: NDArray[np.float64]


def number_of_calls(call: Call, calls: int, in_flight: int) -> Load:
    """Makes so many calls, so many of them at one time: each answer is followed by the next call at once."""
    connections = in_flight if call.transport == "http1" else min(in_flight, CONNECTIONS)
    return _run(call, [f"-c{connections}", f"-m{in_flight // connections}", f"-n{calls}"])


def open_loop(call: Call, rate: float, seconds: float, connections: int, connecting_seconds: float = 0.0) -> Load:
    """Makes calls at a fixed rate, whatever the answers take, so that waiting is counted.

    h2load paces each connection by a timer of its own. The connections are opened one after the other, at the rate of the
    calls and within the time between two calls of one, so that all calls together come evenly.

    Args:
        seconds: For how long.
        connections: Over so many connections.
        connecting_seconds: So long before that calls are made whose latencies do not count.
    """
    each = rate / connections
    opened, milliseconds = spacing(rate)
    pacing = [f"-r{opened}", f"--rate-period={milliseconds}ms", f"--rps={each:.3f}"]
    calls = connections * max(1, round(each * (connecting_seconds + seconds)))
    return _run(call, [f"-c{connections}", "-m1000", f"-n{calls}", *pacing], connecting_seconds)


def spacing(rate: float) -> tuple[int, int]:
    """Returns how many connections to open in how many milliseconds, so that it is about `rate` a second and few at once.

    h2load knows whole milliseconds only.
    """
    if rate < SLOW_RATE:
        return 1, round(1000 / rate)
    share = Fraction(rate / 1000).limit_denominator(1000 // SLOW_RATE)
    return share.numerator, share.denominator


def _run(call: Call, options: list[str], connecting_seconds: float = 0.0) -> Load:
    program = shutil.which("h2load")
    if program is None:
        raise LoadFailed("h2load is not installed; it is in Debian's and Ubuntu's package nghttp2-client")
    with tempfile.TemporaryDirectory() as directory:
        body, log = Path(directory, "body"), Path(directory, "log")
        body.write_bytes(_body(call))
        headers = _GRPC_HEADERS if call.transport == "grpc" else _HTTP_HEADERS
        transport = ["--h1"] if call.transport == "http1" else []
        command = [program, "-t1", *options, *transport, f"-d{body}", f"--log-file={log}", call.url]
        command += [f"-H{header}" for header in headers]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return read(done.stdout + done.stderr, log, connecting_seconds)


def _body(call: Call) -> bytes:
    if call.transport == "http1":
        return call.messages[0]
    return b"".join(b"\0" + len(message).to_bytes(4, "big") + message for message in call.messages)


def read(said: str, log: Path, connecting_seconds: float = 0.0) -> Load:
    """Returns what h2load said, and wrote to its log: a line a call, with its begin and its duration in microseconds.

    Args:
        connecting_seconds: The latencies of calls that were begun so soon after the first are left out.

    Raises:
        LoadFailed: It did not finish, or calls failed.
    """
    requests, finished, data = _REQUESTS.search(said), _FINISHED.search(said), _DATA.search(said)
    if not requests or not finished or not data:
        raise LoadFailed(f"h2load did not finish: {said[-500:]}")
    _, done, succeeded, failed, errored = map(int, requests.groups())
    if failed or errored or succeeded != done or not done:
        raise LoadFailed(f"{failed} calls failed, {errored} had errors, {succeeded} of {done} succeeded")
    begun, took = np.loadtxt(log, np.int64, usecols=(0, 2), ndmin=2).T
    return Load(
        seconds=float(finished[1]) * _UNITS[finished[2]],
        calls=done,
        data=int(data[1]),
        latencies=took[begun - begun.min() >= connecting_seconds * 1e6] / 1e6,
    )
