"""Memory goes back to the system: glibc keeps what was freed, tens of megabytes after each large message, unless told."""

from __future__ import annotations

import asyncio
import ctypes
import gc
from contextlib import suppress

M_TRIM_THRESHOLD = -1
"""The parameter of glibc's mallopt: so many free bytes at the end of an arena are given back."""

TRIM_THRESHOLD = 128 * 1024
"""glibc's own first value. Unless it is set it grows with each large block that is freed, up to 64 MiB for the arena of
every thread, whose end malloc_trim does not touch. Setting it also keeps the size from growing from which on blocks are
mapped by themselves, and so are given back at once. Measured: without it each 60 MB message left 25 MB more than the one
before."""

FIRST_TRIM_SECONDS = 1.0
"""The time from a large message to the first trim."""

LAST_TRIM_SECONDS = 64.0
"""Each trim is followed by another one after twice the time, up to this."""


def _glibc() -> ctypes.CDLL | None:
    """Returns the C library if it is glibc. Others, such as musl, keep little and cannot be told."""
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None


def keep_small() -> None:
    """Sets up the allocator of the process; to be called before there are threads."""
    if (library := _glibc()) is not None:
        library.mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD)


def settle() -> None:
    """Spares the garbage collector what was loaded at the start and stays. It would look at it again and again: measured,
    without this a one-row prediction costs a fifth more.
    """
    gc.collect()
    gc.freeze()


class Trimmer:
    """Gives back what large messages leave free between other blocks.

    Nobody tells when the memory of a message is free: some calls work on it for minutes, and gRPC is last to let go. So
    several trims follow a message, at growing intervals. Measured with 60 MB: 131 MB resident before a trim, 95 MB after
    it; it takes 10 ms of a thread, and of those who want memory meanwhile.
    """

    def __init__(self) -> None:
        self._library = _glibc()
        self._timer: asyncio.TimerHandle | None = None
        self._delay = 0.0

    def large_message(self) -> None:
        """Notes that a large message has come, or was dealt with."""
        self._delay = FIRST_TRIM_SECONDS
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            if self._timer.when() <= loop.time() + self._delay:
                return  # so that there is a trim even if large messages follow each other faster
            self._timer.cancel()
        self._timer = loop.call_later(self._delay, self._trim)

    def _trim(self) -> None:
        loop = asyncio.get_running_loop()
        if self._library is not None:
            with suppress(RuntimeError):  # the process stops and has no threads any more: it needs no trim either
                loop.run_in_executor(None, self._library.malloc_trim, 0)
        self._delay *= 2
        self._timer = loop.call_later(self._delay, self._trim) if self._delay <= LAST_TRIM_SECONDS else None
