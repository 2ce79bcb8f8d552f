"""Predictions in a further process: what it does not know is asked of the primary one, call by call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from contextvars import ContextVar
from typing import Any

import grpc
from fitserve.v1 import data_pb2, prediction_service_pb2
from tritonclient.grpc import service_pb2 as oip_pb

from service.domain.entities import Choice
from service.domain.follower import NotHere
from service.domain.predictor import Predictor, Request
from service.rpc.boundary import CallAtOnce, Context
from service.rpc.oip_servicer import SERVICE as OIP_SERVICE
from service.rpc.oip_servicer import OipInference
from service.rpc.prediction_servicer import PredictionServicer
from service.rpc.relay import Relay

pb = prediction_service_pb2

PREDICT = "/fitserve.v1.PredictionService/Predict"
PREDICT_STREAM = "/fitserve.v1.PredictionService/PredictStream"
MODEL_INFER = f"/{OIP_SERVICE}/ModelInfer"
MODEL_STREAM_INFER = f"/{OIP_SERVICE}/ModelStreamInfer"

_call: ContextVar[Context] = ContextVar("call")
"""The call that the current task works for."""


class FollowingPredictions(PredictionServicer):
    """Answers with the versions that this process knows, and with what the primary answers for all others.

    Args:
        predictor: The domain, whose `find` raises NotHere.
        stream_batches: The most batches of one stream that are at work at one time.
        relay: Asks the primary.
    """

    def __init__(self, predictor: Predictor, stream_batches: int, relay: Relay) -> None:
        super().__init__(predictor, stream_batches)
        self._relay = relay

    def Predict(
        self, request: pb.PredictRequest, context: Context
    ) -> Coroutine[Any, Any, pb.PredictResponse]:  # Any: what coroutines could be sent
        """Predicts the rows of one request."""
        _call.set(context)
        return super().Predict(request, context)

    def PredictStream(
        self, request_iterator: AsyncIterator[pb.PredictStreamRequest], context: Context
    ) -> AsyncIterator[pb.PredictStreamResponse]:
        """Predicts batch after batch, and answers in order."""
        _call.set(context)
        return super().PredictStream(request_iterator, context)

    def begin(self, request: pb.PredictRequest, call: CallAtOnce) -> Request | None:
        """Begins to answer a request of one small batch, if this process knows its version; returns None for another one."""
        try:
            return super().begin(request, call)
        except NotHere:
            return None

    async def _predict(
        self, model: str, choice: Choice, rows: data_pb2.Inputs, include_probabilities: bool
    ) -> pb.PredictResponse:
        try:
            return await super()._predict(model, choice, rows, include_probabilities)
        except NotHere:
            request = pb.PredictRequest(model=model, inputs=rows, include_probabilities=include_probabilities)
        if isinstance(choice, str):
            request.alias = choice
        elif choice is not None:
            request.version = choice
        [reply] = await self._relay.ask(PREDICT, request, _call.get())
        return pb.PredictResponse.FromString(reply)

    async def _check_answers(self, config: pb.PredictStreamConfig) -> None:
        try:
            await super()._check_answers(config)
        except NotHere:
            stream = pb.PredictStreamRequest(config=config)
        else:
            return
        await self._relay.ask(PREDICT_STREAM, stream, _call.get())  # a stream without batches has only its errors


class FollowingOip(OipInference):
    """The same for the Open Inference Protocol.

    Args:
        predictor: The domain, whose `find` raises NotHere.
        stream_batches: The most requests of one stream that are at work at one time.
        relay: Asks the primary.
    """

    def __init__(self, predictor: Predictor, stream_batches: int, relay: Relay) -> None:
        super().__init__(predictor, stream_batches)
        self._relay = relay

    async def ModelInfer(self, request: oip_pb.ModelInferRequest, context: Context) -> oip_pb.ModelInferResponse:
        """Answers one request."""
        try:
            return await super().ModelInfer(request, context)
        except NotHere:
            pass
        [reply] = await self._relay.ask(MODEL_INFER, request, context)
        return oip_pb.ModelInferResponse.FromString(reply)

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """Returns the handlers of the calls that predict, by method. Any: the messages differ from method to method."""
        return {
            MODEL_INFER: grpc.unary_unary_rpc_method_handler(
                self.ModelInfer, oip_pb.ModelInferRequest.FromString, oip_pb.ModelInferResponse.SerializeToString
            ),
            MODEL_STREAM_INFER: grpc.stream_stream_rpc_method_handler(
                self.ModelStreamInfer,
                oip_pb.ModelInferRequest.FromString,
                oip_pb.ModelStreamInferResponse.SerializeToString,
            ),
        }
