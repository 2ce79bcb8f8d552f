"""The program with the server under test: `python -m tests.conformance.served GRACE [any]`; ends gracefully at SIGTERM.

With "any" each request counts as a call of gRPC, also those of tools that know HTTP/2 only.
"""

from __future__ import annotations

import asyncio
import signal
import sys

import uvloop

from service.http2 import server as http2
from service.rpc.boundary import Boundary
from service.rpc.server import MESSAGE_MARGIN
from tests.conformance.services import all_methods

MAX_MESSAGE_BYTES = 2**25
MAX_CALLS = 2000


ANSWER_SECONDS = 0.1
"""After this a call that is made of whatever comes begins to be answered: h2spec sends more of it in a write of its own, and
wants to hear what is wrong with that before the call has ended."""


class AnyCall(http2.ServerCall):
    """A call that is made of whatever comes."""

    def headers_ended(self) -> None:
        self._method, self._content_type = b"POST", b"application/grpc"
        self._connection.loop.call_later(ANSWER_SECONDS, self._begin)

    def _begin(self) -> None:
        super().headers_ended()
        self._server.answer_begun()


def new_server(boundary: Boundary) -> http2.Server:
    """Returns the server under test; no other place knows which it is, so that the tests can be tried on another."""
    return http2.Server(boundary, MAX_MESSAGE_BYTES + MESSAGE_MARGIN)


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
    if "any" in sys.argv:
        http2.ServerCall = AnyCall  # type: ignore[misc]  # h2spec has no option for headers
    uvloop.run(serve(float(sys.argv[1])))
