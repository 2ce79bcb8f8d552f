"""The server under test in a process of its own, and the tools that test it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.conformance.callers import AioCaller, Caller, SyncCaller, Watch
from tests.service_process import ROOT

Start = Callable[..., "Served"]


class Served:
    """A running server.

    Attributes:
        address: host:port.
        log: The file with its log.
    """

    def __init__(self, log: Path, grace: float, *options: str) -> None:
        self.log = log
        environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'clients/python'}", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.conformance.served", str(grace), *options]
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("serving on "), log.read_text()
        self.address = line.split()[-1]

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.address.rpartition(":")[2])

    def memory(self) -> int:
        """Returns the bytes that are resident."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def peak(self) -> int:
        """Returns the most bytes that were resident since the last time that this was asked."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")  # see man 5 proc
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        self.process.send_signal(number)

    def stop(self) -> int:
        """Ends it, if it runs still, and returns its exit code."""
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
        finally:
            assert self.process.stdout is not None
            self.process.stdout.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that the tests of a module share. It must live through them all, without a word in its log."""
    server = Served(tmp_path_factory.mktemp("served") / "log", grace=0.5)
    yield server
    assert server.stop() == 0, server.log.read_text()
    assert server.log.read_text() == ""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a server of a test's own: `start(2.0)` has a grace of 2 s."""
    started: list[Served] = []

    def start(grace: float = 0.5, *options: str) -> Served:
        started.append(Served(tmp_path / f"log-{len(started)}", grace, *options))
        return started[-1]

    yield start
    for server in started:
        server.stop()
        assert server.log.read_text() == ""


def tool(name: str) -> str:
    """Returns the path of a program; skips the test where there is none."""
    found = shutil.which(name, path=f"{ROOT / '.tools'}:{os.environ['PATH']}")
    if not found:
        pytest.skip(f"{name} is neither on PATH nor in .tools; make tools installs it where there is a Go")
    return found


@pytest.fixture(params=[SyncCaller, AioCaller], ids=["sync", "aio"])
async def caller(served: Served, request: pytest.FixtureRequest) -> AsyncIterator[Caller]:
    """Each of the two clients for Python, with a connection of its own."""
    caller = request.param(served.address)
    yield caller
    await caller.close()


@pytest.fixture
def watch(served: Served) -> Iterator[Watch]:
    """Looks at the calls of the shared server."""
    watch = Watch(served.address)
    yield watch
    watch.close()
