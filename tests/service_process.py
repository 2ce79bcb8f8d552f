"""A real `python -m service` for tests: started on a free port, watched, killed or stopped."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
SERVING = re.compile(r"serving on (\S+:\d+)")
START_SECONDS = 60.0


class ServiceProcess:
    """A running service.

    Attributes:
        address: host:port of its gRPC.
        model_dir: Its model directory.
        log: The file with its log.
    """

    def __init__(self, directory: Path, **settings: str) -> None:
        """Starts the service and returns when it serves.

        Args:
            directory: Where its models and its log are kept; a second service on the same one continues the first's state.
            settings: Environment variables.

        Raises:
            AssertionError: It does not serve in time; the message has its log.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self.model_dir = directory / "models"
        self.log = directory / f"service-{time.monotonic_ns()}.log"
        environment = os.environ | {
            "LISTEN": "127.0.0.1:0",
            "MODEL_DIR": str(self.model_dir),
            "TRAINING_CORES": "2",
            "MAX_LOADED_MODELS": "100",
            "GRACE_SECONDS": "5",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'clients/python'}",
            **settings,
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service"], cwd=directory, env=environment, stdout=log, stderr=log
            )
        self.address = self._wait_until_serving()

    @property
    def pid(self) -> int:
        """The service's process id."""
        return self.process.pid

    def _wait_until_serving(self) -> str:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            if found := SERVING.search(self.log.read_text()):
                return found[1]
            time.sleep(0.02)
        self.kill()
        raise AssertionError(f"the service does not serve:\n{self.log.read_text()}")

    def family(self) -> list[psutil.Process]:
        """Returns the service's process and all those below it."""
        try:
            service = psutil.Process(self.pid)
            return [service, *service.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> None:
        """Ends the service as a crash would (SIGKILL)."""
        self.process.kill()
        self.process.wait()

    def stop(self, seconds: float = 30.0) -> int:
        """Ends the service as an operator would (SIGTERM) and returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)
