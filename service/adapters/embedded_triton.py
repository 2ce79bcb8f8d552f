"""Runs the embedded Triton: starts its launcher, passes on its log, and ends it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from collections import deque
from contextlib import suppress
from pathlib import Path

from service.adapters.operator_models import check_requirements

_log = logging.getLogger("fitserve.triton")

# The folder that holds the package `triton_runtime`; its interpreter has no other way to find it.
_ROOT = Path(__file__).resolve().parents[2]
_START_TIMEOUT = 90.0
_GRACE = 5.0
_LONGEST_LINE = 1 << 20
_LAST_LINES = 20
_LEVELS = {"E": logging.ERROR, "W": logging.WARNING, "I": logging.INFO}
# Triton says these as if they were errors: whenever a machine has no GPU, and whenever a model is loaded from memory, as
# the self-test's is.
_HARMLESS = ("CudaDriverHelper has not been initialized", "Failed to set config modification time")


class TritonStartError(Exception):
    """Triton did not start; the message says why and how to mend it."""


class EmbeddedTriton:
    """One run of Triton as a child process.

    If this process dies, by whatever means, the launcher notices and ends Triton. An object is used once: to
    start Triton again, make a new one.
    """

    def __init__(self, python: Path, model_repository: Path, grpc_port: int = 0, stop_timeout: float = 5.0) -> None:
        """Describe the run.

        Args:
            python: Interpreter of the Triton environment.
            model_repository: Folder with the models; it exists.
            grpc_port: Loopback port wanted; 0, or a port that is taken, means any free one.
            stop_timeout: Seconds that Triton may take to complete requests in flight; 0 ends it at once.
        """
        self._python = python
        self._model_repository = model_repository
        self._grpc_port = grpc_port
        self._stop_timeout = stop_timeout
        self._launcher: asyncio.subprocess.Process | None = None
        self._log_copy: asyncio.Task[None] | None = None
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._pid: int | None = None

    @property
    def pid(self) -> int | None:
        """Process id of tritonserver, or None before it has started."""
        return self._pid

    async def start(self) -> str:
        """Start Triton and return its gRPC address, ``host:port``, once it answers.

        Raises:
            TritonStartError: It does not start; its last messages are in the log.
        """
        if not self._python.is_file():
            raise TritonStartError(f"the Triton environment {self._python} is missing; run 'make setup'")
        try:
            self._launcher = await self._launch()
        except OSError as error:
            raise TritonStartError(f"{self._python} cannot be run: {error.strerror}; run 'make setup'") from error
        self._log_copy = asyncio.create_task(self._copy_log(self._launcher), name="triton-log")
        try:
            event = await asyncio.wait_for(self._first_event(self._launcher), _START_TIMEOUT)
            if event["event"] != "ready":
                raise TritonStartError(str(event["message"]))
        except BaseException as error:  # a cancelled start leaves no process either
            await self.stop()
            if isinstance(error, Exception):
                _log.error("Triton did not start; its last messages were:\n%s", "\n".join(self._last_lines))
            if isinstance(error, TimeoutError):
                raise TritonStartError(f"Triton did not answer within {_START_TIMEOUT:.0f} s") from error
            raise
        self._pid = int(event["pid"])
        return str(event["address"])

    async def check_requirements(self, model: str) -> None:
        """Check that the environment has what an operator's model needs. Raises ServiceError LOAD_FAILED."""
        await check_requirements(self._python, self._model_repository / model)

    async def wait(self) -> int:
        """Wait until the launcher has ended and return its exit code (4: Triton died by itself).

        Raises:
            RuntimeError: It was never started.
        """
        if self._launcher is None:
            raise RuntimeError("the embedded Triton has not been started")
        return await self._launcher.wait()

    async def stop(self) -> None:
        """End Triton, all its stubs and their shared memory. Calling it again, or too early, does nothing."""
        launcher = self._launcher
        if launcher is None:
            return
        if launcher.returncode is None:
            with suppress(ProcessLookupError):
                launcher.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(launcher.wait(), self._stop_timeout + _GRACE)
            except TimeoutError:
                _log.warning("Triton's launcher %d does not end; killing it", launcher.pid)
                launcher.kill()
                await launcher.wait()
        if self._log_copy is not None:
            # After a killed launcher the stubs hold the pipe open until they notice.
            await asyncio.wait([self._log_copy], timeout=_GRACE)

    async def _launch(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            self._python,
            "-m",
            "triton_runtime",
            f"--model-repository={self._model_repository}",
            f"--grpc-port={self._grpc_port}",
            f"--stop-timeout={self._stop_timeout}",
            "--stop-when-stdin-closes",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(_ROOT)},
            start_new_session=True,
            limit=_LONGEST_LINE,
        )

    async def _first_event(self, launcher: asyncio.subprocess.Process) -> dict[str, str | int | float]:
        assert launcher.stdout is not None
        line = await launcher.stdout.readline()
        if line:
            event: dict[str, str | int | float] = json.loads(line)
            return event
        code = await launcher.wait()
        return {
            "event": "failed",
            "message": f"'{self._python} -m triton_runtime' ended with exit code {code}",
        }

    async def _copy_log(self, launcher: asyncio.subprocess.Process) -> None:
        assert launcher.stderr is not None
        while True:
            try:
                line = await launcher.stderr.readline()
            except ValueError:  # longer than the limit; what was read of it is gone
                continue
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            if text and not any(harmless in text for harmless in _HARMLESS):
                self._last_lines.append(text)
                _log.log(_LEVELS.get(text[0], logging.INFO), "%s", text)
