"""Reports events, one JSON object a line."""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Mapping
from types import TracebackType

from training.errors import FitError

_STEP_INTERVAL_SECONDS = 0.05
_HEARTBEAT_SECONDS = 1.0
_HEARTBEAT_STACK_BYTES = 256 * 1024


class Progress:
    """Writes the events of one training to a file descriptor.

    As a context manager it also sends a heartbeat a second, from a thread.

    Args:
        file_descriptor: Where to write.
    """

    def __init__(self, file_descriptor: int) -> None:
        self._file_descriptor = file_descriptor
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._waiting_step: dict[str, object] | None = None
        self._last_step_time = -_STEP_INTERVAL_SECONDS

    def started(self, train_rows: int, validation_rows: int) -> None:
        """Reports that the data is read and how it is split."""
        self._write({"event": "started", "train_rows": train_rows, "validation_rows": validation_rows})

    def step(self, number: int, total: int, unit: str, metrics: Mapping[str, float] | None = None) -> None:
        """Reports a finished step.

        Steps that come faster than 20 a second are thinned out; the last one is always reported.

        Args:
            number: The number of the step, from 1.
            total: The number of steps planned.
            unit: round, epoch, tree or iteration.
            metrics: What was measured after the step.
        """
        self._waiting_step = {
            "event": "step",
            "number": number,
            "total": total,
            "unit": unit,
            "metrics": {name: value for name, value in (metrics or {}).items() if math.isfinite(value)},
            "progress": round(number / total, 6),
        }
        now = time.monotonic()
        if now - self._last_step_time >= _STEP_INTERVAL_SECONDS:
            self._last_step_time = now
            self.flush()

    def flush(self) -> None:
        """Reports the latest step if that was put off."""
        if self._waiting_step is not None:
            self._write(self._waiting_step)
            self._waiting_step = None

    def done(self, metrics: Mapping[str, float]) -> None:
        """Reports that the version is written, with its metrics on the held-out rows."""
        self.flush()
        self._write({"event": "done", "metrics": dict(metrics)})

    def failed(self, error: FitError) -> None:
        """Reports the end without a version."""
        self.flush()
        self._write({"event": "failed", "reason": error.reason, "message": error.message, "field": error.field})

    def __enter__(self) -> Progress:
        """Starts the heartbeat."""
        # A thread's stack counts in full against the memory limit, so the thread gets a small one.
        size = threading.stack_size(_HEARTBEAT_STACK_BYTES)
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        threading.stack_size(size)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops the heartbeat."""
        self._stopped.set()

    def _beat(self) -> None:
        while not self._stopped.wait(_HEARTBEAT_SECONDS):
            self._write({"event": "heartbeat", "memory_bytes": resident_bytes()})

    def _write(self, event: Mapping[str, object]) -> None:
        line = json.dumps(event, allow_nan=False).encode() + b"\n"
        with self._lock:
            while line:
                line = line[os.write(self._file_descriptor, line) :]


def resident_bytes() -> int:
    """Returns the resident memory of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
