"""Starts training processes through a fork server, and starts the fork server again when it dies."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import fitserve

from service.adapters.fork_server_link import Exited, ForkServerLink, Message, Ready, Started
from service.adapters.process_group import kill_with_group, own_bytes
from service.adapters.training_run import ForkedRun
from service.adapters.training_spec import write_spec
from service.domain.errors import Reason, ServiceError
from service.domain.ports import ProcessOrder

_log = logging.getLogger("fitserve.trainer")

_FIRST_DELAY_SECONDS = 0.1
_LONGEST_DELAY_SECONDS = 30.0
# Where `training` and `fitserve` are imported from in this process.
_IMPORT_PATHS = (
    str(Path(__file__).resolve().parents[2]),
    str(Path(next(iter(fitserve.__path__))).resolve().parent),
)
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

# Training has a budget of cores; a GPU would also start threads before the fork.
_NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}


class ForkServerTrainer:
    """Implements the port Trainer: one process an order, forked from an interpreter that has the libraries.

    Args:
        python: The interpreter of the training environment.
        heartbeat_timeout: Seconds without a sign of life after which a training process is killed.
        command: A command in place of `python -m training serve`; `--socket-fd=N` is added to it.
        start_timeout: Seconds that a fork server may take for its imports before it is replaced.
    """

    def __init__(
        self,
        python: Path = Path(sys.executable),
        heartbeat_timeout: float = 120.0,
        command: Sequence[str] | None = None,
        start_timeout: float = 120.0,
    ) -> None:
        # -P: a module in the working directory must not stand in for a library.
        self._command = tuple(command or (str(python), "-P", "-m", "training", "serve"))
        self._heartbeat_timeout = heartbeat_timeout
        self._start_timeout = start_timeout
        self._server: ForkServerLink | None = None
        self._runs: dict[str, ForkedRun] = {}
        self._supervising: asyncio.Task[None] | None = None
        self._launch_failed = False

    async def start(self) -> None:
        """Starts the fork server in the background; its imports take some seconds, orders wait for them.

        Raises:
            ServiceError: TRAINING_FAILED if it cannot be started at all.
        """
        try:
            await self._launch()
        except OSError as error:
            raise _cannot_start() from error
        self._supervising = asyncio.create_task(self._supervise(), name="fork-server")

    async def stop(self) -> None:
        """Ends every process."""
        if self._supervising is None:
            return
        supervising, self._supervising = self._supervising, None
        runs = list(self._runs.values())
        for run in runs:
            run.kill_soon()
        if self._server is None:
            supervising.cancel()
        else:
            self._server.kill()
        await asyncio.wait([supervising])
        await asyncio.gather(*(run.ended() for run in runs))

    async def run(self, order: ProcessOrder) -> ForkedRun:
        """Starts a process for the order; returns before the process exists.

        Raises:
            ServiceError: TRAINING_FAILED if no process can be started; DISK_FULL.
        """
        if self._supervising is None or self._launch_failed:
            raise _cannot_start()
        if order.job in self._runs:
            raise ValueError(f"job {order.job} is running")
        try:
            await asyncio.to_thread(write_spec, order)
            if self._supervising is None:  # stopped meanwhile
                raise _cannot_start()
            run = ForkedRun(order, self._heartbeat_timeout, self._kill_stuck_server, self._forget)
        except OSError as error:
            _log.exception("no process for job %s", order.job)
            raise _cannot_start() from error
        self._runs[order.job] = run
        self._send_waiting()
        return run

    @property
    def idle_interpreters(self) -> int:
        """The number of interpreters that stand ready."""
        return int(self._server is not None and self._server.ready)

    @property
    def active_pids(self) -> tuple[int, ...]:
        """The ids of the training processes, in the order in which they were asked for."""
        return tuple(run.pid for run in self._runs.values() if run.pid)

    async def _launch(self) -> None:
        self._server = await ForkServerLink.launch(self._command, _environment(os.environ), self._take)

    async def _supervise(self) -> None:
        """Starts the fork server again whenever it has died, until `stop`."""
        delay = _FIRST_DELAY_SECONDS
        while True:
            if self._server is not None:
                delay = _FIRST_DELAY_SECONDS if await self._outlive(self._server) else delay
                if self._supervising is None:
                    return
            _log.info("starting the fork server again in %.1f s", delay)
            await asyncio.sleep(delay)
            delay = min(2 * delay, _LONGEST_DELAY_SECONDS)
            try:
                await self._launch()
            except OSError:
                _log.exception("the fork server cannot be started")
            self._launch_failed = self._server is None

    async def _outlive(self, server: ForkServerLink) -> bool:
        """Waits for the end of a fork server and ends its runs; returns whether it had been ready."""
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._start_timeout, self._kill_if_not_ready, server)
        code = await server.wait()
        timer.cancel()
        self._server = None
        for run in list(self._runs.values()):
            # An order for which a working server has started no process can wait for the next one.
            if server.ready and run.unstarted:
                run.unsend()
            else:
                run.lost()
        if self._supervising is not None:
            _log.error("the fork server %d ended with code %d", server.pid, code)
        return server.ready

    def _take(self, message: Message) -> None:
        match message:
            case Ready(seconds):
                _log.info("the fork server is ready after %.1f s", seconds)
                self._send_waiting()
            case Started(job, pid):
                if job in self._runs and self._server is not None:
                    self._runs[job].started(pid, own_bytes(self._server.pid))
                else:
                    kill_with_group(pid)
            case Exited(job):
                if job in self._runs:
                    self._runs[job].exited(message)

    def _send_waiting(self) -> None:
        """Hands the orders that wait to the fork server, as far as it takes them."""
        server = self._server
        if server is None or not server.ready:
            return
        for run in self._runs.values():
            if not run.waiting:
                continue
            try:
                run.send(server)
            except BlockingIOError:
                server.call_when_writable(self._send_waiting)
                return
            except OSError as error:
                _log.error("the fork server %d takes no order: %s", server.pid, error)
                server.kill()
                return

    def _kill_stuck_server(self) -> None:
        if self._server is not None:
            _log.error("the fork server %d does not answer; killing it", self._server.pid)
            self._server.kill()

    def _kill_if_not_ready(self, server: ForkServerLink) -> None:
        if not server.ready:
            _log.error("the fork server %d hangs in its imports; killing it", server.pid)
            server.kill()

    def _forget(self, run: ForkedRun) -> None:
        del self._runs[run.job]


def _environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment of the fork server: one thread a library, the import paths of this process."""
    paths = (*_IMPORT_PATHS, *filter(None, [inherited.get("PYTHONPATH")]))
    return {**inherited, **_ONE_THREAD, **_NO_GPU, "PYTHONPATH": os.pathsep.join(paths)}


def _cannot_start() -> ServiceError:
    return ServiceError(
        Reason.TRAINING_FAILED,
        "no training process can be started now; the service's log says why; try again later",
    )
