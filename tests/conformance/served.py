"""The program with the server under test: `python -m tests.conformance.served GRACE`; ends gracefully at SIGTERM."""

from __future__ import annotations

import asyncio
import signal
import sys

import grpc.aio
import uvloop

from service.rpc.boundary import Boundary
from service.rpc.server import MESSAGE_MARGIN
from tests.conformance.services import all_methods

MAX_MESSAGE_BYTES = 2**25
MAX_CALLS = 2000


def new_server(boundary: Boundary) -> grpc.aio.Server:
    """Returns the server under test, to which this is the only place that knows it."""
    options = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES + MESSAGE_MARGIN),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", 2**14),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 100),
    ]
    return grpc.aio.server(handlers=[boundary], options=options)


async def serve(grace: float) -> None:
    """Serves on a free port, which is printed, until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = new_server(Boundary(all_methods().handlers, MAX_CALLS, MAX_MESSAGE_BYTES))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"serving on 127.0.0.1:{port}", flush=True)
    await stop.wait()
    await server.stop(grace)


if __name__ == "__main__":
    uvloop.run(serve(float(sys.argv[1])))
