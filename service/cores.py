"""How many cores this process may use: what the kernel schedules it on, and what its control group allows."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def available(cgroups: Path = _CGROUPS, own: Path = _OWN_CGROUPS) -> int:
    """Returns the number of cores, at least 1: a container with a limit of 1.5 has 2, whatever the machine has.

    Args:
        cgroups: Where the control groups are mounted, of version 1 or 2.
        own: The file that names the groups of this process.
    """
    return min([len(os.sched_getaffinity(0)), *(max(1, math.ceil(quota)) for quota in _quotas(cgroups, own))])


def _quotas(cgroups: Path, own: Path) -> Iterator[float]:
    """Yields the limits, in cores, of the process's group and of all groups around it."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        path = Path(group.lstrip("/"))
        # Version 1 has a directory for the controllers; a container may see its own group as the root.
        for root in (cgroups / controllers, cgroups / "cpu") if controllers else (cgroups,):
            for directory in (root / path, *(root / parent for parent in path.parents)):
                quota = _quota(directory)
                if quota is not None:
                    yield quota


def _quota(directory: Path) -> float | None:
    """Returns the limit that one group sets, in cores; None if it sets none or is not visible from here."""
    try:
        if (directory / "cpu.max").is_file():  # version 2: "QUOTA PERIOD" or "max PERIOD"
            quota, period = (directory / "cpu.max").read_text().split()
        else:
            quota = (directory / "cpu.cfs_quota_us").read_text().strip()
            period = (directory / "cpu.cfs_period_us").read_text()
        return None if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError):
        return None
