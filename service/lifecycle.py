"""Start, serve, stop: the order in which things come up and go down."""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
from contextlib import suppress

from service import memory
from service.bootstrap import Service, build
from service.rpc.caller import TOKEN
from service.settings import PredictionProcessSettings, Settings

log = logging.getLogger("fitserve")

LAST_NEWS_SECONDS = 3.0
"""Calls have so much longer than trainings to end, so that whoever watches a training is told its end."""


class CannotListen(Exception):
    """The address is taken, or is not this machine's; the message says which."""


async def serve(settings: Settings) -> None:
    """Runs the service until SIGTERM or SIGINT.

    Raises:
        CannotListen, RepositoryInUse, DatabaseNotUsable, ServiceError: It cannot start; the message says why.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with build(settings) as service:
        watcher: asyncio.Task[None] | None = None
        try:
            await service.health.set_all(False)
            port, primary = _bind(service, settings)
            if settings.training_cores > 0:
                await service.trainer.start()
            starting = asyncio.create_task(service.recovery.start())
            if not await _finished_before(starting, stop):
                return
            following = PredictionProcessSettings.of(settings, primary, TOKEN)
            joining = asyncio.create_task(service.followers.start(service.registry, following.model_dump(mode="json")))
            if not await _finished_before(joining, stop):
                return
            await service.server.start()  # not before, or the first callers would all be this process's
            watcher = asyncio.create_task(service.recovery.keep_serving())
            memory.settle()
            await service.health.set_all(True)
            host = settings.listen.rpartition(":")[0]
            log.info("serving on %s:%d, Triton %s", host, port, service.inference.version)
            await _first_of(stop, watcher)
        finally:
            await _stop(service, watcher, settings.grace_seconds)


def _bind(service: Service, settings: Settings) -> tuple[int, str]:
    """Takes the port before anything slow is started.

    Returns:
        The port, and where the further processes find this one; "" if there are none.
    """
    try:
        port = service.server.add_insecure_port(settings.listen)
    except OSError:
        raise CannotListen(f"LISTEN={settings.listen!r}: the address is taken, or is not this machine's") from None
    if settings.prediction_processes == 1:
        return port, ""
    # In the network's name space, not on disk: it ends with this process, however that ends.
    primary = f"unix-abstract:fitserve-{secrets.token_hex(16)}"
    service.server.answer_processes(primary)
    return port, primary


async def _finished_before(task: asyncio.Task[None], stop: asyncio.Event) -> bool:
    """Whether a task ends before the stop; it is cancelled otherwise. Raises what the task raises."""
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([task, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if task.done():
        await task
        return True
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return False


async def _first_of(stop: asyncio.Event, watcher: asyncio.Task[None]) -> None:
    """Returns at the stop; raises if the watcher of Triton fails, which is a bug."""
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([stopping, watcher], return_when=asyncio.FIRST_COMPLETED)
    if watcher.done():
        stopping.cancel()
        await watcher


async def _stop(service: Service, watcher: asyncio.Task[None] | None, grace: float) -> None:
    """Stops everything: callers are told first, streams and trainings may finish, then the processes end."""
    log.info("stopping; calls and trainings have %.0f s", grace)
    service.overview.draining = True
    await service.health.set_all(False)
    # What the further processes pass on is answered here, so they take no more calls before this one does not.
    await service.followers.stop_accepting(grace + LAST_NEWS_SECONDS)
    # Trainings end first: whoever watches one is told its end before the calls are cut off.
    await asyncio.gather(
        service.jobs.drain(grace), service.imports.drain(grace), service.server.stop(grace + LAST_NEWS_SECONDS)
    )
    await service.followers.ended(LAST_NEWS_SECONDS)
    if watcher is not None:
        watcher.cancel()
        await asyncio.wait([watcher])  # what it may have raised is raised by `_first_of`
    await service.registry.close()
    await asyncio.gather(service.trainer.stop(), service.inference.stop())
    log.info("stopped")
