"""Predictions of models of named tensors: forms of inputs, answers, errors, and the Open Inference Protocol."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from fitserve.v1 import data_pb2, model_pb2, model_service_pb2, prediction_service_pb2
from google.protobuf import json_format

from tests.contract.wire import Stubs, column, error_of, records, rows, table
from tests.operator_model import place
from tests.service_process import ServiceProcess

PREDICT = prediction_service_pb2.PredictRequest
ONE = {"text": "köln", "numbers": [1, 2.5]}


@pytest.fixture(scope="module")
def echo(service: ServiceProcess, stubs: Stubs) -> str:
    place(service.model_dir, "echo-tensors")
    stubs.models.Load(model_service_pb2.LoadRequest(model="echo-tensors"))
    return "echo-tensors"


def texts(*values: str) -> data_pb2.Tensor:
    data = b"".join(len(value.encode()).to_bytes(4, "little") + value.encode() for value in values)
    return data_pb2.Tensor(dtype=data_pb2.DATA_TYPE_BYTES, shape=[len(values), 1], data=data)


def floats(*values: list[float]) -> data_pb2.Tensor:
    array = np.array(values, np.float32)
    return data_pb2.Tensor(dtype=data_pb2.DATA_TYPE_FP32, shape=array.shape, data=array.tobytes())


def inputs(**tensors: data_pb2.Tensor) -> data_pb2.Inputs:
    return data_pb2.Inputs(tensors=tensors)


def answers(stubs: Stubs, model: str, given: data_pb2.Inputs) -> list[dict[str, object]]:
    reply = stubs.predictions.Predict(PREDICT(model=model, inputs=given))
    return [json_format.MessageToDict(value) for value in reply.predictions]


def test_the_signature_names_inputs_and_outputs(stubs: Stubs, echo: str) -> None:
    model = stubs.models.GetModel(model_service_pb2.GetModelRequest(model=echo)).model
    (version,) = model.versions
    assert model.state == model_pb2.MODEL_STATE_LOADED
    assert (version.source, version.algorithm) == (model_pb2.MODEL_SOURCE_OPERATOR, "")
    signature = version.signature
    assert [(one.name, one.dtype, list(one.shape), one.optional) for one in signature.inputs] == [
        ("text", data_pb2.DATA_TYPE_BYTES, [-1, 1], False),
        ("numbers", data_pb2.DATA_TYPE_FP32, [-1, -1], False),
        ("count", data_pb2.DATA_TYPE_INT64, [-1, 1], True),
    ]
    assert [one.name for one in signature.outputs] == ["upper", "sums", "requests"]


def test_records_are_answered_with_an_object_a_row(stubs: Stubs, echo: str) -> None:
    given = records({**ONE, "count": 3}, {"text": "b", "numbers": [0, 1], "count": 4})
    assert answers(stubs, echo, given) == [
        {"upper": "KÖLN", "sums": [6.5, 3.5], "requests": 2},
        {"upper": "B", "sums": [5.0, 1.0], "requests": 2},
    ]


def test_what_is_optional_may_be_null_or_missing(stubs: Stubs, echo: str) -> None:
    expected = [{"upper": "KÖLN", "sums": [3.5, 3.5], "requests": 1}]
    assert answers(stubs, echo, records(ONE)) == answers(stubs, echo, records({**ONE, "count": None})) == expected


def test_a_text_may_come_as_a_list_and_is_its_json(stubs: Stubs, echo: str) -> None:
    (answer,) = answers(stubs, echo, records({"text": [1.5, "a", None], "numbers": [1]}))
    assert answer["upper"] == '[1.5, "A", NULL]'


def test_tensors_are_answered_with_outputs(stubs: Stubs, echo: str) -> None:
    given = inputs(text=texts("a", "bc", ""), numbers=floats([1, 2], [3, 4], [5, 6]))
    outputs = stubs.predictions.Predict(PREDICT(model=echo, inputs=given)).outputs
    assert outputs["upper"] == texts("A", "BC", "")
    assert list(outputs["sums"].shape) == [3, 2]
    assert np.frombuffer(outputs["sums"].data, np.float64).tolist() == [3, 3, 7, 7, 11, 11]


def test_a_row_of_one_value_needs_no_second_dimension(stubs: Stubs, echo: str) -> None:
    text = texts("a", "b")
    del text.shape[1]
    reply = stubs.predictions.Predict(PREDICT(model=echo, inputs=inputs(text=text, numbers=floats([1], [2]))))
    assert reply.outputs["upper"] == texts("A", "B")


def test_a_table_is_taken_for_inputs_of_one_value_a_row(stubs: Stubs, echo: str) -> None:
    given = table(column("text", ["a", "b"]), column("numbers", [1.0, 2.0]))
    reply = stubs.predictions.Predict(PREDICT(model=echo, inputs=given))
    assert reply.outputs["upper"] == texts("A", "B")


def test_more_rows_than_a_batch_holds_come_back_in_order(stubs: Stubs, echo: str) -> None:
    words = [f"word {number}" * (number % 3) for number in range(50)]
    given = inputs(text=texts(*words), numbers=floats(*[[float(number)] for number in range(50)]))
    outputs = stubs.predictions.Predict(PREDICT(model=echo, inputs=given)).outputs
    assert outputs["upper"] == texts(*(word.upper() for word in words))
    assert np.frombuffer(outputs["requests"].data, np.int32).max() == 8


def test_requests_at_the_same_time_share_batches_if_their_shapes_allow_it(stubs: Stubs, echo: str) -> None:
    def ask(number: int) -> tuple[int, dict[str, object]]:
        numbers = [1] * (1 + number % 2) + [number]
        return number, answers(stubs, echo, records({"text": f"n{number}", "numbers": numbers}))[0]

    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(ask, range(400)))
    for number, answer in found:
        assert (answer["upper"], answer["sums"]) == (f"N{number}", [number + 1 + number % 2] * 2)
    assert any(answer["requests"] != 1 for _, answer in found)


def test_a_bad_row_fails_alone_and_its_message_stays_inside(stubs: Stubs, echo: str) -> None:
    def ask(number: int) -> str:
        text = "bad" if number == 7 else "good"
        try:
            return str(answers(stubs, echo, records({"text": text, "numbers": [1]}))[0]["upper"])
        except grpc.RpcError as error:
            assert "secret" not in error.details()
            return error.code().name

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(ask, range(16)))
    assert found == ["GOOD"] * 7 + ["INTERNAL"] + ["GOOD"] * 8


def test_what_the_code_says_of_wrong_inputs_reaches_their_caller_alone(stubs: Stubs, echo: str) -> None:
    """However many are wrong, and whatever batches they were in."""

    def ask(number: int) -> str:
        text = "good" if number % 8 == 0 else "wrong"
        try:
            return str(answers(stubs, echo, records({"text": text, "numbers": [1]}))[0]["upper"])
        except grpc.RpcError as error:
            return f"{error.code().name} {error.details()}"

    refusal = "INVALID_ARGUMENT inputs: text: 'wrong' is not taken; send another one"
    with ThreadPoolExecutor(32) as pool:
        for _ in range(4):
            assert list(pool.map(ask, range(32))) == (["GOOD"] + [refusal] * 7) * 4


def test_wrong_inputs_are_told_as_a_bad_field(stubs: Stubs, echo: str) -> None:
    given = inputs(text=texts("wrong"), numbers=floats([1]))
    refused = error_of(lambda: stubs.predictions.Predict(PREDICT(model=echo, inputs=given)))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert refused.fields == ["inputs"]


def test_an_error_of_the_code_that_does_not_blame_the_inputs_stays_inside(stubs: Stubs, echo: str) -> None:
    given = inputs(text=texts("broken"), numbers=floats([1]))
    refused = error_of(lambda: stubs.predictions.Predict(PREDICT(model=echo, inputs=given)))
    assert refused.code is grpc.StatusCode.INTERNAL
    assert "secret" not in refused.message


@pytest.mark.parametrize(
    ("given", "field", "says"),
    [
        (records({"txt": "a", "numbers": [1]}), "inputs.records[0]", "did you mean 'text'?"),
        (records({"text": "a"}), "inputs.records[0]", "input 'numbers' is missing"),
        (records(ONE, {**ONE, "more": 1}), "inputs.records[1]", "input 'more' is not known"),
        (records({**ONE, "text": 5}), "inputs.records[0].text", "takes texts"),
        (records({**ONE, "text": None}), "inputs.records[0].text", "takes texts"),
        (records({**ONE, "numbers": ["x"]}), "inputs.records[0].numbers[0]", "takes numbers"),
        (records({**ONE, "numbers": [[1]]}), "inputs.records[0].numbers", "shape [1, 1]"),
        (records({**ONE, "count": 1.5}), "inputs.records[0].count", "1.5 is no INT64"),
        (records({**ONE, "count": 1e300}), "inputs.records[0].count", "is no INT64"),
        (records({**ONE, "count": [1, 2]}), "inputs.records[0].count", "takes [1]"),
        (records(ONE, {**ONE, "numbers": [1]}), "inputs.records[1].numbers", "the first row has [2]"),
        (inputs(text=texts("a")), "inputs.tensors", "input 'numbers' is missing"),
        (inputs(text=texts("a"), nummers=floats([1])), "inputs.tensors", "did you mean 'numbers'?"),
        (inputs(text=floats([1]), numbers=floats([1])), "inputs.tensors['text'].dtype", "takes DATA_TYPE_BYTES"),
        (inputs(text=texts("a"), numbers=floats([1], [2])), "inputs.tensors", "2 rows"),
        (
            inputs(text=data_pb2.Tensor(dtype=13, shape=[1, 1], data=b"\x09\0\0\0a"), numbers=floats([1])),
            "inputs.tensors['text'].data",
            "cut off",
        ),
        (
            inputs(text=data_pb2.Tensor(dtype=13, shape=[2, 1], data=texts("a").data), numbers=floats([1], [1])),
            "inputs.tensors['text'].data",
            "5 bytes are too few for 2 texts",
        ),
        (
            inputs(text=texts("a"), numbers=data_pb2.Tensor(dtype=11, shape=[1, 2], data=b"1234")),
            "inputs.tensors['numbers'].data",
            "4 bytes",
        ),
        (
            inputs(text=texts("a"), numbers=data_pb2.Tensor(dtype=11, shape=[1, -2], data=b"")),
            "inputs.tensors['numbers'].shape",
            "the shape is [1, -2]",
        ),
        (inputs(text=texts(), numbers=data_pb2.Tensor(dtype=11, shape=[0, 1])), "inputs.tensors", "there are no rows"),
        (rows([1.0]), "inputs.rows", "the model has 3 inputs"),
        (table(column("text", ["a"])), "inputs.table[0]", "input 'numbers' is missing"),
    ],
)
def test_what_does_not_fit_is_refused_and_named(
    stubs: Stubs, echo: str, given: data_pb2.Inputs, field: str, says: str
) -> None:
    refused = error_of(lambda: stubs.predictions.Predict(PREDICT(model=echo, inputs=given)))
    assert (refused.code, refused.reason, refused.fields) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_FIELD",
        [field],
    )
    assert says in refused.message


def test_a_stream_answers_good_and_bad_batches(stubs: Stubs, echo: str) -> None:
    message = prediction_service_pb2.PredictStreamRequest
    config = prediction_service_pb2.PredictStreamConfig(model=echo)
    batches = [records(ONE), records({"text": "a"}), inputs(text=texts("z"), numbers=floats([1]))]
    replies = stubs.predictions.PredictStream(iter([message(config=config), *(message(inputs=one) for one in batches)]))
    first, second, third = replies
    assert json_format.MessageToDict(first.response.predictions[0])["upper"] == "KÖLN"
    assert "numbers" in second.error.message
    assert third.response.outputs["upper"] == texts("Z")


# -- a model without rows --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mean(service: ServiceProcess, stubs: Stubs) -> str:
    config = """
        backend: "python" max_batch_size: 0
        input [ { name: "values" data_type: TYPE_FP64 dims: [ -1 ] } ]
        output [ { name: "mean" data_type: TYPE_FP64 dims: [ 1 ] } ]
    """
    code = """
import triton_python_backend_utils as triton
class TritonPythonModel:
    def execute(self, requests):
        values = [triton.get_input_tensor_by_name(request, "values").as_numpy() for request in requests]
        return [triton.InferenceResponse([triton.Tensor("mean", one.mean(keepdims=True))]) for one in values]
"""
    place(service.model_dir, "mean", config, code)
    stubs.models.Load(model_service_pb2.LoadRequest(model="mean"))
    return "mean"


def test_records_of_a_model_without_rows_are_answered_one_by_one(stubs: Stubs, mean: str) -> None:
    given = records({"values": [1, 2]}, {"values": [3]}, {"values": 7})
    assert answers(stubs, mean, given) == [{"mean": 1.5}, {"mean": 3.0}, {"mean": 7.0}]


def test_a_model_of_one_input_takes_tensor_and_rows(stubs: Stubs, mean: str) -> None:
    assert answers(stubs, mean, rows([1.0, 2.0], [5.0])) == [{"mean": 1.5}, {"mean": 5.0}]
    tensor = data_pb2.Tensor(dtype=data_pb2.DATA_TYPE_FP64, shape=[2], data=np.array([2.0, 4.0]).tobytes())
    reply = stubs.predictions.Predict(PREDICT(model=mean, inputs=data_pb2.Inputs(tensor=tensor)))
    assert np.frombuffer(reply.outputs["mean"].data).tolist() == [3.0]


# -- the Open Inference Protocol -------------------------------------------------------------------------------------


def oip_inputs(*words: str) -> list[triton.InferInput]:
    text = triton.InferInput("text", [len(words), 1], "BYTES")
    text.set_data_from_numpy(np.array([[word] for word in words], dtype=np.object_))
    numbers = triton.InferInput("numbers", [len(words), 2], "FP32")
    return [numbers.set_data_from_numpy(np.ones((len(words), 2), np.float32)), text]


def test_tritons_client_infers_and_reads_metadata(oip: triton.InferenceServerClient, echo: str) -> None:
    metadata = oip.get_model_metadata(echo)
    assert [(one.name, one.datatype, list(one.shape)) for one in metadata.inputs] == [
        ("text", "BYTES", [-1, 1]),
        ("numbers", "FP32", [-1, -1]),
        ("count", "INT64", [-1, 1]),
    ]
    answer = oip.infer(echo, oip_inputs("a", "bc"))
    assert answer.as_numpy("upper").ravel().tolist() == [b"A", b"BC"]
    assert answer.as_numpy("sums").tolist() == [[2, 2], [2, 2]]
    some = oip.infer(echo, oip_inputs("a"), outputs=[triton.InferRequestedOutput("upper")])
    assert [output.name for output in some.get_response().outputs] == ["upper"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda given: given[:1], "input 'text' is missing"),
        (lambda given: [*given, given[0]], "twice"),
        (lambda given: [given[0], triton.InferInput("txt", [1, 1], "BYTES")], "did you mean 'text'?"),
    ],
)
def test_tritons_client_is_told_what_does_not_fit(
    oip: triton.InferenceServerClient, echo: str, change: object, says: str
) -> None:
    with pytest.raises(triton.InferenceServerException, match="INVALID_ARGUMENT") as refused:
        oip.infer(echo, change(oip_inputs("a")))  # type: ignore[operator]
    assert says in str(refused.value)
