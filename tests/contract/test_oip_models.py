"""What the Open Inference Protocol tells of server and models, and its load and unload, called by tritonclient."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import fitserve
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import InferenceServerException

from service import __version__
from tests.conftest import StartService
from tests.contract.oip import features
from tests.contract.test_training import X, fit, wait_until
from tests.contract.wire import error_of
from tests.service_process import ServiceProcess


def test_the_server_is_live_ready_and_known_by_name(oip) -> None:
    assert oip.is_server_live()
    assert oip.is_server_ready()
    metadata = oip.get_server_metadata()
    assert (metadata.name, metadata.version) == ("fitserve", __version__)
    assert set(metadata.extensions) == {"classification", "model_configuration", "model_repository", "statistics"}


def test_a_server_whose_triton_has_died_is_not_ready_until_it_is_back(start_service: StartService) -> None:
    service = start_service()
    with fitserve.Client(service.address) as client, triton.InferenceServerClient(service.address) as oip:
        fit(client, "iris", load=True).wait(30)
        (server,) = (process for process in service.family() if process.name() == "tritonserver")
        server.kill()
        wait_until(lambda: not oip.is_server_ready())
        assert oip.is_server_live()
        with pytest.raises(InferenceServerException) as refused:
            oip.infer("iris", [features(X[:1])])
        assert refused.value.status() == "StatusCode.UNAVAILABLE"
        assert not oip.is_model_ready("iris")
        wait_until(lambda: oip.is_server_ready() and oip.is_model_ready("iris"), 60)
        oip.infer("iris", [features(X[:1])])


def test_a_model_tells_its_tensors_and_its_configuration(oip, oip_iris: str) -> None:
    metadata = oip.get_model_metadata(oip_iris, as_json=True)
    assert metadata == {
        "name": oip_iris,
        "versions": ["1"],
        "platform": "onnxruntime",
        "inputs": [{"name": "features", "datatype": "FP32", "shape": ["-1", "4"]}],
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": ["-1", "3"]}],
    }
    config = oip.get_model_config(oip_iris, "1").config
    assert (config.name, config.backend, config.max_batch_size) == (oip_iris, "onnxruntime", 1024)
    assert [(one.name, list(one.dims)) for one in config.input] == [("features", [4])]


def index(oip: triton.InferenceServerClient, model: str) -> list[tuple[str, str, str]]:
    found = oip.get_model_repository_index().models
    return [(one.version, one.state, one.reason) for one in found if one.name == model]


def test_load_and_unload_go_through_the_model_pool(oip, client: fitserve.Client, name: str) -> None:
    fit(client, name).wait(30)
    assert not oip.is_model_ready(name)
    assert index(oip, name) == [("1", "UNAVAILABLE", "not loaded")]
    oip.load_model(name)
    assert oip.is_model_ready(name, "1")
    assert not oip.is_model_ready(name, "2")
    assert client.model(name).state == "LOADED"
    assert index(oip, name) == [("1", "READY", "")]
    oip.unload_model(name, unload_dependents=True)
    assert client.model(name).state == "STORED"
    assert not oip.is_model_ready(name)
    with pytest.raises(InferenceServerException) as refused:
        oip.get_model_metadata(name)
    assert refused.value.status() == "StatusCode.FAILED_PRECONDITION"


def test_a_load_takes_the_latest_version(oip, client: fitserve.Client, name: str) -> None:
    fit(client, name, load=True).wait(30)
    fit(client, name, existing="new_version").wait(30)
    oip.load_model(name)
    assert client.model(name).serving_version == 2
    assert [state for _, state, _ in index(oip, name)] == ["UNAVAILABLE", "READY"]
    assert oip.infer(name, [features(X[:1])]).get_response().model_version == "2"


def test_the_index_can_be_of_ready_models_only(oip, client: fitserve.Client, name: str, oip_iris: str) -> None:
    fit(client, name).wait(30)
    ready = oip._client_stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True)).models
    assert {one.state for one in ready} == {"READY"}
    assert oip_iris in {one.name for one in ready}
    assert name not in {one.name for one in ready}


async def test_the_async_client_loads_asks_and_unloads(
    service: ServiceProcess, client: fitserve.Client, name: str
) -> None:
    fit(client, name).wait(30)
    async with triton_aio.InferenceServerClient(service.address) as oip:
        assert await oip.is_server_live()
        assert await oip.is_server_ready()
        assert (await oip.get_server_metadata()).name == "fitserve"
        await oip.load_model(name)
        assert await oip.is_model_ready(name)
        assert (await oip.get_model_metadata(name)).inputs[0].name == "features"
        assert (await oip.get_model_config(name)).config.name == name
        await oip.infer(name, [features(X[:7])])
        (statistics,) = (await oip.get_inference_statistics(name)).model_stats
        assert (statistics.inference_count, statistics.execution_count) == (7, 1)
        await oip.unload_model(name)
        states = {one.name: one.state for one in (await oip.get_model_repository_index()).models}
        assert states[name] == "UNAVAILABLE"
        with pytest.raises(InferenceServerException, match="call Load first"):
            await oip.infer(name, [features(X[:1])])


def test_the_limit_of_loaded_models_holds(start_service: StartService) -> None:
    service = start_service(MAX_LOADED_MODELS="1")
    with fitserve.Client(service.address) as client, triton.InferenceServerClient(service.address) as oip:
        fit(client, "first", load=True).wait(30)
        fit(client, "second").wait(30)
        with pytest.raises(InferenceServerException, match="first") as refused:
            oip.load_model("second")
        assert refused.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
        oip.unload_model("first")
        oip.load_model("second")


@pytest.mark.parametrize("call", ["load_model", "unload_model", "get_model_metadata", "get_model_config"])
def test_unknown_and_bad_names_are_refused(oip, call: str) -> None:
    for name, status in (("nobody", "NOT_FOUND"), ("../x", "INVALID_ARGUMENT"), ("", "INVALID_ARGUMENT")):
        with pytest.raises(InferenceServerException) as refused:
            getattr(oip, call)(name)
        assert refused.value.status() == f"StatusCode.{status}"
    if "get" in call:
        with pytest.raises(InferenceServerException, match="no version"):
            getattr(oip, call)("nobody", "X")


def test_a_load_with_settings_of_its_own_is_unimplemented(oip, client: fitserve.Client, name: str) -> None:
    fit(client, name).wait(30)
    for more in ({"config": '{"backend": "python"}'}, {"config": "{}", "files": {"file:1/model.py": b"x"}}):
        with pytest.raises(InferenceServerException, match="without parameters") as refused:
            oip.load_model(name, **more)
        assert refused.value.status() == "StatusCode.UNIMPLEMENTED"
    assert client.model(name).state == "STORED"


# -- statistics ------------------------------------------------------------------------------------------------------


def test_statistics_count_requests_rows_and_batches(oip, client: fitserve.Client, name: str) -> None:
    fit(client, name, load=True).wait(30)
    before = time.time() * 1000
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda size: oip.infer(name, [features(X[:size])]), [1, 2, 3] * 40))
    client.predict(name, X)
    (found,) = oip.get_inference_statistics(name, "1").model_stats
    stats = found.inference_stats
    assert (found.name, found.version) == (name, "1")
    assert (stats.success.count, stats.fail.count) == (121, 0)
    assert stats.queue.count == stats.compute_infer.count == 121
    assert found.inference_count == 240 + 150
    assert sum(one.batch_size * one.compute_infer.count for one in found.batch_stats) == found.inference_count
    assert sum(one.compute_infer.count for one in found.batch_stats) == found.execution_count
    assert found.execution_count < 121  # some requests shared a batch
    assert 0 < stats.compute_infer.ns <= stats.queue.ns + stats.compute_infer.ns <= stats.success.ns
    assert before <= found.last_inference <= time.time() * 1000


def test_statistics_of_all_loaded_models_come_without_a_name(oip, oip_iris: str) -> None:
    assert oip_iris in {one.name for one in oip.get_inference_statistics().model_stats}
    with pytest.raises(InferenceServerException, match="no model 'nobody'"):
        oip.get_inference_statistics("nobody")


# -- what is not served ----------------------------------------------------------------------------------------------

NOT_SERVED = {
    "system status": lambda oip: oip.get_system_shared_memory_status(),
    "system register": lambda oip: oip.register_system_shared_memory("x", "/x", 1),
    "system unregister": lambda oip: oip.unregister_system_shared_memory("x"),
    "cuda status": lambda oip: oip.get_cuda_shared_memory_status(),
    "cuda register": lambda oip: oip.register_cuda_shared_memory("x", b"", 0, 1),
    "cuda unregister": lambda oip: oip.unregister_cuda_shared_memory("x"),
    "trace": lambda oip: oip.get_trace_settings(),
    "log": lambda oip: oip.get_log_settings(),
}


@pytest.mark.parametrize("call", NOT_SERVED.values(), ids=NOT_SERVED)
def test_what_is_not_served_says_what_to_do_instead(oip, call) -> None:
    with pytest.raises(InferenceServerException, match=r"raw_input_contents|ModelStatistics|LOG_LEVEL") as refused:
        call(oip)
    assert refused.value.status() == "StatusCode.UNIMPLEMENTED"


def test_another_repository_is_unimplemented(oip) -> None:
    stub = oip._client_stub
    for call in (
        partial(stub.RepositoryIndex, pb.RepositoryIndexRequest(repository_name="x")),
        partial(stub.RepositoryModelLoad, pb.RepositoryModelLoadRequest(repository_name="x")),
        partial(stub.RepositoryModelUnload, pb.RepositoryModelUnloadRequest(repository_name="x")),
    ):
        refusal = error_of(call)
        assert refusal.reason == "UNIMPLEMENTED"
        assert refusal.metadata["method"].startswith("/inference.GRPCInferenceService/Repository")


def test_an_unload_with_an_unknown_parameter_is_refused(oip) -> None:
    request = pb.RepositoryModelUnloadRequest(model_name="x")
    request.parameters["force"].bool_param = True
    assert error_of(partial(oip._client_stub.RepositoryModelUnload, request)).fields == ["parameters"]


# -- one copy of Triton's messages -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "imports",
    [
        "import tritonclient.grpc, fitserve; fitserve.Client, fitserve.AsyncClient",
        "import fitserve; fitserve.Client, fitserve.AsyncClient; import tritonclient.grpc",
        "import tritonclient.grpc.aio, service.bootstrap, fitserve",
        "import service.bootstrap, fitserve, tritonclient.grpc.aio",
    ],
)
def test_tritonclient_and_fitserve_are_imported_in_both_orders(imports: str) -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", imports], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
