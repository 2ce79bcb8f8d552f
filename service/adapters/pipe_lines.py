"""Reads the lines that another process writes into a pipe, however much and whatever it writes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress

# What a pipe holds: a read that returns so much found it full.
_CHUNK_BYTES = 65536
_PACE_SECONDS = 0.02
_CUT_MARK = " [...]"


class PipeLines:
    """Hands on each line of a pipe; a writer that floods it is slowed down instead of this process.

    Args:
        descriptor: The read end; closed by this object.
        longest: The bytes of a line to keep; the rest is cut off.
        on_line: Called with each line, without its end, undecodable bytes replaced.
    """

    def __init__(self, descriptor: int, longest: int, on_line: Callable[[str], None]) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._longest = longest
        self._on_line = on_line
        self._loop = asyncio.get_running_loop()
        self._line = bytearray()
        self._cut = False
        self._paused = False
        self._finishing = False
        self._closed = False
        self._pace: asyncio.TimerHandle | None = None
        self._ended = asyncio.Event()
        self._listen()

    def pause(self) -> None:
        """Stops reading, so that the writer waits once the pipe is full."""
        self._paused = True
        self._loop.remove_reader(self._descriptor)

    def resume(self) -> None:
        """Reads again after `pause`."""
        self._paused = False
        self._listen()

    async def finish(self, seconds: float) -> bool:
        """Reads to the end and closes the pipe; waits at most `seconds` while somebody holds the write end.

        Returns:
            Whether the end was reached.
        """
        self._finishing = True
        self._paused = False
        self._listen()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        if not self._closed:
            self._close()
        return self._ended.is_set()

    def _listen(self) -> None:
        if not (self._paused or self._closed or self._ended.is_set()):
            self._loop.add_reader(self._descriptor, self._read)

    def _read(self) -> None:
        try:
            chunk = os.read(self._descriptor, _CHUNK_BYTES)
        except BlockingIOError:
            return
        if not chunk:
            self._end()
            return
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            self._extend(line)
            self._emit()
        self._extend(rest)
        if len(chunk) == _CHUNK_BYTES and not self._finishing and not self._paused:
            self._loop.remove_reader(self._descriptor)
            self._pace = self._loop.call_later(_PACE_SECONDS, self._listen)

    def _extend(self, part: bytes) -> None:
        room = self._longest - len(self._line)
        self._line += part[:room]
        self._cut = self._cut or len(part) > room

    def _emit(self) -> None:
        text = self._line.decode("utf-8", "replace") + (_CUT_MARK if self._cut else "")
        self._line.clear()
        self._cut = False
        self._on_line(text)

    def _end(self) -> None:
        if self._line:
            self._emit()
        self._loop.remove_reader(self._descriptor)
        self._ended.set()

    def _close(self) -> None:
        self._closed = True
        if self._pace is not None:
            self._pace.cancel()
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
