"""Models of named tensors and of free texts over REST, in FitServe's own JSON and in that of the Open Inference Protocol."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import fitserve
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from google.protobuf import json_format

from tests.contract.test_named_tensors import floats, texts
from tests.gateway.test_gateway_rest import fit, states
from tests.gateway_process import GatewayProcess, Json
from tests.operator_model import place
from tests.reviews import records_of, reviews
from tests.service_process import ServiceProcess

WORDS = ["köln", ""]
NUMBERS = [[1.0, 2.5], [3.0, 4.0]]


@pytest.fixture(scope="module")
def echo(service: ServiceProcess) -> Iterator[str]:
    """A loaded model that takes texts and numbers, and may take a count (tests/operator_model.py)."""
    place(service.model_dir, "echo-rest")
    with fitserve.Client(service.address) as client:
        client.load("echo-rest")
        yield "echo-rest"
        client.unload("echo-rest")


def predict(gateway: GatewayProcess, model: str, inputs: Json) -> Json:
    answer = gateway.call("POST", f"/v1/models/{model}:predict", {"inputs": inputs})
    assert answer.status == 200, answer.body
    return answer.json


def tensors() -> Json:
    given = {"text": texts(*WORDS), "numbers": floats(*NUMBERS)}
    return {name: json_format.MessageToDict(tensor) for name, tensor in given.items()}


def test_tensors_are_answered_with_outputs(gateway: GatewayProcess, echo: str) -> None:
    outputs = predict(gateway, echo, {"tensors": tensors()})["outputs"]
    upper, sums = outputs["upper"], outputs["sums"]
    assert (upper["dtype"], [int(length) for length in upper["shape"]]) == ("DATA_TYPE_BYTES", [2, 1])
    assert base64.b64decode(upper["data"]) == texts("KÖLN", "").data
    assert np.frombuffer(base64.b64decode(sums["data"]), np.float64).reshape(2, 2).tolist() == [[3.5, 3.5], [7, 7]]


def test_records_are_answered_with_an_object_a_row(gateway: GatewayProcess, echo: str) -> None:
    records = [{"text": word, "numbers": numbers} for word, numbers in zip(WORDS, NUMBERS, strict=True)]
    records[1]["count"] = 3
    (first,) = predict(gateway, echo, {"records": records[:1]})["predictions"]
    assert first == {"upper": "KÖLN", "sums": [3.5, 3.5], "requests": 1}
    (second,) = predict(gateway, echo, {"records": records[1:]})["predictions"]
    assert second == {"upper": "", "sums": [10, 7], "requests": 1}


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        ({"tensors": {"text": {}}}, "inputs"),
        ({"records": [{"txt": "a", "numbers": [1]}]}, "txt"),
        ({"records": [{"text": "a"}]}, "numbers"),
        ({"tensors": {"text": {"dtype": "DATA_TYPE_FP32", "shape": [1], "data": "AAAAAA=="}}}, "inputs"),
        ({"tensors": {"text": {"dtype": "DATA_TYPE_BYTES", "shape": [1], "data": "no base64!"}}}, ""),
    ],
    ids=["nothing in a tensor", "an unknown name", "a missing input", "another type", "no base64"],
)
def test_what_does_not_fit_is_named(gateway: GatewayProcess, echo: str, inputs: Json, named: str) -> None:
    answer = gateway.call("POST", f"/v1/models/{echo}:predict", {"inputs": inputs})
    assert answer.status == 400
    assert answer.json["code"] == 3
    assert named in json.dumps(answer.json)


# -- the Open Inference Protocol -------------------------------------------------------------------------------------


def as_inputs(kind: type) -> list[Json]:
    """Returns the inputs for tritonclient's HTTP or gRPC form."""
    words = np.array([[word.encode()] for word in WORDS], np.object_)
    numbers = np.array(NUMBERS, np.float32)
    text = kind("text", words.shape, "BYTES")
    text.set_data_from_numpy(words)
    floats = kind("numbers", numbers.shape, "FP32")
    floats.set_data_from_numpy(numbers)
    return [text, floats]


@pytest.mark.parametrize("binary", [True, False])
def test_infer_gives_the_outputs_of_grpc(
    service: ServiceProcess, gateway: GatewayProcess, echo: str, binary: bool
) -> None:
    names = ("upper", "sums")
    with triton_grpc.InferenceServerClient(service.address) as over_grpc:
        expected = over_grpc.infer(echo, as_inputs(triton_grpc.InferInput))
        over_http = triton_http.InferenceServerClient(gateway.address, network_timeout=120)
        wanted = [triton_http.InferRequestedOutput(name, binary_data=binary) for name in names]
        found = over_http.infer(echo, as_inputs(triton_http.InferInput), outputs=wanted)
        over_http.close()
    assert found.as_numpy("sums").tolist() == expected.as_numpy("sums").tolist() == [[3.5, 3.5], [7, 7]]
    upper = [text if isinstance(text, str) else text.decode() for text in found.as_numpy("upper").ravel()]
    assert upper == [text.decode() for text in expected.as_numpy("upper").ravel()] == ["KÖLN", ""]


def test_infer_takes_plain_json_and_names_what_does_not_fit(gateway: GatewayProcess, echo: str) -> None:
    text = {"name": "text", "datatype": "BYTES", "shape": [2, 1], "data": WORDS}
    numbers = {"name": "numbers", "datatype": "FP32", "shape": [2, 2], "data": NUMBERS}
    answer = gateway.call("POST", f"/v2/models/{echo}/infer", {"inputs": [text, numbers]})
    outputs = {one["name"]: one for one in answer.json["outputs"]}
    assert (outputs["upper"]["datatype"], outputs["upper"]["data"]) == ("BYTES", ["KÖLN", ""])
    assert outputs["sums"]["data"] == [3.5, 3.5, 7, 7]
    for inputs, named in (
        ([text], "numbers"),
        ([text, numbers | {"name": "nombers"}], "nombers"),
        ([text, numbers | {"datatype": "FP64"}], "FP64"),
        ([text | {"shape": [1, 1], "data": ["a"]}, numbers], "rows"),
    ):
        refused = gateway.call("POST", f"/v2/models/{echo}/infer", {"inputs": inputs})
        assert refused.status == 400
        assert named in refused.json["error"]


def test_metadata_names_all_tensors(gateway: GatewayProcess, echo: str) -> None:
    metadata = gateway.call("GET", f"/v2/models/{echo}").json
    assert [(one["name"], one["datatype"], one["shape"]) for one in metadata["inputs"]] == [
        ("text", "BYTES", [-1, 1]),
        ("numbers", "FP32", [-1, -1]),
        ("count", "INT64", [-1, 1]),
    ]
    assert [one["name"] for one in metadata["outputs"]] == ["upper", "sums", "requests"]


def test_what_the_code_says_of_wrong_inputs_comes_back(gateway: GatewayProcess, echo: str) -> None:
    problem = "text: 'wrong' is not taken; send another one"
    answer = gateway.call(
        "POST", f"/v1/models/{echo}:predict", {"inputs": {"records": [{"text": "wrong", "numbers": [1]}]}}
    )
    assert (answer.status, answer.json["message"]) == (400, f"inputs: {problem}")
    text = {"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["wrong"]}
    numbers = {"name": "numbers", "datatype": "FP32", "shape": [1, 1], "data": [1]}
    refused = gateway.call("POST", f"/v2/models/{echo}/infer", {"inputs": [text, numbers]})
    assert refused.status == 400
    assert problem in refused.json["error"]


# -- columns of free text --------------------------------------------------------------------------------------------


TEXTS = {"inline": {"inputs": {"records": [{"review": "good"}, {"review": "bad"}] * 5}, "labels": ["a", "b"] * 5}}


@pytest.fixture(scope="module")
def reader(gateway: GatewayProcess) -> Iterator[str]:
    """A loaded model that was trained over REST on reviews, beside a number and two categories."""
    sent = reviews(300)
    inputs = {"records": records_of(sent.drop(columns="verdict"))}
    order: Json = {
        "logistic_regression": None,
        "catboost": {"iterations": 30},
        "text_columns": ["review"],
        "load": True,
    }
    job = fit(gateway, "reviews-rest", **order, inline={"inputs": inputs, "labels": sent["verdict"].tolist()})
    assert states(gateway, job)[-1] == "JOB_STATE_SUCCEEDED"
    yield "reviews-rest"
    gateway.call("DELETE", "/v1/models/reviews-rest?force=true")


def columns_of(gateway: GatewayProcess, model: str) -> Json:
    return gateway.call("GET", f"/v1/models/{model}").json["model"]["versions"][0]["signature"]["columns"]


def test_words_are_learned_from_over_rest(service: ServiceProcess, gateway: GatewayProcess, reader: str) -> None:
    asked = reviews(200, seed=1)
    records = records_of(asked.drop(columns="verdict"))
    fields = {"inputs": {"records": records}, "include_probabilities": True}
    found = gateway.call("POST", f"/v1/models/{reader}:predict", fields).json
    assert np.mean(found["predictions"] == asked["verdict"]) > 0.8
    with fitserve.Client(service.address) as client:
        assert found["probabilities"] == client.predict_proba(reader, records).probabilities.tolist()
    columns = columns_of(gateway, reader)
    assert [one["name"] for one in columns if one["kind"] == "COLUMN_KIND_TEXT"] == ["review"]


def test_a_text_that_does_not_fit_is_named_over_rest(gateway: GatewayProcess, reader: str) -> None:
    (record,) = records_of(reviews(1).drop(columns="verdict"))
    path = f"/v1/models/{reader}:predict"
    answer = gateway.call("POST", path, {"inputs": {"records": [record | {"review": 3}]}})
    assert (answer.status, answer.json["code"]) == (400, 3)
    assert "inputs.records[0].review: it is a number, but the column holds texts" in answer.json["message"]
    lone = {"inputs": {"records": [{"review": "lovely"}]}}
    assert "price" in gateway.call("POST", path, lone).json["message"]
    refused = gateway.call(
        "POST", f"/v1/models/{reader}-2:fit", {"random_forest": {}, "text_columns": ["review"], **TEXTS}
    )
    assert refused.status == 400
    assert "text_columns: random_forest learns nothing from free text; use catboost" in refused.json["message"]


def test_infer_takes_features_and_texts(gateway: GatewayProcess, reader: str) -> None:
    record = {"price": 80, "city": "Rome", "title": "stay", "review": "a lovely room"}
    fields = {"inputs": {"records": [record]}, "include_probabilities": True}
    expected = gateway.call("POST", f"/v1/models/{reader}:predict", fields).json["probabilities"]
    values = {"city": 1, "price": 80, "title": 1}  # of the categories Oslo, Rome, Wien and short, stay the second
    columns = columns_of(gateway, reader)
    data = [values[one["name"]] for one in columns if one["kind"] != "COLUMN_KIND_TEXT"]
    features = {"name": "features", "datatype": "FP32", "shape": [1, 3], "data": data}
    words = {"name": "texts", "datatype": "BYTES", "shape": [1, 1], "data": [record["review"]]}
    (scores,) = gateway.call("POST", f"/v2/models/{reader}/infer", {"inputs": [features, words]}).json["outputs"]
    assert scores["shape"] == [1, 2]
    assert np.allclose([scores["data"]], expected, atol=1e-6)
