"""A peer: FastAPI with tritonclient.grpc.aio before the same Triton."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.environments import HERE, python_of
from benchmarks.models import Model
from benchmarks.server_process import Server, StartedServer, free_port
from benchmarks.work import Call, Predictions, Work


class FastApi:
    """See `benchmarks.work.Subject`."""

    name = "fastapi-triton"
    about = (
        "FastAPI on uvicorn (uvloop, httptools) with tritonclient.grpc.aio before the same Triton; JSON over HTTP/1.1."
    )

    def __init__(self, directory: Path, triton_address: str, triton: Server, models: dict[str, Model]) -> None:
        """Starts the server. Raises EnvironmentFailed."""
        self._models = models
        self._port = free_port()
        peer = HERE / "peers" / "fastapi"
        options: list[str | Path] = ["--loop=uvloop", "--http=httptools", "--no-access-log", "--log-level=warning"]
        command = [python_of(peer), "-m", "uvicorn", f"--app-dir={peer}", f"--port={self._port}", *options, "app:app"]
        self.process = StartedServer(self.name, command, directory, os.environ | {"TRITON": triton_address})
        self.servers: Sequence[Server] = [triton, self.process]

    def call(self, work: Work) -> Call | None:
        """Returns a POST with the rows as JSON."""
        if work.stream:
            return None
        rows = self._models[work.model].rows(work.rows)
        path = "images" if rows.ndim > 2 else "rows"
        return Call(
            "http1", f"http://127.0.0.1:{self._port}/{path}/{work.model}", [json_body(rows.tolist())], read_json
        )


def json_body(rows: list[object]) -> bytes:
    """Returns rows as a JSON body without blanks."""
    return json.dumps({"rows": rows}, separators=(",", ":")).encode()


def read_json(reply: bytes) -> Predictions:
    """Returns the predictions of a JSON reply."""
    return np.array(json.loads(reply)["predictions"])
