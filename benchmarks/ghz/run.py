"""A load from its first call to its report (ghz's runner/requester.go and runner/run.go)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, replace
from typing import Any

from google.protobuf.descriptor import MethodDescriptor

from benchmarks.ghz.calls import Caller
from benchmarks.ghz.config import Config, ConfigError
from benchmarks.ghz.connections import open_channel
from benchmarks.ghz.descriptors import find_method
from benchmarks.ghz.pacing import pacer_of, worker_changes
from benchmarks.ghz.payload import Payload
from benchmarks.ghz.report import Result, report
from benchmarks.ghz.templates import CallData

# How grpc-go tells of a call whose connection its own side has closed.
CLOSED_STREAM = ("Canceled", "rpc error: code = Canceled desc = grpc: the client connection is closing")
CLOSED_UNARY = ("Unavailable", "rpc error: code = Unavailable desc = transport is closing")


async def run(config: Config, interrupted: asyncio.Event | None = None) -> dict[str, Any]:  # Any: a report is JSON
    """Runs a load against `config.host` and returns ghz's report of it.

    Args:
        interrupted: Ends the load when it is set, as Ctrl-C ends ghz.

    Raises:
        ConfigError: The configuration does not fit the server, or there is no server to tell of its methods.
    """
    if not config.host:
        raise ConfigError("host: required")
    async with open_channel(config) as asking:
        method = await find_method(config, asking)
    payload = Payload(config, method)
    async with contextlib.AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(open_channel(config)) for _ in range(config.connections)]
        load = _Load(config, method, [Caller(config, method, payload, channel) for channel in channels])
        watching = asyncio.ensure_future(_stop_when(interrupted, load)) if interrupted else None
        try:
            total = await load.run()
        finally:
            if watching:
                watching.cancel()
    return report(config, payload.echo, load.results, total, load.end_reason)


async def _stop_when(interrupted: asyncio.Event, load: _Load) -> None:
    await interrupted.wait()
    load.stop("cancel")


@dataclass(eq=False)
class _Worker:
    """One of those who call at the same time.

    Attributes:
        id: As templates see it.
        stopped: Whether it makes no further call.
    """

    id: str
    caller: Caller
    stopped: bool = False


class _Load:
    """The workers of a load, which take turns at one pacer."""

    def __init__(self, config: Config, method: MethodDescriptor, callers: list[Caller]) -> None:
        self.results: list[Result] = []
        self.end_reason = "normal"
        self._config = config
        self._method = method
        self._callers = callers
        self._pacer = pacer_of(config)
        self._workers: list[_Worker] = []
        self._turn = asyncio.Lock()
        self._over = asyncio.Event()
        self._closed = self._ignoring = False
        self._calls = self._began = 0

    async def run(self) -> int:
        """Runs the load to its end and returns the nanoseconds it took."""
        self._began = time.perf_counter_ns()
        timer = None
        if self._config.seconds_limit:
            timer = asyncio.get_running_loop().call_later(self._config.seconds_limit, self.stop, "timeout")
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow_schedule(tasks))
        except* ConfigError as errors:
            raise errors.exceptions[0] from None
        finally:
            if timer:
                timer.cancel()
        return time.perf_counter_ns() - self._began

    def stop(self, reason: str) -> None:
        """Ends the load before its time; what becomes of calls at work is `duration-stop`'s choice."""
        self.end_reason = reason
        self._over.set()
        self._ignoring = self._config.duration_stop == "ignore"
        if self._config.duration_stop == "wait":
            return
        self._closed = True
        for caller in self._callers:
            for call in tuple(caller.running):
                call.cancel()

    async def _follow_schedule(self, tasks: asyncio.TaskGroup) -> None:
        """Starts and stops workers at their times. A load without any worker left is over."""
        for moment, change in worker_changes(self._config):
            if await self._over_within(moment - self._elapsed()):
                return
            for _ in range(change):
                tasks.create_task(self._work(self._new_worker(), tasks))
            active = [worker for worker in self._workers if not worker.stopped]
            for worker in active[: max(0, -change)]:
                worker.stopped = True
        if all(worker.stopped for worker in self._workers):
            self._over.set()

    def _new_worker(self) -> _Worker:
        number = len(self._workers)
        connection = number % len(self._callers)
        name = f"{self._config.name.strip()}:" if self._config.name.strip() else ""
        self._workers.append(_Worker(f"{name}g{number}c{connection}", self._callers[connection]))
        return self._workers[-1]

    async def _work(self, worker: _Worker, tasks: asyncio.TaskGroup) -> None:
        while (number := await self._next_call(worker)) is not None:
            call = self._call(worker, number)
            if self._config.asynchronous:
                tasks.create_task(call)
                await asyncio.sleep(0)
            else:
                await call

    async def _next_call(self, worker: _Worker) -> int | None:
        """Waits for the worker's turn and the pacer's time; returns the call's number, or None if there is none."""
        async with self._turn:
            if worker.stopped or self._over.is_set():
                return None
            wait = self._pacer.pace(self._elapsed(), self._calls)
            if wait is None:
                self._over.set()
                return None
            if await self._over_within(wait):
                return None
            self._calls += 1
            return self._calls - 1

    async def _call(self, worker: _Worker, number: int) -> None:
        result = await worker.caller.call(CallData(self._method, worker.id, number))
        if self._closed and result.status == "Canceled":
            streams = self._method.client_streaming or self._method.server_streaming
            status, error = CLOSED_STREAM if streams else CLOSED_UNARY
            result = replace(result, status=status, error=error)
        if not self._ignoring:
            self.results.append(result)

    def _elapsed(self) -> int:
        return time.perf_counter_ns() - self._began

    async def _over_within(self, nanoseconds: int) -> bool:
        """Waits so long, or until the load is over; returns whether it is."""
        if nanoseconds > 0 and not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(nanoseconds / 1e9):
                    await self._over.wait()
        return self._over.is_set()
