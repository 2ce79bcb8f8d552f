"""The gRPC server: its options, its services, and the boundary around them."""

from __future__ import annotations

from dataclasses import dataclass

from fitserve.v1 import (
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
    server_service_pb2_grpc,
    training_service_pb2_grpc,
)
from grpc_health.v1 import health, health_pb2_grpc
from tritonclient.grpc import service_pb2_grpc as oip_pb2_grpc

from service.http2.server import Server
from service.rpc.boundary import Boundary, Methods
from service.rpc.following import FollowingOip, FollowingPredictions
from service.rpc.model_servicer import ModelServicer
from service.rpc.oip_servicer import SERVICE as OIP_SERVICE
from service.rpc.oip_servicer import OipServicer
from service.rpc.prediction_servicer import PredictionServicer
from service.rpc.reflection import add_reflection
from service.rpc.relay import Relay
from service.rpc.server_servicer import ServerServicer
from service.rpc.training_servicer import TrainingServicer

PREDICTION_SERVICE = "fitserve.v1.PredictionService"
PREDICTING = (PREDICTION_SERVICE, OIP_SERVICE)
"""The services that answer only while Triton does."""

SERVICES = (
    "fitserve.v1.ModelService",
    PREDICTION_SERVICE,
    "fitserve.v1.ServerService",
    "fitserve.v1.TrainingService",
    OIP_SERVICE,
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
    oip: OipServicer
    health: health.aio.HealthServicer


def build_server(servicers: Servicers, max_calls: int, max_message_bytes: int, share_port: bool = False) -> Server:
    """Returns a server that is not started and has no port yet.

    Args:
        share_port: Whether other processes listen on its port too.
    """
    methods = Methods()
    training_service_pb2_grpc.add_TrainingServiceServicer_to_server(servicers.training, methods.server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(servicers.models, methods.server)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(servicers.predictions, methods.server)
    server_service_pb2_grpc.add_ServerServiceServicer_to_server(servicers.server, methods.server)
    oip_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicers.oip, methods.server)
    health_pb2_grpc.add_HealthServicer_to_server(servicers.health, methods.server)
    add_reflection(methods, (*SERVICES, health.SERVICE_NAME))
    boundary = Boundary(methods.handlers, max_calls, max_message_bytes)
    return Server(boundary, max_message_bytes + MESSAGE_MARGIN, share_port)


def build_following_server(
    predictions: FollowingPredictions, oip: FollowingOip, relay: Relay, max_calls: int, max_message_bytes: int
) -> Server:
    """Returns the server of a further process, not started and without a port yet: what it does not do is passed on."""
    methods = Methods()
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(predictions, methods.server)
    handlers = {**relay.handlers(), **methods.handlers, **oip.handlers()}
    boundary = Boundary(handlers, max_calls, max_message_bytes)
    return Server(boundary, max_message_bytes + MESSAGE_MARGIN, share_port=True)


def _options(max_message_bytes: int, share_port: bool) -> list[tuple[str, int]]:
    return [
        # By default a second server could take the same port without an error, and half of the calls.
        ("grpc.so_reuseport", int(share_port)),
        ("grpc.max_receive_message_length", max_message_bytes + MESSAGE_MARGIN),
        ("grpc.max_send_message_length", -1),
        *keepalive_options(KEEPALIVE_MS, KEEPALIVE_TIMEOUT_MS),
        # Clients that keep idle connections alive are welcome.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


def keepalive_options(time_ms: int, timeout_ms: int) -> list[tuple[str, int]]:
    """Returns the options with which a server notices callers who are gone without a word, and ends their calls.

    By default it would take two hours to notice a machine that lost its power.

    Args:
        time_ms: A caller who was silent for so long is pinged.
        timeout_ms: One who does not answer in so long is gone.
    """
    return [
        ("grpc.keepalive_time_ms", time_ms),
        ("grpc.keepalive_timeout_ms", timeout_ms),
        # Pings have a time-out of their own, of a minute, and it is the one that counts while the other's kernel answers.
        ("grpc.http2.ping_timeout_ms", timeout_ms),
        # By default no more than two pings are sent while no data flows.
        ("grpc.http2.max_pings_without_data", 0),
    ]
