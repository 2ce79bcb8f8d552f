"""Names and removes the shared memory regions of Triton's Python backend.

Triton and each stub exchange tensors through a file in ``/dev/shm``. A stub that is killed leaves its file
behind, and the files of a crashed server would fill the machine's memory. Each name therefore says which
launcher it belongs to.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from triton_runtime.processes import pid_namespace, start_ticks

_DIRECTORY = Path("/dev/shm")
_NAME = re.compile(r"fitserve-(?P<pid>\d+)-(?P<ticks>\d+)-(?P<namespace>\d+)-")


def region_prefix() -> str:
    """Return how this launcher's regions begin: ``fitserve-<pid>-<start ticks>-<pid namespace>-``."""
    return f"fitserve-{os.getpid()}-{start_ticks(os.getpid())}-{pid_namespace()}-"


def remove_regions(prefix: str) -> None:
    """Remove the regions of one launcher, whose Triton and stubs have ended."""
    for region in _DIRECTORY.glob(f"{prefix}*"):
        _remove(region)


def remove_abandoned_regions() -> None:
    """Remove the regions of launchers that are no longer alive.

    Regions of another pid namespace stay: whether their owner lives cannot be seen from here.
    """
    for region in _DIRECTORY.glob("fitserve-*"):
        if is_abandoned(region.name):
            _remove(region)


def is_abandoned(region: str) -> bool:
    """Return whether a name is that of a region whose launcher, of this pid namespace, is no longer alive."""
    owner = _NAME.match(region)
    if owner is None or int(owner["namespace"]) != pid_namespace():
        return False
    return start_ticks(int(owner["pid"])) != int(owner["ticks"])


def _remove(region: Path) -> None:
    # Another launcher may sweep at the same time, and another user's regions are not ours to remove.
    with suppress(FileNotFoundError, PermissionError):
        region.unlink()
