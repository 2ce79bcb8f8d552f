"""One long-lived stream of batches to Triton a loaded version."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, NamedTuple, TypeVar

import grpc
import grpc.aio
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from service.adapters.triton_names import model_of
from service.domain.entities import INPUT, OUTPUT, Floats, Signature
from service.domain.errors import Reason, ServiceError
from service.domain.named_tensors import Tensor, TensorBatch, TensorType
from service.domain.ports import InputsRefused, ModelCrashed
from service.http2.client import Channel, ClientStream

log = logging.getLogger("fitserve.triton")

D = TypeVar("D")
S = TypeVar("S")

STREAM_METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"

MODEL_LOST = re.compile(
    r"Stub process .*is not healthy|Request for unknown model|has no available versions|is not at ready state",
    re.DOTALL,
)
"""What Triton answers to each batch for a Python-based model whose process was killed (which it still calls ready), and for
a model that it has lost, as a Triton at TRITON_URL does that was started again faster than it is looked at."""

LOG_PAUSE = 5.0
"""Of a model's batches that fail, one is logged in so many seconds."""

PROBLEM_CHARACTERS = 1000
"""So much is told of what an operator's code says of inputs."""


class Triton(NamedTuple):
    """How to reach Triton.

    Attributes:
        stub: For calls that answer once.
        channel: For streams of batches.
    """

    stub: service_pb2_grpc.GRPCInferenceServiceStub
    channel: Channel


class TritonStream(ABC, Generic[D, S]):
    """A stream of batches in the form D, whose answers have the form S.

    Batches go out as `ModelStreamInfer` messages and come back in order.
    """

    def __init__(self, triton: Triton, model: str, version: str) -> None:
        self._triton = triton
        self._template = service_pb2.ModelInferRequest(model_name=model, model_version=version)
        self._stream: ClientStream | None = None
        self._opening = asyncio.Lock()
        self._waiting: deque[tuple[int, asyncio.Future[S]]] = deque()
        self._closed = False
        self._silent_until = 0.0

    @abstractmethod
    def _message(self, batch: D, rows: int) -> service_pb2.ModelInferRequest:
        """Returns the message of one batch.

        It is a new one each time: a protobuf message keeps the memory of every value that it ever had.
        """

    @abstractmethod
    def _read(self, response: service_pb2.ModelInferResponse, rows: int) -> S:
        """Returns what an answer to so many rows holds. Raises ValueError, saying why, if it does not fit them."""

    async def infer(self, batch: D, rows: int) -> S:
        """Sends one batch and returns its answer."""
        scores: asyncio.Future[S] = asyncio.get_running_loop().create_future()
        message = self._message(batch, rows).SerializeToString()
        stream = self._stream or await self._open()
        self._waiting.append((rows, scores))  # the order of answers is that of the messages
        stream.send(message)
        return await scores

    async def close(self) -> None:
        """Ends the stream. Batches in flight, and later ones, fail."""
        self._closed = True
        stream = self._stream
        self._break()
        if stream is not None:
            stream.cancel()

    async def _open(self) -> ClientStream:
        async with self._opening:
            if self._stream is None:
                try:
                    stream = await self._triton.channel.stream(STREAM_METHOD, self._received, self._break)
                except OSError:
                    raise broken() from None
                if self._closed:
                    stream.cancel()
                    raise broken()
                self._stream = stream
            return self._stream

    def _received(self, message: bytes) -> None:
        try:
            self._answer(service_pb2.ModelStreamInferResponse.FromString(message))
        except Exception:
            log.exception("Triton sent what is no answer for model %s", self._template.model_name)
            stream = self._stream
            self._break()
            if stream is not None:
                stream.cancel()

    def _answer(self, response: service_pb2.ModelStreamInferResponse) -> None:
        rows, scores = self._waiting.popleft()
        if scores.done():
            return
        if response.error_message:
            scores.set_exception(self._refused(response.error_message))
            return
        try:
            answer = self._read(response.infer_response, rows)
        except ValueError as error:
            scores.set_exception(self._refused(str(error)))
        else:
            scores.set_result(answer)

    def _refused(self, why: str) -> ServiceError:
        model = model_of(self._template.model_name)
        if time.monotonic() >= self._silent_until:  # a model that always fails would fill the disk
            self._silent_until = time.monotonic() + LOG_PAUSE
            log.error("a batch of model %s failed in Triton: %s", model, why)
        if MODEL_LOST.search(why):
            return ModelCrashed(model)
        return ServiceError(
            Reason.INTERNAL, f"Triton could not compute a batch of model {model!r}; the log says why", {"model": model}
        )

    def _break(self) -> None:
        """Fails everything that waits; the next batch opens a new stream."""
        self._stream = None
        waiting, self._waiting = self._waiting, deque()
        for _, scores in waiting:
            if not scores.done():
                scores.set_exception(broken())


class FeatureStream(TritonStream[bytes, Floats]):
    """Implements the port InferenceStream: rows of features [rows, *shape] to scores [rows, outputs]."""

    def __init__(
        self,
        triton: Triton,
        model: str,
        version: str,
        shape: tuple[int, ...],
        names: tuple[str, str] = (INPUT, OUTPUT),
    ) -> None:
        super().__init__(triton, model, version)
        self._template.inputs.add(name=names[0], datatype="FP32", shape=(0, *shape))
        self._template.outputs.add(name=names[1])

    def _message(self, batch: bytes, rows: int) -> service_pb2.ModelInferRequest:
        request = service_pb2.ModelInferRequest()
        request.CopyFrom(self._template)
        request.inputs[0].shape[0] = rows
        request.raw_input_contents.append(batch)
        return request

    def _read(self, response: service_pb2.ModelInferResponse, rows: int) -> Floats:
        outputs = response.raw_output_contents
        size = len(outputs[0]) if outputs else 0
        if size == 0 or size % (4 * rows):
            raise ValueError(f"{size} bytes of scores came back for {rows} rows")
        return np.frombuffer(outputs[0], np.float32).reshape(rows, -1)


class NamedTensorStream(TritonStream[TensorBatch, TensorBatch]):
    """Implements the port TensorStream: named tensors to all outputs of a signature."""

    def __init__(self, triton: Triton, model: str, version: str, signature: Signature) -> None:
        super().__init__(triton, model, version)
        self._outputs = {spec.name: spec for spec in signature.outputs}
        self._has_rows = signature.max_batch_size > 0
        for name in self._outputs:
            self._template.outputs.add(name=name)

    def _message(self, batch: TensorBatch, rows: int) -> service_pb2.ModelInferRequest:
        request = service_pb2.ModelInferRequest()
        request.CopyFrom(self._template)
        for tensor in batch.tensors:
            request.inputs.add(name=tensor.name, datatype=tensor.dtype, shape=tensor.shape)
        request.raw_input_contents.extend([tensor.data for tensor in batch.tensors])
        return request

    def _read(self, response: service_pb2.ModelInferResponse, rows: int) -> TensorBatch:
        found = {
            output.name: self._tensor(output, data, rows)
            for output, data in zip(response.outputs, response.raw_output_contents, strict=True)
        }
        if found.keys() != self._outputs.keys():
            raise ValueError(f"the outputs {sorted(found)} came back instead of {sorted(self._outputs)}")
        return TensorBatch(rows, tuple(found[name] for name in self._outputs))

    def _tensor(self, output: service_pb2.ModelInferResponse.InferOutputTensor, data: bytes, rows: int) -> Tensor:
        """Returns an output, whose rows are those of the batch and whose bytes are those of its shape."""
        tensor = Tensor(output.name, TensorType(output.datatype), tuple(output.shape), data)
        if self._has_rows and tensor.shape[:1] != (rows,):
            raise ValueError(f"output {tensor.name} came back in the shape {list(tensor.shape)} for {rows} rows")
        try:
            tensor.check()
        except ValueError as error:
            raise ValueError(f"output {tensor.name} came back with other data than its shape says: {error}") from error
        return tensor


class OperatorStream(NamedTensorStream):
    """Named tensors to an operator's code, which says by `TritonError.INVALID_ARG` that inputs are wrong.

    An answer of a stream has the text of an error and not its code, so a batch that fails is sent once more as a call of its
    own. Of any other error nothing is told: what it says was not written for callers.
    """

    async def infer(self, batch: TensorBatch, rows: int) -> TensorBatch:
        """Sends one batch and returns its answer."""
        try:
            return await super().infer(batch, rows)
        except ServiceError as error:
            if error.reason is not Reason.INTERNAL or (problem := await self._problem_of(batch, rows)) is None:
                raise
            raise InputsRefused(problem) from None

    async def _problem_of(self, batch: TensorBatch, rows: int) -> str | None:
        """Returns what the code says is wrong with the inputs; None if it does not say that they are wrong."""
        try:
            with hang_up_is_unavailable():
                await self._triton.stub.ModelInfer(self._message(batch, rows))
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.INVALID_ARGUMENT:
                return (error.details() or "the model refuses them")[:PROBLEM_CHARACTERS]
        return None


class OnnxStream(OperatorStream):
    """Named tensors to an ONNX model, which may not compute with every value, such as an index beyond the end of a table."""

    async def _problem_of(self, batch: TensorBatch, rows: int) -> str | None:
        """Returns that the inputs are wrong, without what onnxruntime says of it; None if it does not say that they are."""
        if await super()._problem_of(batch, rows) is None:
            return None
        return (
            "the model cannot compute with these values, or with lengths that differ so; send such as it was made for"
        )


def broken() -> ServiceError:
    """Returns what callers are told whose batch was lost."""
    return ServiceError(Reason.TRITON_UNAVAILABLE, "the connection to Triton broke; try again")


@contextmanager
def hang_up_is_unavailable() -> Iterator[None]:
    """Turns the end of a call by a closed channel, which looks like a cancelled task, into TRITON_UNAVAILABLE."""
    try:
        yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise broken() from None
