"""The limit above FitServe: a bare grpc.aio server that echoes FitServe's messages."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from benchmarks.server_process import Server, StartedServer, free_port
from benchmarks.subjects.fitserve_service import ROOT, FitServe
from benchmarks.work import Call, Predictions, Work


class Echo:
    """See `benchmarks.work.Subject`."""

    def __init__(
        self,
        loop: Literal["asyncio", "uvloop"],
        directory: Path,
        fitserve: FitServe,
        expected: Mapping[str, Predictions],
    ) -> None:
        """Starts the server on one of two event loops.

        Args:
            loop: The event loop.
            directory: For its log.
            fitserve: Whose calls are echoed.
            expected: The predictions of each model, which a right echo counts as.
        """
        self.name = "grpc-echo" if loop == "asyncio" else "grpc-echo-uvloop"
        self.about = f"A bare grpc.aio server on {loop} that answers Predict with the bytes of the request."
        self._fitserve = fitserve
        self._expected = expected
        self._port = free_port()
        command = [sys.executable, "-m", "benchmarks.subjects.echo_server", str(self._port), loop]
        self.process = StartedServer(self.name, command, directory, os.environ | {"PYTHONPATH": str(ROOT)})
        self.servers: Sequence[Server] = [self.process]

    def call(self, work: Work) -> Call | None:
        """Returns FitServe's own call, to another address."""
        if work.stream:
            return None
        call = self._fitserve.call(work)
        expected = call.messages[0]

        def read(reply: bytes) -> Predictions:
            if reply != expected:
                raise ValueError("the echo is not what was said")
            return self._expected[work.model][: work.rows]

        return Call("grpc", call.url.replace(self._fitserve.address, f"127.0.0.1:{self._port}"), call.messages, read)
