"""A service on gRPC whose calls do what a test needs: refuse for any reason, wait, answer with much."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fitserve.v1 import (
    data_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2,
    prediction_service_pb2_grpc,
    server_service_pb2,
    server_service_pb2_grpc,
)
from tritonclient.grpc import service_pb2 as oip
from tritonclient.grpc import service_pb2_grpc as oip_grpc

from service.domain.errors import Reason, ServiceError
from service.http2 import server as http2
from service.rpc.boundary import Boundary, Methods

METADATA = {
    "field": "inputs.rows[0]",
    "model": "iris",
    "version": "7",
    "job": "3f2a",
    "dataset": "sha256:00",
    "limit": "8",
    "loaded": "iris,wine",
    "total": "2",
    "limit_bytes": "1024",
}
"""What the details of one reason or another are made of."""


def refusal(reason: str) -> ServiceError:
    """Returns an error of a reason, as the domain raises it; the text has what JSON and HTTP must not spoil."""
    return ServiceError(Reason(reason), f'"{reason}" in Köln, 2 > 1 & \\ so on', METADATA)


@dataclass
class Calls:
    """What has reached the service."""

    metadata: list[dict[str, str]] = field(default_factory=list)
    seconds_left: list[float] = field(default_factory=list)
    begun: asyncio.Event = field(default_factory=asyncio.Event)


class Models(model_service_pb2_grpc.ModelServiceServicer):
    """GetModel refuses for the reason that the model is called by."""

    async def GetModel(self, request: model_service_pb2.GetModelRequest, context: Any) -> Any:
        raise refusal(request.model)


class Inference(oip_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]  # tritonclient has no types
    """ModelMetadata refuses for the reason that the model is called by."""

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        raise refusal(request.name)

    async def ServerReady(self, request: Any, context: Any) -> Any:
        return oip.ServerReadyResponse(ready=False)


class Server(server_service_pb2_grpc.ServerServiceServicer):
    """GetStatus notes what came with the call; with x-request-id "slow" it takes a second."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def GetStatus(self, request: Any, context: Any) -> server_service_pb2.GetStatusResponse:
        metadata = dict(context.invocation_metadata())
        self._calls.metadata.append(metadata)
        self._calls.seconds_left.append(context.time_remaining())
        self._calls.begun.set()
        if metadata.get("x-request-id") == "slow":
            await asyncio.sleep(1.0)
        return server_service_pb2.GetStatusResponse(version="scripted")


class Predictions(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict answers with as many bytes as the version says."""

    async def Predict(self, request: prediction_service_pb2.PredictRequest, context: Any) -> Any:
        tensor = data_pb2.Tensor(data=bytes(request.version))
        return prediction_service_pb2.PredictResponse(prediction_tensor=tensor)


@asynccontextmanager
async def scripted_service(port: int = 0) -> AsyncIterator[tuple[str, Calls]]:
    """Runs the service behind the real boundary, and gives its address and what reached it. Port 0 is a free one."""
    calls = Calls()
    methods = Methods()
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(Models(), methods.server)
    server_service_pb2_grpc.add_ServerServiceServicer_to_server(Server(calls), methods.server)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Predictions(), methods.server)
    oip_grpc.add_GRPCInferenceServiceServicer_to_server(Inference(), methods.server)
    boundary = Boundary(methods.handlers, 100, 2**26)
    server = http2.Server(boundary, 2**27)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield f"127.0.0.1:{port}", calls
    finally:
        await server.stop(None)
