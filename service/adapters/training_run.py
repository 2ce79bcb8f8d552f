"""One training process, as the service sees it: its pipes, its limits and its end."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

from service.adapters.fork_server_link import Exited, ForkServerLink
from service.adapters.pipe_lines import PipeLines
from service.adapters.process_group import (
    family_bytes,
    kill_group,
    kill_with_group,
    wait_for_group_end,
)
from service.domain.entities import TrainingStep
from service.domain.errors import Reason
from service.domain.ports import (
    ConversionOrder,
    ProcessOrder,
    TrainingEnded,
    TrainingEvent,
    TrainingLog,
    TrainingOrder,
    TrainingProgress,
    TrainingStarted,
)

_log = logging.getLogger("fitserve.trainer")

_LONGEST_EVENT = 1 << 16
_LONGEST_LOG_LINE = 4096
_LARGEST_COUNT = 2**53
_BACKLOG = 1000
_WATCH_SECONDS = 0.2
# How long the fork server may take to report the end of a process that was killed.
_REPORT_SECONDS = 1.0
_GROUP_END_SECONDS = 0.5
_PIPE_END_SECONDS = 0.3
_SIGKILLED = -9
# How a library ends its process that gets no memory and cannot say so: it aborts, or it leaves with EXIT_FAILURE, as
# OpenMP's does (gomp_fatal). A training that leaves with 1 by itself has told why.
_ENDED_BY_LIBRARY = (-6, 1)


@dataclass(frozen=True)
class _Failure:
    reason: str
    message: str
    field: str = ""


class _Absurd(Exception):
    """An event is none that a training can have, although it is JSON."""


class ForkedRun:
    """A training process that a fork server makes; this object exists before the process.

    Args:
        order: What the process is to do.
        heartbeat_timeout: Seconds without an event after which the process counts as stuck.
        on_stuck_server: Called if the fork server does not answer for so long.
        on_end: Called with this run when its last event is there.

    Raises:
        OSError: There are no file descriptors left.
    """

    def __init__(
        self,
        order: ProcessOrder,
        heartbeat_timeout: float,
        on_stuck_server: Callable[[], None],
        on_end: Callable[[ForkedRun], None],
    ) -> None:
        self.job = order.job
        self._order = order
        self._heartbeat_timeout = heartbeat_timeout
        self._on_stuck_server = on_stuck_server
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[TrainingEvent] = asyncio.Queue()
        self._pid = 0
        self._libraries_bytes = 0
        self._peak_bytes = 0
        self._last_sign: float | None = None
        self._sent = False
        self._paused = False
        self._killed = False
        self._failure: _Failure | None = None
        self._metrics: dict[str, float] = {}
        self._gone = asyncio.Event()
        self._finishing: asyncio.Task[None] | None = None
        events, log, self._write_ends = _two_pipes()
        self._pipes = (
            PipeLines(events, _LONGEST_EVENT, self._take_event),
            PipeLines(log, _LONGEST_LOG_LINE, self._take_log_line),
        )
        self._watching = asyncio.create_task(self._watch(), name=f"watch-{self.job}")

    @property
    def pid(self) -> int:
        """The process id, 0 until the process exists."""
        return self._pid

    @property
    def waiting(self) -> bool:
        """Whether no fork server that still lives has been asked."""
        return not self._sent and self._finishing is None

    async def events(self) -> AsyncIterator[TrainingEvent]:
        """Yields the events as they come, and TrainingEnded last, whatever happens to the process."""
        while True:
            event = await self._queue.get()
            if self._paused and self._queue.qsize() < _BACKLOG // 2:
                self._resume()
            yield event
            if isinstance(event, TrainingEnded):
                return

    async def kill(self) -> None:
        """Ends the process and all its children at once. Returns when they are gone."""
        self.kill_soon()
        try:
            async with asyncio.timeout(_REPORT_SECONDS):
                await self._gone.wait()
        except TimeoutError:
            _log.warning("the fork server does not report the end of job %s, process %d", self.job, self._pid)
            self._finish(_SIGKILLED)
            await self._gone.wait()

    def kill_soon(self) -> None:
        """Does what `kill` does without waiting; a process that does not exist yet is killed when it does."""
        if self._finishing is not None:
            return
        self._killed = True
        if self.waiting:
            self._finish(_SIGKILLED)
        elif self._pid:
            kill_with_group(self._pid)

    async def ended(self) -> None:
        """Returns when TrainingEnded is among the events. The end must have begun."""
        if self._finishing is not None:
            await asyncio.shield(self._finishing)

    def send(self, server: ForkServerLink) -> None:
        """Asks a fork server for the process.

        Raises:
            BlockingIOError: The server cannot take the order now.
            OSError: The server is gone.
        """
        assert self._write_ends is not None
        operation = "import" if isinstance(self._order, ConversionOrder) else "fit"
        server.start(operation, self.job, self._order.spec, self._order.model, *self._write_ends)
        self._sent = True
        self._last_sign = self._loop.time()

    @property
    def unstarted(self) -> bool:
        """Whether there is no process and one is still wanted; not if a server had its time to start it."""
        return not self._pid and not self._killed and not self._silent()

    def unsend(self) -> None:
        """Notes that the fork server is gone without having started the process; the next one is to be asked."""
        self._sent = False
        self._last_sign = None

    def started(self, pid: int, libraries_bytes: int) -> None:
        """Notes that the process exists.

        Args:
            pid: The process id.
            libraries_bytes: The memory with which it begins, which does not count as its own.
        """
        self._pid = pid
        self._close_write_ends()  # the process has its own; until now another server might have needed them
        self._libraries_bytes = libraries_bytes
        if self._killed:
            kill_with_group(pid)

    def exited(self, end: Exited) -> None:
        """Notes that the process has ended, as the fork server says."""
        self._finish(end.exit_code, end.peak_memory_bytes, end.cpu_seconds)

    def lost(self) -> None:
        """Notes that the fork server is gone and the process with it."""
        if not self._killed:
            message = "the process that starts trainings died, and this training with it; train again"
            self._fail(Reason.TRAINER_DIED, message)
        if self._pid:
            kill_group(self._pid)
        self._finish(_SIGKILLED)

    def _finish(self, exit_code: int, peak_bytes: int = 0, cpu_seconds: float = 0.0) -> None:
        if self._finishing is None:
            self._watching.cancel()
            self._close_write_ends()
            ending = self._end(exit_code, peak_bytes or self._peak_bytes, cpu_seconds)
            self._finishing = asyncio.create_task(ending, name=f"end-{self.job}")

    async def _end(self, exit_code: int, peak_bytes: int, cpu_seconds: float) -> None:
        if self._pid:
            # Nothing that the process has started outlives it.
            kill_group(self._pid)
            if not await wait_for_group_end(self._pid, _GROUP_END_SECONDS):
                _log.error("processes of the group %d of job %s do not end when killed", self._pid, self.job)
        self._gone.set()
        drained = await asyncio.gather(*(pipe.finish(_PIPE_END_SECONDS) for pipe in self._pipes))
        if not all(drained):
            _log.warning("a process that left its group still holds a pipe of job %s", self.job)
        limited = isinstance(self._order, TrainingOrder) and self._order.memory_limit_bytes
        if limited and exit_code in _ENDED_BY_LIBRARY:
            self._fail(
                Reason.TRAINER_OOM,
                "the training's library ended the process, which they do when they get no more memory: "
                f"memory_limit_bytes is {self._order.memory_limit_bytes}; raise it, or train on fewer rows",
            )
        failure = self._failure or _Failure("", "")
        self._queue.put_nowait(
            TrainingEnded(
                exit_code,
                peak_bytes,
                cpu_seconds,
                self._metrics,
                failure.reason,
                failure.message,
                failure.field,
            )
        )
        self._on_end(self)

    def _close_write_ends(self) -> None:
        for descriptor in self._write_ends or ():
            os.close(descriptor)
        self._write_ends = None

    async def _watch(self) -> None:
        """Kills the process when it is silent for too long or has too much memory."""
        limit = self._order.memory_limit_bytes
        while not self._killed:
            await asyncio.sleep(_WATCH_SECONDS)
            if self._silent():
                if self._pid == 0:
                    self._on_stuck_server()
                    return
                self._fail(
                    Reason.TRAINING_FAILED,
                    f"the training process gave no sign of life for {self._heartbeat_timeout:g} s and was "
                    "ended; fit again, with fewer rows or a smaller model if it happens again",
                )
                await self.kill()
            elif limit is not None and self._pid and await self._memory_bytes() > limit:
                self._fail(
                    Reason.TRAINER_OOM,
                    f"the training needed more memory than the {limit} bytes of memory_limit_bytes; "
                    "raise it, train on fewer rows or make the model smaller",
                )
                await self.kill()

    def _silent(self) -> bool:
        if self._last_sign is None or self._paused:
            return False
        return self._loop.time() - self._last_sign > self._heartbeat_timeout

    async def _memory_bytes(self) -> int:
        """Returns the memory that the process and its children have taken since the fork."""
        return await asyncio.to_thread(family_bytes, self._pid) - self._libraries_bytes

    def _fail(self, reason: Reason, message: str) -> None:
        self._failure = self._failure or _Failure(reason, message)

    def _take_log_line(self, line: str) -> None:
        self._put(TrainingLog(line))

    def _take_event(self, line: str) -> None:
        self._last_sign = self._loop.time()
        try:
            self._take_fields(_fields_of(line))
        except ValueError:
            _log.warning("job %s sent %r as an event, which is none; ignored", self.job, line[:200])
        except (_Absurd, OverflowError):
            _log.error("job %s sent %r as an event, which makes no sense; it is ended", self.job, line[:200])
            self._fail(
                Reason.TRAINING_FAILED,
                "what the training process reported of itself makes no sense, so it was ended; the service's log has it",
            )
            self.kill_soon()

    def _take_fields(self, fields: object) -> None:
        match fields:
            case {"event": "started", "train_rows": int(train), "validation_rows": int(validation)}:
                self._put(TrainingStarted(_count(train), _count(validation)))
            case {
                "event": "step",
                "number": int(number),
                "total": int(total),
                "unit": str(unit),
                "metrics": dict(metrics),
                "progress": float(progress) | int(progress),
            }:
                step = TrainingStep(_count(number), _count(total), unit, _numbers(metrics))
                self._put(TrainingProgress(step, _share(progress)))
            case {"event": "heartbeat", "memory_bytes": int(memory)}:
                self._peak_bytes = max(self._peak_bytes, _count(memory))
            case {"event": "done", "metrics": dict(metrics)}:
                self._metrics = _numbers(metrics)
            case {"event": "failed", "reason": str(reason), "message": str(message), "field": str(field)}:
                self._failure = self._failure or _Failure(Reason(reason), message, field)
            case _:
                raise ValueError("unknown event")

    def _put(self, event: TrainingEvent) -> None:
        self._queue.put_nowait(event)
        if not self._paused and self._finishing is None and self._queue.qsize() >= _BACKLOG:
            self._paused = True
            for pipe in self._pipes:
                pipe.pause()

    def _resume(self) -> None:
        self._paused = False
        self._last_sign = self._loop.time()
        for pipe in self._pipes:
            pipe.resume()


def _two_pipes() -> tuple[int, int, tuple[int, int] | None]:
    """Returns the two read ends and the pair of the write ends."""
    events, their_events = os.pipe()
    try:
        log, their_log = os.pipe()
    except OSError:
        os.close(events)
        os.close(their_events)
        raise
    return events, log, (their_events, their_log)


def _fields_of(line: str) -> object:
    """Returns the JSON value of a line. Raises ValueError if it is none, and _Absurd for one that cannot be read."""
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError):  # a number of too many digits; too deep
        raise _Absurd from None


def _count(number: int) -> int:
    """Returns a number of things. Raises _Absurd if there cannot be so many."""
    if not 0 <= number <= _LARGEST_COUNT:
        raise _Absurd
    return number


def _share(part: float) -> float:
    """Returns a part of the whole. Raises _Absurd if it is not between 0 and 1."""
    if not 0 <= part <= 1:
        raise _Absurd
    return part


def _numbers(metrics: Mapping[str, object]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if isinstance(value, (int, float))}
