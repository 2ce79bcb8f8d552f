"""FitServe itself, with the Triton that it runs."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil
from fitserve import _tensors
from fitserve.v1 import data_pb2, prediction_service_pb2

from benchmarks.models import Model
from benchmarks.server_process import Server, ServerFailed, StartedServer
from benchmarks.work import STREAM_MESSAGES, Call, Predictions, Work
from service.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
_SERVING = re.compile(r"serving on (\S+:\d+)")
_SERVICE = "fitserve.v1.PredictionService"


class FitServe:
    """See `benchmarks.work.Subject`.

    Attributes:
        name: "fitserve", and "fitserve-1" if it predicts in one process only.
        address: host:port of its gRPC.
        service: Its processes, with those for training.
        triton: The embedded Triton.
        triton_address: host:port of the embedded Triton's gRPC.
    """

    def __init__(self, directory: Path, models: dict[str, Model], **settings: str) -> None:
        """Starts the service with settings beside the default ones, and returns when it serves."""
        alone = settings.get("PREDICTION_PROCESSES") == "1"
        self.name = "fitserve-1" if alone else "fitserve"
        set_up = "that predicts in one process" if alone else "in its default set-up"
        self.about = f"FitServe {set_up}: Predict and PredictStream with the rows as a tensor."
        self._models = models
        environment = _without_settings() | {
            "LISTEN": "127.0.0.1:0",
            "MODEL_DIR": str(directory / "models"),
            "GRACE_SECONDS": "5",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'clients/python'}",
            **settings,
        }
        self.process = StartedServer("fitserve", [sys.executable, "-m", "service"], directory, environment)
        self.process.wait_until(lambda: bool(_SERVING.search(self.process.log.read_text())))
        found = _SERVING.search(self.process.log.read_text())
        assert found
        self.address = found[1]
        self.triton = EmbeddedTriton(self.process.pid)
        self.triton_address = f"127.0.0.1:{self.triton.port()}"
        self.service = Server("fitserve", self.process.pid, without=[self.triton])

    @property
    def servers(self) -> Sequence[Server]:
        """The service and its Triton, which is thawed first."""
        return [self.triton, self.service]

    def memory(self) -> int:
        """Returns the resident memory of the processes that answer calls, in bytes."""
        first, *others = self.service.processes()
        answering = [first, *(one for one in others if "service.prediction_process" in one.cmdline())]
        return sum(int(one.memory_info().rss) for one in answering)

    def call(self, work: Work) -> Call:
        """Returns a Predict, or a PredictStream."""
        inputs = data_pb2.Inputs(tensor=_tensors.encode(self._models[work.model].rows(work.rows)))
        url = f"http://{self.address}/{_SERVICE}/Predict"
        if not work.stream:
            request = prediction_service_pb2.PredictRequest(model=work.model, inputs=inputs)
            return Call("grpc", url, [request.SerializeToString()], _predictions)
        return Call("grpc", f"{url}Stream", list(_stream(work.model, inputs)), _stream_predictions)


def _stream(model: str, inputs: data_pb2.Inputs) -> Iterable[bytes]:
    config = prediction_service_pb2.PredictStreamConfig(model=model)
    yield prediction_service_pb2.PredictStreamRequest(config=config).SerializeToString()
    yield from [prediction_service_pb2.PredictStreamRequest(inputs=inputs).SerializeToString()] * STREAM_MESSAGES


def _predictions(reply: bytes) -> Predictions:
    return _tensors.decode(prediction_service_pb2.PredictResponse.FromString(reply).prediction_tensor)


def _stream_predictions(reply: bytes) -> Predictions:
    message = prediction_service_pb2.PredictStreamResponse.FromString(reply)
    if message.WhichOneof("result") != "response":
        raise ValueError(f"batch {message.index}: {message.error.message}")
    return _tensors.decode(message.response.prediction_tensor)


def _without_settings() -> dict[str, str]:
    """Returns the environment without the settings of the user's own service, so that the defaults are measured."""
    own = set(Settings.model_fields) - {"triton_python"}
    return {name: value for name, value in os.environ.items() if name.lower() not in own}


class EmbeddedTriton(Server):
    """The launcher of FitServe's Triton and all below it, also when FitServe has had to start it again."""

    def __init__(self, service: int) -> None:
        """Takes the process id of a service that serves."""
        super().__init__("triton", service)

    def processes(self) -> list[psutil.Process]:
        """See `Server`."""
        for process in psutil.Process(self.pid).children():
            if "triton_runtime" in process.cmdline():
                return [process, *process.children(recursive=True)]
        return []

    def port(self) -> int:
        """Returns the port of its gRPC. Raises ServerFailed if there is none."""
        for process in self.processes():
            for connection in process.net_connections("tcp"):
                if connection.status == "LISTEN":
                    return int(connection.laddr.port)
        raise ServerFailed("FitServe runs without a Triton of its own; unset TRITON_URL")
