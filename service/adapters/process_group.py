"""Processes and their groups: whether one is alive, what memory it has, and how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
_POLL_SECONDS = 0.005
_PAGE = os.sysconf("SC_PAGE_SIZE")


def kill_group(leader: int) -> None:
    """Sends SIGKILL to every process of a group; does nothing if the group has ended.

    Raises:
        ValueError: The id is 0, which would mean this process's own group, or 1.
    """
    if leader <= 1:
        raise ValueError(f"{leader} is not the leader of a process group")
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def kill_with_group(leader: int) -> None:
    """Sends SIGKILL to a group and to its leader, which has no group yet when it was just forked."""
    kill_group(leader)
    with suppress(ProcessLookupError):
        os.kill(leader, signal.SIGKILL)


def group_is_alive(leader: int) -> bool:
    """Returns whether a process of the group runs; zombies, which only wait to be reaped, do not count."""
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return any(_runs_in_group(entry, leader) for entry in _PROC.iterdir() if entry.name.isdigit())


async def wait_for_group_end(leader: int, seconds: float) -> bool:
    """Waits at most `seconds` until no process of the group runs; returns whether that is so."""
    try:
        async with asyncio.timeout(seconds):
            while group_is_alive(leader):  # noqa: ASYNC110 - the kernel tells nobody of a group's end
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        return False
    return True


class ProcProcesses:
    """Implements the port Processes."""

    def memory_bytes(self, pid: int) -> int:
        """Returns the resident memory of a process in bytes, 0 if there is no such process."""
        resident, _ = _resident_bytes(pid)
        return resident


def own_bytes(pid: int) -> int:
    """Returns the resident memory of a process that no file backs, 0 if there is no such process.

    What a forked process has not written to is still its parent's, and counts all the same.
    """
    resident, file_backed = _resident_bytes(pid)
    return resident - file_backed


def family_bytes(leader: int) -> int:
    """Returns the memory of a process as `own_bytes`, and what its descendants have written to besides."""
    return own_bytes(leader) + sum(_written_bytes(pid) for pid in _descendants(leader))


def _resident_bytes(pid: int) -> tuple[int, int]:
    """Returns the resident memory of a process, and how much of it files back."""
    try:
        _, resident, file_backed, *_ = (_PROC / str(pid) / "statm").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0, 0
    return int(resident) * _PAGE, int(file_backed) * _PAGE


def _runs_in_group(process: Path, leader: int) -> bool:
    try:
        # The command's name stands in brackets and may hold any character: read after the last bracket.
        state, _, group = (process / "stat").read_text().rpartition(")")[2].split()[:3]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return int(group) == leader and state not in "ZX"


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in (_PROC / str(pid) / "task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                for child in map(int, (task / "children").read_text().split()):
                    found += [child, *_descendants(child)]
    return found


def _written_bytes(pid: int) -> int:
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended, or has become somebody else's
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Private_Dirty:", "Swap:")))
