"""A real gateway for tests: built once, started on a free port, stopped."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from tests.service_process import ROOT

BINARY = ROOT / "gateway/bin/fitserve-gateway"
SERVING = re.compile(r"serving on (http://\S+:\d+)")
START_SECONDS = 30.0
ANSWER_SECONDS = 120.0
"""A new service's first training waits for the import of its libraries, which takes long on a busy machine."""

Json = Any  # what json.loads returns; the tests say what they expect of it


def build() -> None:
    """Builds the gateway, one test process at a time; skips the test where that cannot be."""
    for tool in ("go", "npm"):
        if not shutil.which(tool):
            pytest.skip(f"the gateway needs {tool}, which is not on PATH")
    BINARY.parent.mkdir(exist_ok=True)
    with (BINARY.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        built = subprocess.run(["make", "gateway"], cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr


def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Runs the gateway to its end, for what it refuses."""
    environment = os.environ | settings
    return subprocess.run([BINARY, *arguments], env=environment, capture_output=True, text=True, timeout=20)


class Answer(NamedTuple):
    """What came back over HTTP."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Json:
        """The body as JSON."""
        return json.loads(self.body)


class GatewayProcess:
    """A running gateway.

    Attributes:
        url: Where it listens.
        log: The file with its log.
    """

    def __init__(self, directory: Path, service: str, **settings: str) -> None:
        """Starts the gateway in front of the service at an address, and returns when it listens."""
        build()
        self.log = directory / f"gateway-{time.monotonic_ns()}.log"
        environment = os.environ | {
            "GATEWAY_LISTEN": "127.0.0.1:0",
            "GATEWAY_SERVICE": service,
            "GATEWAY_GRACE_SECONDS": "5",
            **settings,
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([BINARY], env=environment, stdout=log, stderr=log)
        self.url = self._wait_until_serving()

    def _wait_until_serving(self) -> str:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            if found := SERVING.search(self.log.read_text()):
                return found[1]
            time.sleep(0.02)
        self.process.kill()
        self.process.wait()
        raise AssertionError(f"the gateway does not serve:\n{self.log.read_text()}")

    @property
    def address(self) -> str:
        """host:port."""
        return urlsplit(self.url).netloc

    def connect(self, seconds: float = ANSWER_SECONDS) -> http.client.HTTPConnection:
        """Returns a connection."""
        return http.client.HTTPConnection(self.address, timeout=seconds)

    def call(self, method: str, path: str, body: Json = None, **headers: str) -> Answer:
        """Makes a call; a body that is no bytes is sent as JSON. Underscores in names of headers become hyphens."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = self.connect()
        try:
            connection.request(method, path, data, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def lines(self, path: str) -> Iterator[Json]:
        """Yields the lines of a stream as they come."""
        connection = self.connect()
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            assert response.headers["Content-Type"] == "application/x-ndjson"
            for line in response:
                yield json.loads(line)
        finally:
            connection.close()

    def stop(self, seconds: float = 20.0) -> int:
        """Ends the gateway as an operator would (SIGTERM) and returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)
