"""PredictionService: rows in, predictions out."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Coroutine

from fitserve.v1 import data_pb2, prediction_service_pb2, prediction_service_pb2_grpc

from service.domain.errors import ServiceError, invalid
from service.domain.predictor import Predictor
from service.rpc import inputs, validate
from service.rpc.boundary import Context, large_message
from service.rpc.replies import Replies, values_to_write
from service.rpc.status import internal, status_of

pb = prediction_service_pb2

LARGE_REPLY_VALUES = 8192
"""Replies with so many values to write one by one are written in a thread: that takes about 5 ms."""

STREAM_BYTES = 64 * 2**20
"""The most bytes of large messages of one stream that are at work at one time."""


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
        return await self._predict(
            model, version, request.inputs, request.include_probabilities, bool(large_message.get())
        )

    async def _predict(
        self, model: str, version: int | None, rows: data_pb2.Inputs, include_probabilities: bool, large: bool
    ) -> pb.PredictResponse:
        """Returns the reply to some rows; what is `large` is taken apart in a thread, so that other calls go on."""
        signature = self._predictor.signature(model, version)
        if large:
            matrix = await asyncio.to_thread(inputs.matrix_for, rows, signature)
        else:
            matrix = inputs.matrix_for(rows, signature)
        form = inputs.form_of(rows, "inputs")
        del rows
        prediction = await self._predictor.predict(model, version, matrix)
        del matrix
        if values_to_write(prediction, form) < LARGE_REPLY_VALUES:
            return self._replies.write(prediction, form, include_probabilities)
        return await asyncio.to_thread(self._replies.write, prediction, form, include_probabilities)

    async def PredictStream(
        self, request_iterator: AsyncIterator[pb.PredictStreamRequest], context: Context
    ) -> AsyncIterator[pb.PredictStreamResponse]:
        """Predicts batch after batch, and answers in order."""
        config = await self._config(request_iterator)
        window = _Window(self._stream_batches)
        feeder = asyncio.get_running_loop().create_task(self._feed(request_iterator, config, window))
        try:
            while (answer := await window.next_answer()) is not None:
                yield await answer
                window.leave()
                del answer  # the next one may be long in coming
            await feeder  # raises what ended the stream early
        finally:
            feeder.cancel()
            await asyncio.gather(feeder, return_exceptions=True)
            window.cancel()

    async def _config(self, messages: AsyncIterator[pb.PredictStreamRequest]) -> pb.PredictStreamConfig:
        first = await anext(messages, None)
        if first is None or first.WhichOneof("message") != "config":
            raise invalid("config", "the first message of a stream is its config")
        config = first.config
        model = validate.model_name(config.model, "config.model")
        self._predictor.signature(model, validate.version(config, "config"))
        return config

    async def _feed(
        self, messages: AsyncIterator[pb.PredictStreamRequest], config: pb.PredictStreamConfig, window: _Window
    ) -> None:
        """Starts the work on each batch; waits when as much is at work as may be."""
        index = 0
        try:
            async for message in messages:
                if message.WhichOneof("message") != "inputs":
                    raise invalid("inputs", "after the config every message is inputs")
                size = large_message.get()
                await window.room_for(size)
                window.enter(self._answer(index, config, message.inputs, bool(size)), size)
                index += 1
                del message  # the next one may be long in coming
        finally:
            window.close()

    async def _answer(
        self, index: int, config: pb.PredictStreamConfig, rows: data_pb2.Inputs, large: bool
    ) -> pb.PredictStreamResponse:
        """Returns the answer to one batch, be it an error."""
        version = config.version if config.HasField("version") else None
        try:
            response = await self._predict(config.model, version, rows, config.include_probabilities, large)
            return pb.PredictStreamResponse(index=index, response=response)
        except ServiceError as error:
            return pb.PredictStreamResponse(index=index, error=status_of(error))
        except Exception:
            hidden = internal("/fitserve.v1.PredictionService/PredictStream")
            return pb.PredictStreamResponse(index=index, error=status_of(hidden))


class _Window:
    """The batches of one stream that are at work, in order: at most `batches`, and of large ones `STREAM_BYTES`."""

    def __init__(self, batches: int) -> None:
        self._batches = batches
        self._sizes: deque[int] = deque()
        self._bytes = 0
        self._left = asyncio.Event()
        self._answers: asyncio.Queue[asyncio.Task[pb.PredictStreamResponse] | None] = asyncio.Queue()

    async def room_for(self, size: int) -> None:
        """Returns when a batch of so many bytes may enter; one that is alone always may."""
        while len(self._sizes) >= self._batches or (self._sizes and self._bytes + size > STREAM_BYTES):
            self._left.clear()
            await self._left.wait()

    def enter(self, answering: Coroutine[None, None, pb.PredictStreamResponse], size: int) -> None:
        """Starts the work on a batch."""
        self._sizes.append(size)
        self._bytes += size
        self._answers.put_nowait(asyncio.get_running_loop().create_task(answering))

    async def next_answer(self) -> asyncio.Task[pb.PredictStreamResponse] | None:
        """Returns the work on the next batch; None when there will be none."""
        return await self._answers.get()

    def leave(self) -> None:
        """Notes that the answer to the earliest batch is with the caller."""
        self._bytes -= self._sizes.popleft()
        self._left.set()

    def close(self) -> None:
        """Notes that no more batches will come."""
        self._answers.put_nowait(None)

    def cancel(self) -> None:
        """Ends the work on all batches whose answers nobody has taken."""
        while not self._answers.empty():
            if (answer := self._answers.get_nowait()) is not None:
                answer.cancel()
