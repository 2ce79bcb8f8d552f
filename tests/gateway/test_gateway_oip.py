"""The Open Inference Protocol's REST form, called by tritonclient.http and by hand; gRPC says what is right."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator

import fitserve
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from tests.contract.test_training import X, fit
from tests.gateway_process import GatewayProcess, Json
from tests.service_process import ServiceProcess

MODEL = "gateway-oip-iris"
LENGTH = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def iris(service: ServiceProcess) -> Iterator[str]:
    with fitserve.Client(service.address) as client:
        fit(client, MODEL, load=True).wait(120)
        yield MODEL
        client.remove(MODEL, force=True)


@pytest.fixture(scope="module")
def over_http(gateway: GatewayProcess) -> Iterator[triton_http.InferenceServerClient]:
    client = triton_http.InferenceServerClient(gateway.address, network_timeout=120)
    yield client
    client.close()


@pytest.fixture(scope="module")
def over_grpc(service: ServiceProcess) -> Iterator[triton_grpc.InferenceServerClient]:
    client = triton_grpc.InferenceServerClient(service.address)
    yield client
    client.close()


@pytest.fixture(scope="module")
def scores(over_grpc: triton_grpc.InferenceServerClient, iris: str) -> np.ndarray:
    """What gRPC answers for the rows of iris."""
    tensor = triton_grpc.InferInput("features", X.shape, "FP32")
    tensor.set_data_from_numpy(X)
    return over_grpc.infer(iris, [tensor]).as_numpy("scores")


def features(rows: np.ndarray, binary: bool = True) -> triton_http.InferInput:
    tensor = triton_http.InferInput("features", rows.shape, "FP32")
    tensor.set_data_from_numpy(rows, binary_data=binary)
    return tensor


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary_out", [True, False, None])
@pytest.mark.parametrize("binary_in", [True, False])
def test_every_encoding_gives_the_scores_of_grpc(
    over_http, iris: str, scores: np.ndarray, binary_in: bool, binary_out: bool | None, compression: str | None
) -> None:
    wanted = None if binary_out is None else [triton_http.InferRequestedOutput("scores", binary_data=binary_out)]
    result = over_http.infer(
        iris,
        [features(X, binary_in)],
        outputs=wanted,
        request_id="the-id",
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    assert np.array_equal(result.as_numpy("scores"), scores)
    response = result.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("the-id", iris, "1")
    assert ("data" in response["outputs"][0]) == (binary_out is False)


@pytest.mark.parametrize("binary", [True, False])
def test_classes_are_the_texts_of_grpc(over_http, over_grpc, iris: str, binary: bool) -> None:
    rows = X[::50]
    wanted = triton_http.InferRequestedOutput("scores", binary_data=binary, class_count=2)
    texts = over_http.infer(iris, [features(rows)], outputs=[wanted]).as_numpy("scores")
    twin = triton_grpc.InferInput("features", rows.shape, "FP32")
    twin.set_data_from_numpy(rows)
    expected = over_grpc.infer(
        iris, [twin], outputs=[triton_grpc.InferRequestedOutput("scores", class_count=2)]
    ).as_numpy("scores")
    decoded = [[text if isinstance(text, str) else text.decode() for text in row] for row in texts]
    assert decoded == [[text.decode() for text in row] for row in expected]


def test_a_version_can_be_named(over_http, iris: str, scores: np.ndarray) -> None:
    assert np.array_equal(over_http.infer(iris, [features(X)], model_version="1").as_numpy("scores"), scores)
    with pytest.raises(InferenceServerException, match="version 7"):
        over_http.infer(iris, [features(X)], model_version="7")


def test_many_requests_at_once_are_answered(over_http, iris: str, scores: np.ndarray) -> None:
    waiting = [over_http.async_infer(iris, [features(X[i : i + 1])]) for i in range(20)]
    answers = np.concatenate([one.get_result().as_numpy("scores") for one in waiting])
    assert np.allclose(answers, scores[:20], atol=1e-6)


def test_what_lives_and_is_ready_says_so(over_http, iris: str) -> None:
    assert over_http.is_server_live()
    assert over_http.is_server_ready()
    assert over_http.is_model_ready(iris)
    assert over_http.is_model_ready(iris, "1")
    assert not over_http.is_model_ready("nobody")


def test_metadata_configuration_and_statistics_are_those_of_grpc(over_http, over_grpc, iris: str) -> None:
    def plain(message: Json) -> Json:
        return json.loads(json.dumps(message), parse_int=str)  # protobuf's JSON has 64-bit integers as texts

    assert over_http.get_server_metadata() == over_grpc.get_server_metadata(as_json=True)
    metadata = over_http.get_model_metadata(iris)
    assert metadata["inputs"][0]["shape"] == [-1, 4]
    assert plain(metadata) == over_grpc.get_model_metadata(iris, as_json=True)
    config = over_http.get_model_config(iris, "1")
    assert (config["name"], config["max_batch_size"] > 0) == (iris, True)
    assert config["input"][0]["dims"] == [4]
    (one,) = over_http.get_inference_statistics(iris)["model_stats"]
    (same,) = over_grpc.get_inference_statistics(iris, as_json=True)["model_stats"]
    assert str(one["inference_count"]) == same["inference_count"]
    assert iris in [stats["name"] for stats in over_http.get_inference_statistics()["model_stats"]]


def test_models_are_listed_unloaded_and_loaded(over_http, client: fitserve.Client, name: str) -> None:
    fit(client, name).wait(120)
    over_http.load_model(name)
    assert {"name": name, "version": "1", "state": "READY", "reason": ""} in over_http.get_model_repository_index()
    over_http.unload_model(name)
    assert not over_http.is_model_ready(name)
    states = {one["name"]: one["state"] for one in over_http.get_model_repository_index()}
    assert states[name] == "UNAVAILABLE"
    client.remove(name)


def test_an_error_has_the_message_of_grpc(over_http, over_grpc, iris: str) -> None:
    tensor = triton_grpc.InferInput("features", [1, 3], "FP32")
    tensor.set_data_from_numpy(X[:1, :3])
    for model, rows in (("nobody", X), (iris, X[:1, :3])):
        with pytest.raises(InferenceServerException) as refused:
            over_http.infer(model, [features(rows)])
        with pytest.raises(InferenceServerException) as twin:
            over_grpc.infer(model, [tensor])
        assert refused.value.message() == twin.value.message()


# -- by hand --------------------------------------------------------------------------------------------------------

INPUT = {"name": "features", "datatype": "FP32", "shape": [2, 4], "data": X[:2].tolist()}


def infer(gateway: GatewayProcess, body: Json, **headers: str):
    return gateway.call("POST", f"/v2/models/{MODEL}/infer", body, **headers)


def test_plain_json_is_answered_with_plain_json(gateway: GatewayProcess, iris: str, scores: np.ndarray) -> None:
    for data in (X[:2].tolist(), X[:2].ravel().tolist()):  # nested or flat
        answer = infer(gateway, {"inputs": [INPUT | {"data": data}]})
        assert answer.status == 200
        (output,) = answer.json["outputs"]
        assert (output["name"], output["datatype"], output["shape"]) == ("scores", "FP32", [2, 3])
        assert np.array_equal(np.array(output["data"], np.float32).reshape(2, 3), scores[:2])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"data": [1, 2, 3]}, "inputs[0].data"),
        ({"data": [*range(7), "x"]}, "inputs[0].data"),
        ({"data": [*range(7), 1e300]}, "inputs[0].data"),
        ({"data": {"a": 1}}, "inputs[0].data"),
        ({"datatype": "FP16"}, "inputs[0].data"),
        ({"shape": ["2", "4"]}, "inputs.shape"),
        ({"shape": [-2, -4]}, "inputs[0].data"),
        ({"parameters": {"binary_data_size": 32}}, "inputs[0]"),
        ({"data": None, "parameters": {"binary_data_size": 32}}, "inputs[0].parameters.binary_data_size"),
        ({"data": None, "parameters": {"binary_data_size": "32"}}, "inputs[0].parameters.binary_data_size"),
        ({"parameters": {"odd": [1]}}, "inputs[0].parameters.odd"),
        ({"dtype": "FP32"}, "dtype"),
    ],
)
def test_a_malformed_input_is_named(gateway: GatewayProcess, iris: str, change: Json, field: str) -> None:
    answer = infer(gateway, {"inputs": [{k: v for k, v in (INPUT | change).items() if v is not None}]})
    assert answer.status == 400
    assert answer.json["error"] == answer.json["message"]
    assert answer.json["details"][0]["metadata"]["field"] == field


def test_binary_data_must_be_all_used(gateway: GatewayProcess, iris: str) -> None:
    header = json.dumps({"inputs": [{k: v for k, v in INPUT.items() if k != "data"} | {
        "parameters": {"binary_data_size": 32}
    }]}).encode()  # fmt: skip
    length = {LENGTH: str(len(header))}
    raw = X[:2].tobytes()
    assert infer(gateway, header + raw, **length).status == 200
    assert "4 bytes" in infer(gateway, header + raw + b"more", **length).json["error"]
    assert "31 are left" in infer(gateway, header + raw[:31], **length).json["error"]
    for wrong in ("-1", "0", "x", str(len(header) + 33)):
        assert infer(gateway, header + raw, **{LENGTH: wrong}).json["details"][0]["metadata"]["field"] == LENGTH


@pytest.mark.parametrize(("encoding", "body"), [("gzip", b"no gzip"), ("deflate", b"no zlib"), ("br", b"")])
def test_a_body_that_cannot_be_unpacked_is_refused(gateway: GatewayProcess, encoding: str, body: bytes) -> None:
    assert infer(gateway, body, content_encoding=encoding).status == 400


def test_a_small_body_that_unpacks_to_much_is_too_large(gateway: GatewayProcess) -> None:
    bomb = zlib.compressobj(9)
    body = b"".join(bomb.compress(bytes(2**20)) for _ in range(100)) + bomb.flush()
    answer = infer(gateway, body, content_encoding="deflate")
    assert (len(body) < 2**20, answer.status) == (True, 429)
    assert answer.json["details"][0]["reason"] == "MESSAGE_TOO_LARGE"
