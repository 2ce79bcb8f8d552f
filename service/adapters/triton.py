"""Triton over its own stubs: load, unload, and one long-lived stream of batches a loaded version.

The helper classes of tritonclient cost more than the call itself, so only its generated messages are used. The package
`inference` is never compiled here: the descriptor pool takes one copy.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import resources
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from service.adapters.embedded_triton import EmbeddedTriton, TritonStartError
from service.adapters.operator_models import config_json
from service.adapters.stub_watch import stub_is_lost
from service.adapters.triton_config import TritonModelConfig, tensor_names
from service.adapters.triton_names import model_of, triton_name
from service.domain.entities import INPUT, OUTPUT, Floats, Manifest, Signature
from service.domain.errors import Reason, ServiceError
from service.domain.named_tensors import Tensor, TensorBatch, TensorType
from service.domain.ports import InputsRefused, LoadHung, ModelCrashed

log = logging.getLogger("fitserve.triton")

D = TypeVar("D")
S = TypeVar("S")

CHANNEL_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]

NO_TORCH = "torch is not installed; run 'make setup TRITON_TORCH=1'"
"""What the backend `pytorch` of the embedded Triton says, and callers are told, where there is no torch."""

LOAD_SECONDS = 120.0
"""How long a load may take. A Triton that needs longer hangs: its Python backend waits for ever for a process that was
stopped, or that died while it held a lock in shared memory."""

LOADS_AT_ONCE = 4
"""So many loads are given to Triton at one time, as it has threads for them (`--model-load-thread-count`): the time that a
load waits behind others does not count, and one that hangs leaves room for others."""

PROBE_SECONDS = 2.0
"""The time between two looks at Triton, and the time that it has to answer."""

PROBES = 3
"""So many looks in a row must fail before Triton counts as down."""

AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
"""How a call ends whose Triton has gone, or was stopped."""

Call = grpc.aio.StreamStreamCall[service_pb2.ModelInferRequest, service_pb2.ModelStreamInferResponse]

MODEL_LOST = re.compile(
    r"Stub process .*is not healthy|Request for unknown model|has no available versions|is not at ready state",
    re.DOTALL,
)
"""What Triton answers to each batch for a Python-based model whose process was killed (which it still calls ready), and for
a model that it has lost, as a Triton at TRITON_URL does that was started again faster than it is looked at."""

LOG_PAUSE = 5.0
"""Of a model's batches that fail, one is logged in so many seconds."""

SELF_TEST_MODEL = "fitserve_self_test"

PROBLEM_CHARACTERS = 1000
"""So much is told of what an operator's code says of inputs."""

Held = tuple[tuple[int, ...], int]
"""What Triton holds under a name: the versions, and the copies of each."""

UNKNOWN: Held = ((), 0)
"""It holds something under the name, or may do so."""


class TritonInference:
    """Implements the port Inference.

    Args:
        new_embedded: Makes one run of a Triton of our own; None if there is a `url`.
        url: The host:port of a Triton that runs already.
        start_seconds: How long it may take to be ready.
    """

    def __init__(self, new_embedded: Callable[[], EmbeddedTriton] | None, url: str, start_seconds: float) -> None:
        self._new_embedded = new_embedded
        self._embedded: EmbeddedTriton | None = None
        self._url = url
        self._start_seconds = start_seconds
        self._channel: grpc.aio.Channel | None = None
        self._address = ""
        self._version = ""
        self._held: dict[str, dict[str, Held]] = {}
        self._loads = asyncio.Semaphore(LOADS_AT_ONCE)
        self._hung = asyncio.Event()

    @property
    def embedded(self) -> bool:
        """Whether the service runs Triton itself."""
        return self._new_embedded is not None

    @property
    def version(self) -> str:
        """Triton's version, empty before it was first reached."""
        return self._version

    @property
    def address(self) -> str:
        """The host:port where Triton answers, empty before it was first started."""
        return self._address

    @classmethod
    def at(cls, address: str) -> TritonInference:
        """Returns the Triton at an address, which another process has started and tested."""
        found = cls(None, address, 0.0)
        found._channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        return found

    @property
    def _stub(self) -> service_pb2_grpc.GRPCInferenceServiceStub:
        if self._channel is None:
            raise ServiceError(Reason.TRITON_UNAVAILABLE, "Triton is not running; try again")
        return service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def start(self) -> None:
        """Starts or finds Triton and proves with a known row that it computes."""
        await self.stop()
        self._hung.clear()
        self._held = {}
        self._address = address = await self._start_embedded() if self._new_embedded else self._url
        self._channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        try:
            await self._meet_unless_it_ends(self._channel)
        except (TimeoutError, grpc.aio.AioRpcError) as error:
            raise ServiceError(
                Reason.TRITON_UNAVAILABLE, f"Triton at {address} does not answer; check TRITON_URL and its log"
            ) from error

    async def _meet_unless_it_ends(self, channel: grpc.aio.Channel) -> None:
        """Meets Triton. Raises ServiceError TRITON_UNAVAILABLE as soon as it ends, if it is ours."""
        if self._embedded is None:
            await self._meet(channel)
        elif not await _done_before(self._embedded.wait(), self._meet(channel)):
            raise ServiceError(Reason.TRITON_UNAVAILABLE, "Triton ended while it was started; its log says why")

    async def _meet(self, channel: grpc.aio.Channel) -> None:
        """Waits until Triton is ready, asks for its version and tests it."""
        await asyncio.wait_for(channel.channel_ready(), self._start_seconds)
        await self._wait_until_ready()
        metadata = await self._stub.ServerMetadata(service_pb2.ServerMetadataRequest(), timeout=PROBE_SECONDS)
        self._version = metadata.version
        await self._self_test()

    async def _start_embedded(self) -> str:
        assert self._new_embedded is not None
        self._embedded = self._new_embedded()
        try:
            return await self._embedded.start()
        except TritonStartError as error:
            raise ServiceError(Reason.TRITON_UNAVAILABLE, str(error)) from error

    async def _wait_until_ready(self) -> None:
        async with asyncio.timeout(self._start_seconds):
            while not (await self._stub.ServerReady(service_pb2.ServerReadyRequest())).ready:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def wait_until_down(self) -> str:
        """Returns, with the reason, when Triton has died or no longer answers."""
        watchers = [asyncio.create_task(self._probe()), asyncio.create_task(self._hang())]
        if self._embedded is not None:
            watchers.append(asyncio.create_task(self._exit(self._embedded)))
        try:
            done, _ = await asyncio.wait(watchers, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for watcher in watchers:
                watcher.cancel()

    @staticmethod
    async def _exit(embedded: EmbeddedTriton) -> str:
        return f"its launcher ended with code {await embedded.wait()}"

    async def _hang(self) -> str:
        await self._hung.wait()
        return "it hangs in the load or unload of a model"

    async def _probe(self) -> str:
        failed = 0
        while failed < PROBES:
            await asyncio.sleep(PROBE_SECONDS)
            try:
                live = await self._stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=PROBE_SECONDS)
                failed = 0 if live.live else failed + 1
            except grpc.aio.AioRpcError:
                failed += 1
        if self._embedded is not None:
            await self._embedded.stop()
        return f"it did not answer {PROBES} times in a row"

    async def stop(self) -> None:
        """Closes the connection, and stops Triton if it is ours."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()
        if self._embedded is not None:
            await self._embedded.stop()
            self._embedded = None

    async def serve(self, manifest: Manifest, beside: Sequence[Manifest] = (), instances: int = 1) -> None:
        """Makes Triton hold a version and others of its model, none else of it, and returns when that one is ready.

        They may have several names in Triton (triton_names.py), each of which has its own load.
        """
        if manifest.of_operator and self._embedded is not None:
            await self._embedded.check_requirements(manifest.model)
        held = self._held.setdefault(manifest.model, {})
        named: dict[str, list[Manifest]] = {}
        for one in (manifest, *beside):  # the version itself is the first: if Triton refuses it, nothing else changes
            named.setdefault(triton_name(one), []).append(one)
        for name, versions in named.items():
            wanted = tuple(sorted(one.version for one in versions)), instances
            if versions[0] is manifest or held.get(name) != wanted:
                held[name] = UNKNOWN
                await self._serve_name(name, versions[0], wanted)
                held[name] = wanted
        for name in held.keys() - named.keys():
            await self._unload_name(name)
            del held[name]

    async def _serve_name(self, name: str, manifest: Manifest, wanted: Held) -> None:
        """Makes Triton hold these versions under a name, and returns when the manifest's one is ready."""
        request = service_pb2.RepositoryModelLoadRequest(model_name=name)
        request.parameters["config"].string_param = _config(manifest, *wanted)
        ready = service_pb2.ModelReadyRequest(name=name, version=str(manifest.version))
        try:
            async with self._loads:
                with _hang_up_is_unavailable():
                    await self._load(request)
                    reply = await self._stub.ModelReady(ready, timeout=LOAD_SECONDS)
            if not reply.ready:  # a missing version is no error to the load
                raise self._refused(manifest, "it is not ready after its load")
        except grpc.aio.AioRpcError as error:
            raise self._load_error(error, manifest) from error

    async def _load(self, request: service_pb2.RepositoryModelLoadRequest) -> None:
        """Has Triton load a model. Raises LoadHung when the model's process has died and Triton waits for it for ever."""
        loading = self._stub.RepositoryModelLoad(request, timeout=LOAD_SECONDS)
        if self._embedded is None or self._embedded.pid is None:
            await loading
        elif not await _done_before(stub_is_lost(self._embedded.pid), loading):
            raise self._load_hangs(model_of(request.model_name), "its process died")

    def _load_hangs(self, model: str, why: str) -> LoadHung:
        log.error("Triton hangs in the load of model %s: %s", model, why)
        self._hung.set()
        return LoadHung(model)

    def _load_error(self, error: grpc.aio.AioRpcError, manifest: Manifest) -> ServiceError:
        if error.code() in AWAY:
            return ServiceError(Reason.TRITON_UNAVAILABLE, "Triton is being started again; try again")
        if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
            return self._load_hangs(manifest.model, f"no answer within {LOAD_SECONDS:.0f} s")
        return self._refused(manifest, error.details() or "")

    @staticmethod
    def _refused(manifest: Manifest, why: str) -> ServiceError:
        log.error("Triton refuses version %s of model %s: %s", manifest.version, manifest.model, why)
        reason = NO_TORCH if NO_TORCH in why else "the service's log says why"
        return ServiceError(
            Reason.LOAD_FAILED,
            f"Triton refused version {manifest.version} of model {manifest.model!r}; {reason}",
            {"model": manifest.model, "version": str(manifest.version)},
        )

    async def unload(self, model: str) -> None:
        """Unloads all versions of a model. Triton takes no calls for it from then on; its memory is free a second later."""
        held = self._held.setdefault(model, {})
        for name in list(held) or [model]:
            await self._unload_name(name)
            held.pop(name, None)

    async def _unload_name(self, name: str) -> None:
        request = service_pb2.RepositoryModelUnloadRequest(model_name=name)
        try:
            with _hang_up_is_unavailable():
                await self._stub.RepositoryModelUnload(request, timeout=LOAD_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise self._unload_error(error, model_of(name)) from error

    def _unload_error(self, error: grpc.aio.AioRpcError, model: str) -> ServiceError:
        if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
            log.error("Triton hangs in the unload of model %s", model)
            self._hung.set()
        if error.code() in (*AWAY, grpc.StatusCode.DEADLINE_EXCEEDED):
            return ServiceError(Reason.TRITON_UNAVAILABLE, "Triton is being started again; try again")
        log.error("Triton does not unload model %s: %s", model, error.details())
        return ServiceError(
            Reason.INTERNAL, f"Triton did not unload model {model!r}; the service's log says why", {"model": model}
        )

    async def loaded_models(self) -> set[str]:
        """Returns the names of the models that Triton has loaded. Raises ServiceError TRITON_UNAVAILABLE."""
        try:
            with _hang_up_is_unavailable():
                # Only what is ready: else Triton reads the whole directory, and lists our private one too.
                index = await self._stub.RepositoryIndex(
                    service_pb2.RepositoryIndexRequest(ready=True), timeout=self._start_seconds
                )
        except grpc.aio.AioRpcError as error:
            raise ServiceError(
                Reason.TRITON_UNAVAILABLE, "Triton does not say what it has loaded; try again"
            ) from error
        ready = {model.name for model in index.models if model.state == "READY"}
        for name in ready:  # a Triton that runs longer than the service may hold more than this one has loaded
            self._held.setdefault(model_of(name), {}).setdefault(name, UNKNOWN)
        return {model_of(name) for name in ready}

    async def configuration(self, manifest: Manifest) -> bytes:
        """Returns a loaded version's configuration, a serialized `inference.ModelConfigResponse`."""
        request = service_pb2.ModelConfigRequest(name=triton_name(manifest), version=str(manifest.version))
        try:
            with _hang_up_is_unavailable():
                response = await self._stub.ModelConfig(request, timeout=self._start_seconds)
        except grpc.aio.AioRpcError as error:
            raise ServiceError(
                Reason.TRITON_UNAVAILABLE, "Triton does not say how the model is configured; try again"
            ) from error
        response.config.name = manifest.model
        data: bytes = response.SerializeToString()
        return data

    def open_stream(self, manifest: Manifest) -> FeatureStream:
        """Returns a new stream to a loaded version that takes rows of features."""
        config = TritonModelConfig.of(manifest)
        names = tensor_names(config.backend)
        return FeatureStream(self._stub, triton_name(manifest), str(manifest.version), config.shape, names)

    def open_tensor_stream(self, manifest: Manifest) -> NamedTensorStream:
        """Returns a new stream to a loaded version that takes named tensors."""
        kinds = {"python": OperatorStream, "onnxruntime": OnnxStream}
        kind = kinds.get(manifest.backend, NamedTensorStream)
        return kind(self._stub, triton_name(manifest), str(manifest.version), manifest.signature)

    async def _self_test(self) -> None:
        """Sends a known row through a known model: a Triton that computes nothing or nonsense must not serve.

        Under numpy 2, for instance, the Python backend of Triton 2.51 returns empty outputs without any error.
        """
        model = resources.files("service.adapters").joinpath("self_test.onnx").read_bytes()
        request = service_pb2.RepositoryModelLoadRequest(model_name=SELF_TEST_MODEL)
        config = TritonModelConfig(name=SELF_TEST_MODEL, backend="onnxruntime", shape=(3,), max_batch_size=8)
        request.parameters["config"].string_param = config.to_json([1])
        request.parameters["file:1/model.onnx"].bytes_param = model
        await self._load(request)
        stream = FeatureStream(self._stub, SELF_TEST_MODEL, "1", (3,))
        rows = np.array([[1, 10, 100], [0.5, 0, -1]], np.float32)
        scores = await asyncio.wait_for(stream.infer(rows.tobytes(), 2), LOAD_SECONDS)
        await stream.close()
        expected = rows @ np.array([[1.0], [2.0], [3.0]], np.float32) + 0.5
        if scores.shape != expected.shape or not np.allclose(scores, expected):
            raise ServiceError(
                Reason.TRITON_UNAVAILABLE,
                f"Triton computes wrongly: the self-test gave {scores.tolist()} instead of {expected.tolist()}; "
                "install its environment again with `make setup`, or check the Triton at TRITON_URL",
            )
        await self.unload(SELF_TEST_MODEL)


class TritonStream(ABC, Generic[D, S]):
    """A stream of batches in the form D, whose answers have the form S.

    Batches go out as `ModelStreamInfer` messages and come back in order.
    """

    def __init__(self, stub: service_pb2_grpc.GRPCInferenceServiceStub, model: str, version: str) -> None:
        self._stub = stub
        self._template = service_pb2.ModelInferRequest(model_name=model, model_version=version)
        self._call: Call | None = None
        self._reader: asyncio.Task[None] | None = None
        self._waiting: deque[tuple[int, asyncio.Future[S]]] = deque()
        self._writing = asyncio.Lock()
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
        async with self._writing:  # gRPC takes one write at a time, and the order of answers is that of the writes
            if self._closed:
                raise _broken()
            request = self._message(batch, rows)
            self._waiting.append((rows, scores))
            try:
                with _hang_up_is_unavailable():
                    if self._call is not None:
                        await self._call.write(request)
                    else:
                        await self._write_first(self._open(), request, scores)
            except Exception:  # of several kinds, UsageError of a closed channel among them
                self._break()  # which answers this batch too
        return await scores

    async def _write_first(self, call: Call, request: service_pb2.ModelInferRequest, scores: asyncio.Future[S]) -> None:
        """Writes the first batch of a call. If the server cannot be reached, gRPC ends the call but never this write."""
        writing = asyncio.ensure_future(call.write(request))
        either: tuple[asyncio.Future[Any], ...] = (writing, scores)  # Any: they return different things
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if call is not self._call:
            writing.cancel()
        await writing

    async def close(self) -> None:
        """Ends the stream. Batches in flight, and later ones, fail."""
        self._closed = True
        reader, call = self._reader, self._call
        self._break()
        if call is not None:
            call.cancel()
        if reader is not None:
            await asyncio.wait([reader])

    def _open(self) -> Call:
        self._call = self._stub.ModelStreamInfer()
        self._reader = asyncio.get_running_loop().create_task(self._read_all(self._call))
        return self._call

    async def _read_all(self, call: Call) -> None:
        try:
            async for response in call:
                if call is not self._call:
                    return
                self._answer(response)
        except (grpc.aio.AioRpcError, asyncio.CancelledError):
            pass  # what waits is told below
        except Exception:
            log.exception("Triton sent what is no answer for model %s", self._template.model_name)
            call.cancel()
        if call is self._call:
            self._break()

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
        self._call = self._reader = None
        waiting, self._waiting = self._waiting, deque()
        for _, scores in waiting:
            if not scores.done():
                scores.set_exception(_broken())


class FeatureStream(TritonStream[bytes, Floats]):
    """Implements the port InferenceStream: rows of features [rows, *shape] to scores [rows, outputs]."""

    def __init__(
        self,
        stub: service_pb2_grpc.GRPCInferenceServiceStub,
        model: str,
        version: str,
        shape: tuple[int, ...],
        names: tuple[str, str] = (INPUT, OUTPUT),
    ) -> None:
        super().__init__(stub, model, version)
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

    def __init__(
        self, stub: service_pb2_grpc.GRPCInferenceServiceStub, model: str, version: str, signature: Signature
    ) -> None:
        super().__init__(stub, model, version)
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
            with _hang_up_is_unavailable():
                await self._stub.ModelInfer(self._message(batch, rows))
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


def _config(manifest: Manifest, versions: Sequence[int], instances: int) -> str:
    """Returns the configuration that a load gives to Triton: ours, or the operator's own."""
    if manifest.of_operator:
        return config_json(manifest.own_config, manifest.model, versions, instances)
    return replace(TritonModelConfig.of(manifest), name=triton_name(manifest)).to_json(versions, instances)


def _broken() -> ServiceError:
    return ServiceError(Reason.TRITON_UNAVAILABLE, "the connection to Triton broke; try again")


async def _done_before(alarm: Awaitable[object], work: Awaitable[object]) -> bool:
    """Awaits work until an alarm ends first, which cancels it; returns whether it was done. Raises what the work raises."""
    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(alarm)
    both: set[asyncio.Future[Any]] = {working, watching}  # Any: they return different things
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            return False
        await working
        return True
    finally:
        for future in both:
            future.cancel()
        await asyncio.wait(both)


@contextmanager
def _hang_up_is_unavailable() -> Iterator[None]:
    """Turns the end of a call by a closed channel, which looks like a cancelled task, into TRITON_UNAVAILABLE."""
    try:
        yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise _broken() from None
