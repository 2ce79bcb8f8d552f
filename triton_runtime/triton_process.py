"""One tritonserver process together with the stubs that it starts."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from triton_runtime.processes import listening_ports, reap_children
from triton_runtime.shared_memory import remove_regions

_BIND_LIFE = Path(__file__).parent / "die_with_parent.py"


class TritonProcess:
    """A context in which Triton runs; leaving it ends Triton, every stub and their shared memory.

    Triton leads a process group of its own, to which its stubs belong.

    Attributes:
        pid: Process id of tritonserver, and of its group.
        exit_fd: A descriptor that becomes readable when tritonserver has ended.
    """

    def __init__(self, arguments: list[str], environment: dict[str, str], shm_prefix: str) -> None:
        """Start Triton. What it and its stubs print goes to standard error."""
        self._shm_prefix = shm_prefix
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-E", str(_BIND_LIFE), str(os.getpid()), *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            process_group=0,
        )
        self.pid = self._process.pid
        self.exit_fd = os.pidfd_open(self.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Not yet reaped, so the group's id still belongs to it and cannot hit anybody else.
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self.exit_fd)
        reap_children()
        remove_regions(self._shm_prefix)

    @property
    def has_ended(self) -> bool:
        """Whether tritonserver itself has ended; its stubs may still run."""
        return self._ends_within(0.0)

    @property
    def ports(self) -> set[int]:
        """The ports on which Triton answers; none while it starts."""
        return listening_ports(self.pid)

    def finish(self, timeout: float) -> None:
        """Let Triton complete what is in flight, for at most so many seconds."""
        if timeout > 0 and not self.has_ended:
            os.kill(self.pid, signal.SIGTERM)
            self._ends_within(timeout)

    def _ends_within(self, seconds: float) -> bool:
        return bool(select.select([self.exit_fd], [], [], seconds)[0])
