"""The gRPC server: its options, its one interceptor, its services."""

from __future__ import annotations

from dataclasses import dataclass

import grpc
import grpc.aio
from fitserve.v1 import (
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
    server_service_pb2_grpc,
    training_service_pb2_grpc,
)
from grpc_health.v1 import health, health_pb2_grpc

from service.rpc.boundary import Boundary
from service.rpc.model_servicer import ModelServicer
from service.rpc.prediction_servicer import PredictionServicer
from service.rpc.reflection import add_reflection
from service.rpc.server_servicer import ServerServicer
from service.rpc.training_servicer import TrainingServicer

PREDICTION_SERVICE = "fitserve.v1.PredictionService"
SERVICES = (
    "fitserve.v1.ModelService",
    PREDICTION_SERVICE,
    "fitserve.v1.ServerService",
    "fitserve.v1.TrainingService",
)

MESSAGE_MARGIN = 2**20
"""gRPC refuses larger messages by itself, without our details; within the margin the boundary does it."""

KEEPALIVE_MS = 60_000
"""The server pings callers whose connection has been silent for so long."""

KEEPALIVE_TIMEOUT_MS = 20_000
"""A connection whose ping is not answered in so long is closed."""


@dataclass(frozen=True)
class Servicers:
    """The services' implementations."""

    training: TrainingServicer
    models: ModelServicer
    predictions: PredictionServicer
    server: ServerServicer
    health: health.aio.HealthServicer


def build_server(servicers: Servicers, max_calls: int, max_message_bytes: int) -> grpc.aio.Server:
    """Returns a server that is not started and has no port yet."""
    server = grpc.aio.server(
        interceptors=[Boundary(max_calls, max_message_bytes)],
        options=[
            # By default a second server could take the same port without an error, and half of the calls.
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", max_message_bytes + MESSAGE_MARGIN),
            ("grpc.max_send_message_length", -1),
            # A caller who is gone without a word (a machine that lost its power) is noticed within a minute or so, and its
            # streams end. By default that takes two hours.
            ("grpc.keepalive_time_ms", KEEPALIVE_MS),
            ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
            # By default the server sends no more than two pings while no data flows.
            ("grpc.http2.max_pings_without_data", 0),
            # Clients that keep idle connections alive are welcome.
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
        ],
    )
    training_service_pb2_grpc.add_TrainingServiceServicer_to_server(servicers.training, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(servicers.models, server)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(servicers.predictions, server)
    server_service_pb2_grpc.add_ServerServiceServicer_to_server(servicers.server, server)
    health_pb2_grpc.add_HealthServicer_to_server(servicers.health, server)
    add_reflection(server, (*SERVICES, health.SERVICE_NAME))
    return server
