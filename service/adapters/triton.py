"""Triton over its own stubs: start, load, unload and watch. The batches are with `triton_streams.py`.

The helper classes of tritonclient cost more than the call itself, so only its generated messages are used. The package
`inference` is never compiled here: the descriptor pool takes one copy.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from importlib import resources
from typing import Any

import grpc
import grpc.aio
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from service.adapters.embedded_triton import EmbeddedTriton, TritonStartError
from service.adapters.operator_models import config_json
from service.adapters.stub_watch import stub_is_lost
from service.adapters.triton_config import TritonModelConfig, tensor_names
from service.adapters.triton_names import model_of, triton_name
from service.adapters.triton_streams import (
    FeatureStream,
    NamedTensorStream,
    OnnxStream,
    OperatorStream,
    Triton,
    hang_up_is_unavailable,
)
from service.domain.entities import Manifest
from service.domain.errors import Reason, ServiceError
from service.domain.ports import LoadHung
from service.http2.client import Channel

log = logging.getLogger("fitserve.triton")

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

SELF_TEST_MODEL = "fitserve_self_test"

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
        self._control: grpc.aio.Channel | None = None
        self._batches: Channel | None = None
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
        found._connect(address)
        return found

    def _connect(self, address: str) -> grpc.aio.Channel:
        self._control = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        self._batches = Channel(address)
        return self._control

    @property
    def _stub(self) -> service_pb2_grpc.GRPCInferenceServiceStub:
        return self._triton.stub

    @property
    def _triton(self) -> Triton:
        if self._control is None or self._batches is None:
            raise ServiceError(Reason.TRITON_UNAVAILABLE, "Triton is not running; try again")
        return Triton(service_pb2_grpc.GRPCInferenceServiceStub(self._control), self._batches)

    async def start(self) -> None:
        """Starts or finds Triton and proves with a known row that it computes."""
        await self.stop()
        self._hung.clear()
        self._held = {}
        self._address = address = await self._start_embedded() if self._new_embedded else self._url
        control = self._connect(address)
        try:
            await self._meet_unless_it_ends(control)
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
        control, self._control = self._control, None
        if self._batches is not None:
            self._batches.close()
        if control is not None:
            await control.close()
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
                with hang_up_is_unavailable():
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
            with hang_up_is_unavailable():
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
            with hang_up_is_unavailable():
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
            with hang_up_is_unavailable():
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
        return FeatureStream(self._triton, triton_name(manifest), str(manifest.version), config.shape, names)

    def open_tensor_stream(self, manifest: Manifest) -> NamedTensorStream:
        """Returns a new stream to a loaded version that takes named tensors."""
        kinds = {"python": OperatorStream, "onnxruntime": OnnxStream}
        kind = kinds.get(manifest.backend, NamedTensorStream)
        return kind(self._triton, triton_name(manifest), str(manifest.version), manifest.signature)

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
        stream = FeatureStream(self._triton, SELF_TEST_MODEL, "1", (3,))
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


def _config(manifest: Manifest, versions: Sequence[int], instances: int) -> str:
    """Returns the configuration that a load gives to Triton: ours, or the operator's own."""
    if manifest.of_operator:
        return config_json(manifest.own_config, manifest.model, versions, instances)
    return replace(TritonModelConfig.of(manifest), name=triton_name(manifest)).to_json(versions, instances)


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
