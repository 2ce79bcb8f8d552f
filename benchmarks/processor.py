"""Who used the processors while something was measured."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from contextlib import suppress

import psutil

from benchmarks.server_process import Server


class ProcessorTime:
    """The processor time that was used since this object was made.

    A machine that does something else at the same time measures that too; `others` shows it.
    """

    def __init__(self, servers: Sequence[Server]) -> None:
        """Takes the servers that are measured."""
        self._servers = servers
        self._began = time.monotonic()
        self._before = self._used()

    def seconds(self) -> dict[str, float]:
        """Returns seconds by name of server, for "h2load" (with the benchmark itself), and for "others"."""
        now = self._used()
        used = {name: seconds - self._before.get(name, 0.0) for name, seconds in now.items()}
        all_together = used.pop("machine")
        return used | {"others": max(0.0, all_together - sum(used.values()))}

    def foreign_share(self) -> float:
        """Returns the share of all processors that others used, from 0 to 1."""
        elapsed = (time.monotonic() - self._began) * (psutil.cpu_count() or 1)
        return self.seconds()["others"] / elapsed

    def _used(self) -> dict[str, float]:
        machine = psutil.cpu_times()
        # The kernel's work on packets is charged to nobody, and is the load's own.
        found = {"machine": machine.user + machine.nice + machine.system + machine.steal}
        for server in self._servers:
            found[server.name] = sum(map(_of_process, server.processes()))
        own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        # What ended servers used belongs to no load; they end before and after, never within one.
        return found | {"h2load": sum(usage.ru_utime + usage.ru_stime for usage in own)}


def _of_process(process: psutil.Process) -> float:
    with suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0
