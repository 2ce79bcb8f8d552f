"""The processes of a server under measurement: started, stopped, and frozen while another one is measured."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil

from training.limits import end_with_parent

START_SECONDS = 120.0
STOP_SECONDS = 20.0
LAST_LINES = 15


class ServerFailed(Exception):
    """A server does not start; the message says which and has its last words."""


class Server:
    """A process with all those below it.

    Attributes:
        name: The name, for messages.
        pid: Process id of the first process.
    """

    def __init__(self, name: str, pid: int, without: Sequence[Server] = ()) -> None:
        """Takes a process that runs already; `without` are servers below it that count as servers of their own."""
        self.name = name
        self.pid = pid
        self._without = without

    def processes(self) -> list[psutil.Process]:
        """Returns the processes, the oldest first."""
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(self.pid)
            others = {process.pid for server in self._without for process in server.processes()}
            return [one for one in (root, *root.children(recursive=True)) if one.pid not in others]
        return []

    def freeze(self) -> None:
        """Stops all processes where they are (SIGSTOP); they keep their memory and connections."""
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def thaw(self) -> None:
        """Lets frozen processes go on."""
        for process in reversed(self.processes()):
            with suppress(psutil.NoSuchProcess):
                process.resume()


class StartedServer(Server):
    """A server that the benchmark has started.

    Args:
        name: For messages.
        command: What to run.
        directory: Its working directory, where its log goes too.
        environment: Its variables; None for those of the benchmark itself.
    """

    def __init__(
        self, name: str, command: Sequence[str | Path], directory: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.log = directory / f"{name}.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=directory,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=partial(end_with_parent, os.getpid()),
            )
        super().__init__(name, self._process.pid)

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Returns when the server is ready. Raises ServerFailed if it ends, or does not become so in time."""
        deadline = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            if ready():
                return
            time.sleep(0.1)
        ended = self._process.poll()
        raise ServerFailed(f"{self.name} does not start (exit code {ended}):\n{self.last_words()}")

    def last_words(self) -> str:
        """Returns the last lines of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LAST_LINES:])

    def stop(self) -> None:
        """Ends the server and all below it, frozen or not."""
        everyone = Server(self.name, self._process.pid).processes()
        self.thaw()
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        psutil.wait_procs(everyone, timeout=STOP_SECONDS)
        for process in everyone:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()


def free_port() -> int:
    """Returns a port of the loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port
