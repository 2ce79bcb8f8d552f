"""A peer: Ray Serve's gRPC proxy with dynamic batching."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import library_models
from benchmarks.environments import HERE, python_of
from benchmarks.models import Model
from benchmarks.server_process import Server, StartedServer, free_port
from benchmarks.subjects.fitserve_service import ROOT, FitServe
from benchmarks.work import Call, Work


class RayServe:
    """See `benchmarks.work.Subject`."""

    name = "ray-serve"
    about = "Ray Serve over gRPC, the libraries' own models, one replica with dynamic batching; FitServe's messages."

    def __init__(self, directory: Path, fitserve: FitServe, models: Mapping[str, Model]) -> None:
        """Starts the server. Raises EnvironmentFailed."""
        self._fitserve = fitserve
        peer = HERE / "peers" / "ray"
        python = python_of(peer)
        library_models.fit(python, models, directory / "ray-models")
        self._port = free_port()
        command: list[str | Path] = [
            python,
            peer / "app.py",
            directory / "ray-models",
            str(self._port),
            str(free_port()),
        ]
        environment = os.environ | {
            "PYTHONPATH": str(ROOT / "clients/python"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "HOME": str(directory / "ray-home"),  # it leaves an access token there
        }
        Path(environment["HOME"]).mkdir(parents=True)
        self.process = StartedServer(self.name, command, directory, environment)
        self.servers: Sequence[Server] = [self.process]

    def call(self, work: Work) -> Call | None:
        """Returns FitServe's own call, to another address."""
        if work.stream or work.model not in library_models.SERVED:
            return None
        call = self._fitserve.call(work)
        return Call(
            "grpc", call.url.replace(self._fitserve.address, f"127.0.0.1:{self._port}"), call.messages, call.read
        )
