"""What ``/proc`` says about processes: identity, listening port, and who waits for them."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path

_LISTENING = "0A"
_PR_SET_CHILD_SUBREAPER = 36


def start_ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot, or None when it has ended.

    Together with the process id this names a process for good; an id alone is used again.
    """
    try:
        # The command's name stands in brackets and may hold any character: read after the last bracket.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, started = fields[0], fields[19]
    return None if state in "ZX" else int(started)


def pid_namespace() -> int:
    """Return the number of this process's pid namespace; process ids mean nothing outside of it."""
    return Path("/proc/self/ns/pid").stat().st_ino


def listening_ports(pid: int) -> set[int]:
    """Return the TCP ports on which a process listens.

    Asking the kernel, rather than connecting, cannot mistake another program's port for this process's.
    """
    sockets = _socket_inodes(pid)
    ports = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        except OSError:  # the process has just ended, or the kernel has no IPv6
            continue
        for fields in map(str.split, lines):
            if fields[3] == _LISTENING and fields[9] in sockets:
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports


def _socket_inodes(pid: int) -> set[str]:
    """Inode numbers of a process's sockets; its other files are in the set too, under their names."""
    inodes = set()
    try:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed in between
                inodes.add(str(descriptor.readlink()).removeprefix("socket:[").removesuffix("]"))
    except OSError:  # the process has ended
        return set()
    return inodes


def become_subreaper() -> None:
    """Make this process the new parent of descendants whose own parent ends, so that it can await them."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def reap_children() -> None:
    """Wait until every child of this process has ended."""
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
