"""PredictionService: rows in, predictions out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing
from functools import partial
from typing import Any

from fitserve.v1 import data_pb2, prediction_service_pb2, prediction_service_pb2_grpc

from service.domain import text_columns
from service.domain.entities import Choice
from service.domain.errors import ServiceError, invalid
from service.domain.loaded import LoadedVersion
from service.domain.predictor import Prediction, Predictor, Request
from service.rpc import inputs, tensor_inputs, tensor_replies, text_inputs, validate
from service.rpc.boundary import CallAtOnce, Context, large_message
from service.rpc.large import in_thread, read
from service.rpc.ordered import answer_or_error, in_order
from service.rpc.replies import Replies, values_to_write
from service.rpc.status import status_of

pb = prediction_service_pb2

LARGE_REPLY_VALUES = 8192
"""Replies with so many values to write one by one are written in a thread: they take 5 ms and more."""

Batch = tuple[int, data_pb2.Inputs]
"""The rows of one message of a stream, and its place among them."""


class _Asker:
    """What a prediction is told to, when a call is answered without a task."""

    __slots__ = ("_call", "_form", "_include_probabilities", "_replies", "done")

    def __init__(self, replies: Replies, form: str, include_probabilities: bool, call: CallAtOnce) -> None:
        self._replies = replies
        self._form = form
        self._include_probabilities = include_probabilities
        self._call = call
        self.done = call.done

    def set_result(self, prediction: Prediction) -> None:
        """Answers the call."""
        try:
            self._call.answer(self._replies.write(prediction, self._form, self._include_probabilities))
        except Exception as error:  # which is this call's, not of those whose scores come after it
            self._call.fail(error)

    def set_exception(self, error: Exception) -> None:
        """Ends the call with an error."""
        self._call.fail(error)


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

    def Predict(
        self, request: pb.PredictRequest, context: Context
    ) -> Coroutine[Any, Any, pb.PredictResponse]:  # Any: what coroutines could be sent
        """Predicts the rows of one request."""
        model = validate.model_name(request.model)
        choice = validate.choice(request)
        return self._predict(model, choice, request.inputs, request.include_probabilities)

    def begin(self, request: pb.PredictRequest, call: CallAtOnce) -> Request | None:
        """Begins to answer a request of one small batch, without a task; returns None if it is another one."""
        model = validate.model_name(request.model)
        loaded = self._predictor.find(model, validate.choice(request))
        signature, form = loaded.manifest.signature, inputs.form_of(request.inputs, "inputs")
        if signature.inputs:
            return None
        matrix = inputs.matrix_for(request.inputs, form, signature)
        rows = len(matrix)
        values = max(len(signature.classes), len(signature.targets), 1)
        if rows > loaded.features.max_batch_rows or rows * values >= LARGE_REPLY_VALUES:
            return None
        asker = _Asker(self._replies, form, request.include_probabilities, call)
        return self._predictor.begin(loaded, matrix, asker)

    async def _predict(
        self, model: str, choice: Choice, rows: data_pb2.Inputs, include_probabilities: bool
    ) -> pb.PredictResponse:
        """Returns the reply to some rows. Large ones are taken apart in a thread, so that other calls go on meanwhile."""
        loaded = self._predictor.find(model, choice)
        signature, form = loaded.manifest.signature, inputs.form_of(rows, "inputs")
        if signature.inputs:
            if signature.columns:
                return await self._predict_texts(loaded, rows, form, include_probabilities)
            return await self._predict_tensors(loaded, rows, form)
        if large_message.get():
            with loaded.kept():
                matrix = await in_thread(inputs.matrix_for, rows, form, signature)
                prediction = await self._predictor.predict(loaded, matrix)
        else:
            matrix = inputs.matrix_for(rows, form, signature)
            prediction = await self._predictor.predict(loaded, matrix)
        if values_to_write(prediction, form) < LARGE_REPLY_VALUES:
            return self._replies.write(prediction, form, include_probabilities)
        return await in_thread(self._replies.write, prediction, form, include_probabilities)

    async def _predict_texts(
        self, loaded: LoadedVersion, rows: data_pb2.Inputs, form: str, include_probabilities: bool
    ) -> pb.PredictResponse:
        """Returns the reply of a model with columns of texts."""
        signature = loaded.manifest.signature
        batch = await read(loaded, bool(large_message.get()), text_inputs.batch_for, rows, form, signature)
        answer = await self._predictor.predict_tensors(loaded, [batch])
        prediction = text_columns.prediction_of(answer)
        if values_to_write(prediction, form) < LARGE_REPLY_VALUES:
            return self._replies.write(prediction, form, include_probabilities)
        return await in_thread(self._replies.write, prediction, form, include_probabilities)

    async def _predict_tensors(self, loaded: LoadedVersion, rows: data_pb2.Inputs, form: str) -> pb.PredictResponse:
        """Returns the reply of a model of named tensors."""
        signature = loaded.manifest.signature
        batches = await read(loaded, bool(large_message.get()), tensor_inputs.batches_for, rows, form, signature)
        prediction = await self._predictor.predict_tensors(loaded, batches)
        if tensor_replies.values_to_write(prediction, form) < LARGE_REPLY_VALUES:
            return tensor_replies.write(prediction, form)
        return await in_thread(tensor_replies.write, prediction, form)

    async def PredictStream(
        self, request_iterator: AsyncIterator[pb.PredictStreamRequest], context: Context
    ) -> AsyncIterator[pb.PredictStreamResponse]:
        """Predicts batch after batch, and answers in order."""
        config = await self._config(request_iterator)
        batches = self._batches(request_iterator)
        async with aclosing(in_order(batches, partial(self._answer, config), self._stream_batches)) as answers:
            async for answer in answers:
                yield answer
                del answer  # the next one may be long in coming

    async def _config(self, messages: AsyncIterator[pb.PredictStreamRequest]) -> pb.PredictStreamConfig:
        first = await anext(messages, None)
        if first is None or first.WhichOneof("message") != "config":
            raise invalid("config", "the first message of a stream is its config")
        await self._check_answers(first.config)
        return first.config

    async def _check_answers(self, config: pb.PredictStreamConfig) -> None:
        """Checks that there is a version which answers the batches of a stream."""
        model = validate.model_name(config.model, "config.model")
        self._predictor.find(model, validate.choice(config, "config"))

    @staticmethod
    async def _batches(messages: AsyncIterator[pb.PredictStreamRequest]) -> AsyncIterator[Batch]:
        index = 0
        async for message in messages:
            if message.WhichOneof("message") != "inputs":
                raise invalid("inputs", "after the config every message is inputs")
            yield index, message.inputs
            del message  # the next one may be long in coming
            index += 1

    async def _answer(self, config: pb.PredictStreamConfig, batch: Batch) -> pb.PredictStreamResponse:
        """Returns the answer to one batch, be it an error."""
        index, rows = batch
        choice = config.alias or (config.version if config.HasField("version") else None)
        work = self._predict(config.model, choice, rows, config.include_probabilities)
        answer = await answer_or_error(work, "/fitserve.v1.PredictionService/PredictStream")
        if isinstance(answer, ServiceError):
            return pb.PredictStreamResponse(index=index, error=status_of(answer))
        return pb.PredictStreamResponse(index=index, response=answer)
