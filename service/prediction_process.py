"""`python -m service.prediction_process`: a further process that answers predictions.

The primary process starts it, tells it what is loaded, gives it connections of callers, and ends it. It has no registry, no
database and no jobs: all but the predictions of loaded versions is passed on.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from contextlib import suppress
from typing import Any


def main() -> int:
    """Runs the process and returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m service.prediction_process", description="Started by the service.")
    parser.add_argument("--link", type=int, required=True, help="the socket to the primary process")
    parser.add_argument(
        "--callers", type=int, required=True, help="the socket from which the callers' connections come"
    )
    parser.add_argument("--parent", type=int, required=True, help="the primary's process id")
    arguments = parser.parse_args()
    from service.adapters.parent import end_with_parent

    end_with_parent(arguments.parent)
    from service import grpc_core, memory

    grpc_core.set_up()
    import uvloop

    memory.keep_small()
    with suppress(EOFError):
        uvloop.run(_serve(arguments.link, arguments.callers))
    return 0


async def _serve(link_descriptor: int, callers_descriptor: int) -> None:
    """Answers predictions until the primary process, or a signal, says stop."""
    from service import logs, memory
    from service.adapters.handed_over import take_connections
    from service.adapters.primary_link import PrimaryLink
    from service.bootstrap import build_prediction_process
    from service.settings import PredictionProcessSettings

    link = await PrimaryLink.open(link_descriptor)
    settings = PredictionProcessSettings.model_validate(await link.settings())
    logs.set_up(settings.log_level)
    process = build_prediction_process(settings, link.crashed, link.caller_gone)
    stop: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    def stop_within(seconds: float) -> None:
        link.stopping()
        if not stop.done():
            stop.set_result(seconds)

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop_within, settings.grace_seconds)

    async def serve() -> None:
        memory.settle()
        await process.server.start()
        take_connections(callers_descriptor, process.server.adopt, link.caller_lost)

    obeying = asyncio.ensure_future(link.obey(process.follower, serve, stop_within))
    either: tuple[asyncio.Future[Any], ...] = (obeying, stop)  # Any: they return different things
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if not stop.done():
        await obeying  # raises what went wrong; if nothing has, the primary is gone
        return
    await process.server.stop(stop.result())
    obeying.cancel()
    await process.follower.close()
    await process.channel.close()


if __name__ == "__main__":
    sys.exit(main())
