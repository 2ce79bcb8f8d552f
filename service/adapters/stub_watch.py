"""Notices the death of a stub that Triton does not notice: its Python backend waits for ever for the first message of one.

A stub is the process of a model. Triton sees that one has died as soon as it once gave a sign of life, within some seconds,
and reaps it; one that was killed before that stays a zombie, and the load of its model never ends.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path

NOTICE_SECONDS = 10.0
"""So long after the death of a stub Triton must have noticed it: it needs one to six."""

_LOOK_SECONDS = 0.5


async def stub_is_lost(triton: int) -> None:
    """Returns when a stub that Triton starts from now on has died and Triton does not notice.

    Args:
        triton: The process id of tritonserver.
    """
    before = _children(triton)
    died: dict[int, float] = {}
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        dead = {pid for pid in _children(triton) - before if _is_zombie(pid)}
        died = {pid: died.get(pid, time.monotonic()) for pid in dead}
        if any(time.monotonic() - since > NOTICE_SECONDS for since in died.values()):
            return


def _children(pid: int) -> set[int]:
    found: set[int] = set()
    with suppress(FileNotFoundError, ProcessLookupError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                found |= set(map(int, (thread / "children").read_text().split()))
    return found


def _is_zombie(pid: int) -> bool:
    try:
        # The command's name stands in brackets and may hold any character: read after the last bracket.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
