"""A service for the demo: one of its own, on a free port and gone afterwards, or one that runs already."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType

import fitserve
import psutil

from service.settings import Settings
from training.limits import end_with_parent

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 120.0
STOP_SECONDS = 40.0
LEAST_CORES = 2
"""The demo trains several models at the same time."""
SERVING = re.compile(r"serving on (\S+:\d+)")


class DemoFailed(Exception):
    """Something is not as it should be; the message says what."""


class DemoService:
    """Runs `python -m service` for the length of a with statement.

    Attributes:
        address: host:port of its gRPC, once it serves.
    """

    def __init__(self, cores: int, max_loaded: int) -> None:
        """Starts the service, which may use `cores` for training and load `max_loaded` models."""
        self.address = ""
        self._directory = tempfile.TemporaryDirectory(prefix="fitserve-demo-")
        self._log = Path(self._directory.name, "service.log")
        environment = _without_settings() | {
            "LISTEN": "127.0.0.1:0",
            "MODEL_DIR": str(Path(self._directory.name, "models")),
            "TRAINING_CORES": str(cores),
            "MAX_LOADED_MODELS": str(max_loaded),
            "GRACE_SECONDS": "5",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'clients/python'}",
        }
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "service"],
                cwd=self._directory.name,
                env=environment,
                stdout=log,
                stderr=log,
                # Ctrl-C reaches the demo alone, which then stops the service; a demo that is killed takes it along.
                start_new_session=True,
                preexec_fn=partial(end_with_parent, os.getpid()),
            )

    def __enter__(self) -> DemoService:
        """Returns the service, which is starting."""
        return self

    def wait_until_serving(self) -> None:
        """Returns when the service answers. Raises DemoFailed with its log if it does not."""
        deadline = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            if found := SERVING.search(self._log.read_text()):
                self.address = found[1]
                return
            time.sleep(0.05)
        raise DemoFailed(f"the service does not start:\n{self._log.read_text()}")

    def stop(self) -> str:
        """Stops the service as an operator would. Returns what came of it.

        Raises:
            DemoFailed: It does not end in time or with exit code 0, or leaves a process or shared memory behind.
        """
        pids = [process.pid for process in self._processes()]
        code = self._terminate()
        if code != 0:
            raise DemoFailed(f"the service ended with exit code {code}:\n{self._log.read_text()}")
        if left := [f"{process.pid} {process.name()}" for process in self._processes()]:
            raise DemoFailed(f"the service left processes behind: {left}")
        if regions := [region.name for pid in pids for region in Path("/dev/shm").glob(f"fitserve-{pid}-*")]:
            raise DemoFailed(f"the service left shared memory behind: {regions}")
        return "[bold]Unloaded, removed, stopped[/]: no model, process or shared memory is left"

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Ends the service if it still runs, and deletes its directory."""
        try:
            self._terminate()
        finally:
            self._directory.cleanup()

    def _terminate(self) -> int:
        """Returns the exit code, which is that of SIGKILL if the service had to be killed."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _processes(self) -> list[psutil.Process]:
        """Returns all processes of the service, whoever is their parent now: those that know of its directory."""
        found = []
        for process in psutil.process_iter():
            # Processes of other users cannot be asked, and some end while they are.
            with suppress(psutil.Error):
                if process.pid != os.getpid() and self._directory.name in process.environ().get("MODEL_DIR", ""):
                    found.append(process)
        return found


class RunningService:
    """A service that somebody else runs, empty and with the room that the demo wants.

    Args:
        address: host:port of its gRPC.
        max_loaded: The MAX_LOADED_MODELS that it must have been started with.
    """

    def __init__(self, address: str, max_loaded: int) -> None:
        self.address = address
        self._max_loaded = max_loaded

    def __enter__(self) -> RunningService:
        """Returns the service."""
        return self

    def wait_until_serving(self) -> None:
        """Raises DemoFailed if the service is not one for the demo, which ends with the removal of all models."""
        with fitserve.Client(self.address) as client:
            status = client.status()
            if models := [model.name for model in client.models()]:
                raise DemoFailed(f"the service has models already, which the demo would remove: {models}")
        if status.models.limit != self._max_loaded or status.training.total_cores < LEAST_CORES:
            raise DemoFailed(
                f"start the service with MAX_LOADED_MODELS={self._max_loaded} and TRAINING_CORES=2 or more"
            )

    def stop(self) -> str:
        """Leaves the service alone. Returns what came of it."""
        return "[bold]Unloaded, removed[/]: no model is left"

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Leaves the service alone."""


def _without_settings() -> dict[str, str]:
    """Returns the environment without the settings of the user's own service, which the demo must not touch."""
    own = set(Settings.model_fields) - {"triton_python"}
    return {name: value for name, value in os.environ.items() if name.lower() not in own}
