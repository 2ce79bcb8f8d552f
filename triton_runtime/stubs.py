"""Finds the stubs of Triton's Python backend that have outlived their launcher.

A stub notices the end of its Triton, but not while it is being started: it then waits for a message for ever.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

from triton_runtime.shared_memory import is_abandoned

_PROGRAM = "triton_python_backend_stub"


def end_abandoned_stubs() -> None:
    """Kill the stubs of launchers that are no longer alive; a stub's command line names its shared memory region."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has ended, or is not ours to see
            continue
        if words[0].endswith(_PROGRAM) and any(map(is_abandoned, words)):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(int(process.name), signal.SIGKILL)
