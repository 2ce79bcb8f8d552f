"""A peer: Seldon's MLServer with its scikit-learn and XGBoost runtimes, over gRPC."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tritonclient.grpc import service_pb2

from benchmarks import library_models
from benchmarks.environments import HERE, python_of
from benchmarks.models import Model
from benchmarks.server_process import Server, StartedServer, free_port
from benchmarks.subjects.triton import METHOD, infer_request
from benchmarks.work import Call, Predictions, Work

_RUNTIMES = {
    "forest": ("mlserver_sklearn.SKLearnModel", "forest.joblib"),
    "light": ("mlserver_sklearn.SKLearnModel", "light.joblib"),
    "xgboost": ("mlserver_xgboost.XGBoostModel", "xgboost.json"),
}


@dataclass(frozen=True)
class SetUp:
    """One way to run MLServer.

    Attributes:
        workers: `parallel_workers`: processes for inference; 0 keeps it in the server's own.
        batching: Whether requests are gathered into batches ("adaptive batching").
    """

    workers: int
    batching: bool

    @property
    def about(self) -> str:
        """One sentence."""
        where = f"{self.workers} parallel workers" if self.workers else "inference in the server's process"
        batches = "with adaptive batching" if self.batching else "without adaptive batching"
        return f"MLServer over gRPC, sklearn and xgboost runtimes, {where}, {batches}."


SET_UPS = {
    "mlserver": SetUp(0, False),
    "mlserver-batching": SetUp(0, True),
    "mlserver-workers": SetUp(2, False),
    "mlserver-workers-batching": SetUp(2, True),
}
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""The threads of several workers' libraries would stand in each other's way."""

_BATCH_ROWS = 64
_BATCH_SECONDS = 0.005


class MlServer:
    """See `benchmarks.work.Subject`."""

    def __init__(self, name: str, directory: Path, models: Mapping[str, Model]) -> None:
        """Starts one of `SET_UPS`. Raises EnvironmentFailed."""
        self.name = name
        self.about = SET_UPS[name].about
        self._models = models
        python = python_of(HERE / "peers" / "mlserver")
        fitted = directory / "mlserver-models"
        if not fitted.exists():
            library_models.fit(python, models, fitted)
        folder = directory / name
        self._port = free_port()
        _write_settings(SET_UPS[name], folder, fitted, self._port)
        self.process = StartedServer(name, [python.parent / "mlserver", "start", "."], folder, os.environ | ONE_THREAD)
        self.servers: Sequence[Server] = [self.process]

    def call(self, work: Work) -> Call | None:
        """Returns a ModelInfer of the Open Inference Protocol."""
        if work.stream or work.model not in _RUNTIMES:
            return None
        message = infer_request(self._models[work.model], work.rows)
        return Call("grpc", f"http://127.0.0.1:{self._port}/{METHOD}/ModelInfer", [message], _predictions)


def _write_settings(set_up: SetUp, folder: Path, fitted: Path, port: int) -> None:
    ports = {"host": "127.0.0.1", "grpc_port": port, "http_port": free_port(), "metrics_port": free_port()}
    server = ports | {"parallel_workers": set_up.workers, "debug": False, "logging_settings": None}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.json").write_text(json.dumps(server))
    batching = {"max_batch_size": _BATCH_ROWS, "max_batch_time": _BATCH_SECONDS} if set_up.batching else {}
    for name, (runtime, file) in _RUNTIMES.items():
        settings = {"name": name, "implementation": runtime, "parameters": {"uri": str(fitted / file)}}
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "model-settings.json").write_text(json.dumps(settings | batching))


def _predictions(reply: bytes) -> Predictions:
    response = service_pb2.ModelInferResponse.FromString(reply)
    output = response.outputs[0]
    if response.raw_output_contents:
        dtype = {"INT64": "<i8", "FP32": "<f4", "FP64": "<f8"}[output.datatype]
        return np.frombuffer(response.raw_output_contents[0], dtype).ravel()
    contents = output.contents
    return np.array(contents.int64_contents or contents.fp32_contents or contents.fp64_contents)
