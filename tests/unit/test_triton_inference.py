"""The client of Triton against a stand-in that fails on purpose: which of its errors means what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from google.protobuf import json_format
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc
from tritonclient.grpc.model_config_pb2 import ModelConfig

from service.adapters import triton as module
from service.adapters.triton import TritonInference
from service.adapters.triton_names import model_of, triton_name
from service.domain.entities import Signature
from service.domain.errors import Reason, ServiceError
from service.domain.named_tensors import TensorSpec, TensorType
from service.domain.ports import LoadHung
from tests.unit.domain.fakes import manifest

Code = grpc.StatusCode


class StandIn(service_pb2_grpc.GRPCInferenceServiceServicer):
    """A Triton that passes the self-test, and then fails as it is told.

    Attributes:
        load_error: What loads end with; DEADLINE_EXCEEDED: they never end.
        unload_error: The same of unloads.
    """

    def __init__(self) -> None:
        self.load_error: grpc.StatusCode | None = None
        self.unload_error: grpc.StatusCode | None = None
        self.loading = 0
        self.most_loading = 0
        self.held: dict[str, tuple[list[int], int]] = {}
        self.loads: list[str] = []

    async def ServerLive(self, request: object, context: object) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: object, context: object) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=True)

    async def ServerMetadata(self, request: object, context: object) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(version="1.2.3")

    async def ModelReady(self, request: object, context: object) -> pb.ModelReadyResponse:
        return pb.ModelReadyResponse(ready=True)

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> pb.RepositoryModelLoadResponse:
        self.loading += 1
        self.most_loading = max(self.most_loading, self.loading)
        try:
            await self._fail(context, self.load_error)
        finally:
            self.loading -= 1
        config = json_format.Parse(request.parameters["config"].string_param, ModelConfig())
        assert config.name == request.model_name
        self.loads.append(request.model_name)
        self.held[request.model_name] = ([*config.version_policy.specific.versions], config.instance_group[0].count)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> pb.RepositoryModelUnloadResponse:
        await self._fail(context, self.unload_error)
        self.held.pop(request.model_name, None)
        return pb.RepositoryModelUnloadResponse()

    async def RepositoryIndex(self, request: object, context: object) -> pb.RepositoryIndexResponse:
        found = [pb.RepositoryIndexResponse.ModelIndex(name=name, state="READY") for name in self.held]
        return pb.RepositoryIndexResponse(models=found)

    @staticmethod
    async def _fail(context: grpc.aio.ServicerContext[object, object], error: grpc.StatusCode | None) -> None:
        if error is Code.DEADLINE_EXCEEDED:
            await asyncio.Event().wait()
        if error is not None:
            await context.abort(error, "as told")
        await asyncio.sleep(0.01)

    async def ModelStreamInfer(
        self, requests: AsyncIterator[pb.ModelInferRequest], context: object
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        async for request in requests:
            rows = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(-1, 3)
            scores = rows @ np.array([[1.0], [2.0], [3.0]], np.float32) + 0.5
            yield pb.ModelStreamInferResponse(
                infer_response=pb.ModelInferResponse(raw_output_contents=[scores.astype(np.float32).tobytes()])
            )


@pytest.fixture
def stand_in() -> StandIn:
    return StandIn()


@pytest.fixture
async def inference(stand_in: StandIn) -> AsyncIterator[TritonInference]:
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(stand_in, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    inference = TritonInference(None, f"127.0.0.1:{port}", 10.0)
    await inference.start()
    yield inference
    await inference.stop()
    await server.stop(None)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A load or unload counts as hung after a moment."""
    monkeypatch.setattr(module, "LOAD_SECONDS", 0.2)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (Code.UNAVAILABLE, Reason.TRITON_UNAVAILABLE),
        (Code.CANCELLED, Reason.TRITON_UNAVAILABLE),
        (Code.INTERNAL, Reason.INTERNAL),
        (Code.INVALID_ARGUMENT, Reason.INTERNAL),
    ],
)
async def test_an_unload_that_triton_refuses_is_no_triton_that_is_away(
    inference: TritonInference, stand_in: StandIn, code: grpc.StatusCode, reason: Reason
) -> None:
    stand_in.unload_error = code
    with pytest.raises(ServiceError) as refused:
        await inference.unload("iris")
    assert refused.value.reason is reason
    assert "as told" not in refused.value.message


@pytest.mark.parametrize(
    ("code", "reason"),
    [(Code.UNAVAILABLE, Reason.TRITON_UNAVAILABLE), (Code.INVALID_ARGUMENT, Reason.LOAD_FAILED)],
)
async def test_a_load_that_triton_refuses_is_no_triton_that_is_away(
    inference: TritonInference, stand_in: StandIn, code: grpc.StatusCode, reason: Reason
) -> None:
    stand_in.load_error = code
    with pytest.raises(ServiceError) as refused:
        await inference.serve(manifest("iris"))
    assert refused.value.reason is reason
    assert not isinstance(refused.value, LoadHung)


async def test_a_load_that_does_not_come_back_makes_triton_count_as_down(
    inference: TritonInference, stand_in: StandIn, short: None
) -> None:
    stand_in.load_error = Code.DEADLINE_EXCEEDED
    watching = asyncio.create_task(inference.wait_until_down())
    with pytest.raises(LoadHung) as hung:
        await inference.serve(manifest("iris"))
    assert hung.value.reason is Reason.TRITON_UNAVAILABLE
    async with asyncio.timeout(1):
        assert "it hangs in the load" in await watching
    stand_in.load_error = None
    await inference.start()
    watching = asyncio.create_task(inference.wait_until_down())
    await inference.serve(manifest("iris"))
    assert not watching.done()
    watching.cancel()


async def test_an_unload_that_does_not_come_back_makes_triton_count_as_down(
    inference: TritonInference, stand_in: StandIn, short: None
) -> None:
    stand_in.unload_error = Code.DEADLINE_EXCEEDED
    with pytest.raises(ServiceError) as hung:
        await inference.unload("iris")
    assert hung.value.reason is Reason.TRITON_UNAVAILABLE
    async with asyncio.timeout(1):
        await inference.wait_until_down()


async def test_triton_is_given_no_more_loads_than_it_has_threads(inference: TritonInference, stand_in: StandIn) -> None:
    await asyncio.gather(*(inference.serve(manifest(f"model-{n}")) for n in range(20)))
    assert stand_in.most_loading == module.LOADS_AT_ONCE


class DeadTriton:
    """An embedded Triton that reports its address and is gone."""

    pid = None

    async def start(self) -> str:
        return "127.0.0.1:1"

    async def wait(self) -> int:
        return 4

    async def stop(self) -> None:
        pass


async def test_a_triton_that_dies_at_once_is_noticed_at_once() -> None:
    inference = TritonInference(DeadTriton, "", 60.0)  # type: ignore[arg-type]
    async with asyncio.timeout(5):
        with pytest.raises(ServiceError, match="ended while it was started") as refused:
            await inference.start()
    assert refused.value.reason is Reason.TRITON_UNAVAILABLE
    await inference.stop()


# -- versions that are models of their own to Triton -----------------------------------------------------------------

ONE, OTHER = manifest("iris", 1), manifest("iris", 3)
ROWS = Signature.of_tensors((TensorSpec("x", TensorType.FP32, (-1, 2)),), (TensorSpec("y", TensorType.FP32, (-1,)),), 8)
NO_ROWS = replace(ROWS, max_batch_size=0)
TREES = replace(manifest("iris", 2), backend="fil", file="model.txt")


async def test_versions_of_one_configuration_share_a_name_and_others_have_their_own(
    inference: TritonInference, stand_in: StandIn
) -> None:
    await inference.serve(TREES, [ONE, OTHER])
    assert stand_in.held == {"iris": ([1, 3], 1), "iris.v2": ([2], 1)}
    assert await inference.loaded_models() == {"iris"}
    await inference.serve(ONE, [OTHER, TREES], instances=2)
    assert stand_in.held == {"iris": ([1, 3], 2), "iris.v2": ([2], 2)}
    stand_in.loads.clear()
    await inference.serve(OTHER, [TREES], instances=2)  # what does not change has no load
    assert (stand_in.held, stand_in.loads) == ({"iris": ([3], 2), "iris.v2": ([2], 2)}, ["iris"])
    await inference.serve(OTHER)
    assert stand_in.held == {"iris": ([3], 1)}
    await inference.serve(TREES)
    await inference.unload("iris")
    assert stand_in.held == {}


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "iris"),
        ({"backend": "fil", "file": "model.txt"}, "iris.v1"),
        ({"backend": "fitserve_native", "file": "model.cbm"}, "iris.v1"),
        ({"backend": "pytorch", "file": "model.pt"}, "iris.v1"),
        ({"prefer_gpu": True}, "iris.v1"),
        ({"signature": ROWS}, "iris"),
        ({"signature": NO_ROWS}, "iris.v1"),
        ({"signature": NO_ROWS, "backend": "python", "own_config": "..."}, "iris"),
    ],
)
def test_what_shares_a_configuration_shares_a_name(changes: dict[str, Any], name: str) -> None:
    assert triton_name(replace(manifest("iris"), **changes)) == name
    assert model_of(name) == "iris"


async def test_a_refused_version_changes_nothing_of_those_under_other_names(
    inference: TritonInference, stand_in: StandIn
) -> None:
    await inference.serve(ONE)
    stand_in.load_error = Code.INVALID_ARGUMENT
    with pytest.raises(ServiceError, match="version 2 of model 'iris'"):
        await inference.serve(TREES, [ONE], instances=2)
    assert stand_in.held == {"iris": ([1], 1)}
    stand_in.load_error = None
    await inference.serve(ONE)
    assert stand_in.held == {"iris": ([1], 1)}


async def test_names_that_another_service_has_loaded_are_unloaded_too(
    inference: TritonInference, stand_in: StandIn
) -> None:
    stand_in.held = {"iris": ([2], 1), "iris.v7": ([7], 1), "wine": ([1], 1)}
    assert await inference.loaded_models() == {"iris", "wine"}
    await inference.serve(TREES)
    assert stand_in.held == {"iris.v2": ([2], 1), "wine": ([1], 1)}
