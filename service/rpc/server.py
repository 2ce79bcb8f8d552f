"""The gRPC server: its services, and the boundary around them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fitserve.v1 import (
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
    server_service_pb2_grpc,
    training_service_pb2_grpc,
)
from grpc_health.v1 import health, health_pb2_grpc
from tritonclient.grpc import service_pb2_grpc as oip_pb2_grpc

from service.http2.server import HandOver, Server
from service.rpc.boundary import Boundary, Methods
from service.rpc.following import PREDICT, FollowingOip, FollowingPredictions
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
"""The transport refuses larger messages, without our details; within the margin the boundary does it."""


@dataclass(frozen=True)
class Servicers:
    """The services' implementations."""

    training: TrainingServicer
    models: ModelServicer
    predictions: PredictionServicer
    server: ServerServicer
    oip: OipServicer
    health: health.aio.HealthServicer


def build_server(
    servicers: Servicers, max_calls: int, max_message_bytes: int, hand_over: HandOver | None = None
) -> Server:
    """Returns a server that is not started and has no port yet.

    Args:
        hand_over: Shares the callers with further processes; None if there are none.
    """
    methods = Methods()
    training_service_pb2_grpc.add_TrainingServiceServicer_to_server(servicers.training, methods.server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(servicers.models, methods.server)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(servicers.predictions, methods.server)
    server_service_pb2_grpc.add_ServerServiceServicer_to_server(servicers.server, methods.server)
    oip_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicers.oip, methods.server)
    health_pb2_grpc.add_HealthServicer_to_server(servicers.health, methods.server)
    add_reflection(methods, (*SERVICES, health.SERVICE_NAME))
    boundary = Boundary(methods.handlers, max_calls, max_message_bytes, begin={PREDICT: servicers.predictions.begin})
    return Server(boundary, max_message_bytes + MESSAGE_MARGIN, hand_over)


def build_following_server(
    predictions: FollowingPredictions,
    oip: FollowingOip,
    relay: Relay,
    max_calls: int,
    max_message_bytes: int,
    on_gone: Callable[[], None],
) -> Server:
    """Returns the server of a further process, not started: it has no port, and what it does not do is passed on.

    Args:
        on_gone: Called whenever a caller's connection has ended.
    """
    methods = Methods()
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(predictions, methods.server)
    handlers = {**relay.handlers(), **methods.handlers, **oip.handlers()}
    boundary = Boundary(handlers, max_calls, max_message_bytes, begin={PREDICT: predictions.begin})
    return Server(boundary, max_message_bytes + MESSAGE_MARGIN, on_gone=on_gone)
