"""grpc.health.v1: whether the service, and its predictions, are to be called."""

from __future__ import annotations

from grpc_health.v1 import health, health_pb2

from service.rpc.server import PREDICTING, SERVICES


class Health:
    """The answers of the health service.

    The empty name and the services for training and models are SERVING from the end of the start-up to the begin of the
    stop. PredictionService and GRPCInferenceService are SERVING only while Triton answers.
    """

    def __init__(self) -> None:
        self.servicer = health.aio.HealthServicer()

    async def set_all(self, serving: bool) -> None:
        """Sets all services to SERVING or NOT_SERVING."""
        for name in ("", *SERVICES):
            await self._set(name, serving)

    async def set_predictions(self, serving: bool) -> None:
        """Sets the services that predict to SERVING or NOT_SERVING."""
        for name in PREDICTING:
            await self._set(name, serving)

    async def _set(self, name: str, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse
        await self.servicer.set(name, status.SERVING if serving else status.NOT_SERVING)
