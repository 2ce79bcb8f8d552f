"""A peer: BentoML with adaptive batching, over HTTP."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks import library_models
from benchmarks.environments import HERE, python_of
from benchmarks.models import Model
from benchmarks.server_process import Server, StartedServer, free_port
from benchmarks.work import Call, Predictions, Work


class BentoMl:
    """See `benchmarks.work.Subject`."""

    name = "bentoml"
    about = "BentoML, the libraries' own models, one worker with adaptive batching; JSON over HTTP/1.1."

    def __init__(self, directory: Path, models: Mapping[str, Model]) -> None:
        """Starts the server. Raises EnvironmentFailed."""
        self._models = models
        peer = HERE / "peers" / "bentoml"
        python = python_of(peer)
        library_models.fit(python, models, directory / "bentoml-models")
        self._port = free_port()
        where: list[str | Path] = ["--working-dir", peer, "--host", "127.0.0.1", "--port", str(self._port)]
        environment = os.environ | {
            "MODELS": str(directory / "bentoml-models"),
            "WORKERS": "1",
            "BENTOML_HOME": str(directory / "bentoml-home"),
            "BENTOML_DO_NOT_TRACK": "True",
            "BENTOML_CONFIG_OPTIONS": "api_server.logging.access.enabled=false",
        }
        command: list[str | Path] = [python.parent / "bentoml", "serve", "service:Models", *where]
        self.process = StartedServer(self.name, command, directory, environment)
        self.servers: Sequence[Server] = [self.process]

    def call(self, work: Work) -> Call | None:
        """Returns a POST with the rows as JSON."""
        if work.stream or work.model not in library_models.SERVED:
            return None
        rows = self._models[work.model].rows(work.rows).tolist()
        body = json.dumps({"features": rows}, separators=(",", ":")).encode()
        return Call("http1", f"http://127.0.0.1:{self._port}/{work.model}", [body], _predictions)


def _predictions(reply: bytes) -> Predictions:
    return np.array(json.loads(reply))
