"""A service for the demo: on a free port, in a directory of its own, and gone afterwards."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 120.0
STOP_SECONDS = 40.0
SERVING = re.compile(r"serving on (\S+:\d+)")


class DemoFailed(Exception):
    """Something is not as it should be; the message says what."""


class DemoService:
    """Runs `python -m service` for the length of a with statement.

    Attributes:
        address: host:port of its gRPC.
    """

    def __init__(self, cores: int, max_loaded: int) -> None:
        """Says what the service may use; the with statement starts it."""
        self.address = ""
        self._settings = {"TRAINING_CORES": str(cores), "MAX_LOADED_MODELS": str(max_loaded), "LISTEN": "127.0.0.1:0"}
        self._directory = tempfile.TemporaryDirectory(prefix="fitserve-demo-")
        self._process: subprocess.Popen[bytes] | None = None
        self._log = Path(self._directory.name, "service.log")

    def __enter__(self) -> DemoService:
        """Starts the service. Raises DemoFailed with its log if it does not serve."""
        environment = os.environ | self._settings | {"MODEL_DIR": str(Path(self._directory.name, "models"))}
        with self._log.open("wb") as log:
            # In a session of its own, so that Ctrl-C reaches the demo alone, which then stops the service.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "service"], cwd=ROOT, env=environment, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            if found := SERVING.search(self._log.read_text()):
                self.address = found[1]
                return self
            time.sleep(0.05)
        raise DemoFailed(f"the service does not start:\n{self._log.read_text()}")

    def stop(self) -> None:
        """Stops the service as an operator would. Raises DemoFailed if it does not end well or leaves a process."""
        assert self._process is not None
        family = _descendants(self._process.pid)
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(STOP_SECONDS)
        if code != 0:
            raise DemoFailed(f"the service ended with exit code {code}:\n{self._log.read_text()}")
        left = [pid for pid in family if Path(f"/proc/{pid}").exists()]
        if left:
            raise DemoFailed(f"the service left processes behind: {left}")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Ends the service if it still runs, and deletes its directory."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._directory.cleanup()


def _descendants(pid: int) -> list[int]:
    """Returns the ids of all processes below one."""
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        children += [int(child) for child in (task / "children").read_text().split()]
    return children + [below for child in children for below in _descendants(child)]
