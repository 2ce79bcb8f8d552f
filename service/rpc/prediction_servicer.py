"""PredictionService: rows in, predictions out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from fitserve.v1 import data_pb2, prediction_service_pb2, prediction_service_pb2_grpc

from service.domain.errors import ServiceError, invalid
from service.domain.predictor import Predictor
from service.rpc import inputs, validate
from service.rpc.boundary import Context
from service.rpc.replies import Replies
from service.rpc.status import internal, status_of

pb = prediction_service_pb2


class PredictionServicer(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Translates between the contract and the domain.

    Args:
        predictor: The domain.
        stream_batches: The most batches of one stream that are at work at one time.
    """

    def __init__(self, predictor: Predictor, stream_batches: int) -> None:
        self._predictor = predictor
        self._stream_batches = stream_batches
        self._replies = Replies()

    async def Predict(self, request: pb.PredictRequest, context: Context) -> pb.PredictResponse:
        """Predicts the rows of one request."""
        model = validate.model_name(request.model)
        version = validate.version(request)
        return await self._predict(model, version, request.inputs, request.include_probabilities)

    async def _predict(
        self, model: str, version: int | None, rows: data_pb2.Inputs, include_probabilities: bool
    ) -> pb.PredictResponse:
        matrix = inputs.matrix_for(rows, self._predictor.signature(model, version))
        prediction = await self._predictor.predict(model, version, matrix)
        return self._replies.write(prediction, inputs.form_of(rows, "inputs"), include_probabilities)

    async def PredictStream(
        self, request_iterator: AsyncIterator[pb.PredictStreamRequest], context: Context
    ) -> AsyncIterator[pb.PredictStreamResponse]:
        """Predicts batch after batch, and answers in order."""
        config = await self._config(request_iterator)
        answers: asyncio.Queue[asyncio.Task[pb.PredictStreamResponse] | None] = asyncio.Queue(self._stream_batches)
        feeder = asyncio.get_running_loop().create_task(self._feed(request_iterator, config, answers))
        try:
            while (answer := await answers.get()) is not None:
                yield await answer
            await feeder  # raises what ended the stream early
        finally:
            feeder.cancel()
            with suppress(asyncio.CancelledError, ServiceError):
                await feeder
            while not answers.empty():
                if (left := answers.get_nowait()) is not None:
                    left.cancel()

    async def _config(self, messages: AsyncIterator[pb.PredictStreamRequest]) -> pb.PredictStreamConfig:
        first = await anext(messages, None)
        if first is None or first.WhichOneof("message") != "config":
            raise invalid("config", "the first message of a stream is its config")
        config = first.config
        model = validate.model_name(config.model, "config.model")
        self._predictor.signature(model, validate.version(config, "config"))
        return config

    async def _feed(
        self,
        messages: AsyncIterator[pb.PredictStreamRequest],
        config: pb.PredictStreamConfig,
        answers: asyncio.Queue[asyncio.Task[pb.PredictStreamResponse] | None],
    ) -> None:
        """Starts the work on each batch; waits when as many are at work as may be."""
        index = 0
        try:
            async for message in messages:
                if message.WhichOneof("message") != "inputs":
                    raise invalid("inputs", "after the config every message is inputs")
                answer = self._answer(index, config, message.inputs)
                await answers.put(asyncio.get_running_loop().create_task(answer))
                index += 1
        except Exception:
            await answers.put(None)
            raise
        await answers.put(None)  # but not after a cancellation: nobody takes from the queue then

    async def _answer(
        self, index: int, config: pb.PredictStreamConfig, rows: data_pb2.Inputs
    ) -> pb.PredictStreamResponse:
        """Returns the answer to one batch, be it an error."""
        version = config.version if config.HasField("version") else None
        try:
            response = await self._predict(config.model, version, rows, config.include_probabilities)
            return pb.PredictStreamResponse(index=index, response=response)
        except ServiceError as error:
            return pb.PredictStreamResponse(index=index, error=status_of(error))
        except Exception:
            hidden = internal("/fitserve.v1.PredictionService/PredictStream")
            return pb.PredictStreamResponse(index=index, error=status_of(hidden))
