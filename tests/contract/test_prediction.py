"""PredictionService over a real channel: Predict in every form, and PredictStream."""

from __future__ import annotations

import time
from collections.abc import Iterator

import fitserve
import grpc
import numpy as np
import pytest
from fitserve import errors
from fitserve.v1 import data_pb2, prediction_service_pb2, prediction_service_pb2_grpc
from google.protobuf import json_format, struct_pb2

from tests.contract.test_training import SPECIES, X, fit
from tests.service_process import ServiceProcess

pb = prediction_service_pb2


@pytest.fixture(scope="module")
def iris(service: ServiceProcess) -> str:
    """A loaded model with named columns."""
    with fitserve.Client(service.address) as client:
        table = {"a": X[:, 0], "b": X[:, 1], "c": X[:, 2], "d": X[:, 3]}
        client.fit("flowers", table, SPECIES, algorithm="logistic_regression", queue=True, load=True).wait(60)
    return "flowers"


@pytest.fixture
def stub(service: ServiceProcess) -> Iterator[prediction_service_pb2_grpc.PredictionServiceStub]:
    with grpc.insecure_channel(service.address) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def tensor(rows: np.ndarray) -> data_pb2.Inputs:
    data = rows.astype("<f4")
    return data_pb2.Inputs(tensor=data_pb2.Tensor(dtype=data_pb2.DATA_TYPE_FP32, shape=data.shape, data=data.tobytes()))


def list_of(values: np.ndarray) -> struct_pb2.ListValue:
    return json_format.ParseDict(values.astype(float).tolist(), struct_pb2.ListValue())


def all_forms(rows: np.ndarray) -> dict[str, data_pb2.Inputs]:
    columns = [
        data_pb2.Column(name=name, doubles=data_pb2.DoubleValues(values=rows[:, index].astype(float)))
        for index, name in enumerate("abcd")
    ]
    records = [
        json_format.ParseDict(dict(zip("dcba", map(float, row[::-1]), strict=True)), struct_pb2.Struct())
        for row in rows
    ]
    return {
        "tensor": tensor(rows),
        "table": data_pb2.Inputs(table=data_pb2.Table(columns=columns[::-1])),
        "rows": data_pb2.Inputs(rows=[list_of(row) for row in rows]),
        "records": data_pb2.Inputs(records=records),
    }


def test_all_forms_of_inputs_have_the_same_answer(stub, client: fitserve.Client, iris: str) -> None:
    expected = client.predict_proba(iris, X[::30])
    for form, inputs in all_forms(X[::30]).items():
        reply = stub.Predict(pb.PredictRequest(model=iris, inputs=inputs, include_probabilities=True))
        if form in ("rows", "records"):
            labels = [value.string_value for value in reply.predictions]
            probabilities = np.array([[v.number_value for v in row.values] for row in reply.probabilities])
            assert not reply.prediction_tensor.data
        else:
            labels = expected.predictions.tolist() if reply.prediction_tensor.shape == [5] else []
            probabilities = np.frombuffer(reply.probability_tensor.data, "<f4").reshape(5, 3)
            assert not reply.predictions
        assert labels == expected.predictions.tolist()
        assert np.allclose(probabilities, expected.probabilities, atol=1e-7)
        assert [value.string_value for value in reply.classes] == expected.classes.tolist()
        assert (reply.model, reply.version) == (iris, 1)


def test_more_rows_than_a_batch_holds_are_answered_in_order(client: fitserve.Client, iris: str) -> None:
    rows = np.resize(X, (5000, 4))
    assert np.array_equal(client.predict(iris, rows), np.resize(client.predict(iris, X), 5000))


def test_a_message_of_sixty_megabytes_is_answered_whole(client: fitserve.Client, iris: str) -> None:
    rows = np.resize(X, (60 * 2**20 // 16, 4))
    assert np.array_equal(client.predict(iris, rows, timeout=120), np.resize(client.predict(iris, X), len(rows)))


def test_numbers_of_any_type_are_taken(stub, iris: str) -> None:
    rows = np.array([[5, 3, 1, 0]])
    replies = []
    for name, dtype in (("INT8", "i1"), ("UINT16", "<u2"), ("INT64", "<i8"), ("FP16", "<f2"), ("FP64", "<f8")):
        data = rows.astype(dtype)
        given = data_pb2.Tensor(dtype=f"DATA_TYPE_{name}", shape=data.shape, data=data.tobytes())
        replies.append(stub.Predict(pb.PredictRequest(model=iris, inputs=data_pb2.Inputs(tensor=given))))
    assert len({reply.prediction_tensor.data for reply in replies}) == 1


def test_a_model_that_is_not_loaded_does_not_predict(client: fitserve.Client, name: str) -> None:
    fit(client, name).wait(30)
    with pytest.raises(errors.FailedPrecondition) as refused:
        client.predict(name, X[:1])
    assert refused.value.reason == "MODEL_NOT_LOADED"
    assert "Load" in refused.value.message


def test_a_passed_deadline_is_deadline_exceeded(stub, iris: str) -> None:
    with pytest.raises(grpc.RpcError) as late:
        stub.Predict(pb.PredictRequest(model=iris, inputs=tensor(np.resize(X, (200_000, 4)))), timeout=0.001)
    assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def requests(config: pb.PredictStreamConfig, batches: list[data_pb2.Inputs]) -> Iterator[pb.PredictStreamRequest]:
    yield pb.PredictStreamRequest(config=config)
    for batch in batches:
        yield pb.PredictStreamRequest(inputs=batch)


def test_a_bad_batch_answers_for_itself_and_the_stream_goes_on(stub, iris: str) -> None:
    batches = [tensor(X[:3]), tensor(X[:3, :2]), data_pb2.Inputs(), tensor(X[:1] * np.nan), tensor(X[:5])]
    answers = list(stub.PredictStream(requests(pb.PredictStreamConfig(model=iris), batches)))
    assert [answer.index for answer in answers] == [0, 1, 2, 3, 4]
    assert [answer.WhichOneof("result") for answer in answers] == ["response", "error", "error", "error", "response"]
    assert all(answer.error.code == 3 and answer.error.details for answer in answers[1:4])
    assert list(answers[4].response.prediction_tensor.shape) == [5]


def test_a_stream_of_many_batches_is_answered_in_order(stub, client: fitserve.Client, iris: str) -> None:
    sizes = [1 + number % 40 for number in range(2000)]
    answers = stub.PredictStream(requests(pb.PredictStreamConfig(model=iris), [tensor(X[:size]) for size in sizes]))
    assert [list(answer.response.prediction_tensor.shape) for answer in answers] == [[size] for size in sizes]


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([], "config"),
        ([pb.PredictStreamRequest(inputs=tensor(X[:1]))], "config"),
        ([pb.PredictStreamRequest(config=pb.PredictStreamConfig(model="flowers"))] * 2, "inputs"),
        ([pb.PredictStreamRequest(config=pb.PredictStreamConfig(model="A b"))], "config.model"),
    ],
)
def test_a_stream_starts_with_its_config_and_has_one(stub, iris: str, messages: list, field: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        list(stub.PredictStream(iter(messages)))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details().startswith(f"{field}:")


def test_a_stream_to_an_unknown_model_is_not_found_at_once(stub) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        list(stub.PredictStream(requests(pb.PredictStreamConfig(model="nobody"), [])))
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND


def test_a_cancelled_stream_leaves_nothing_pending(stub, client: fitserve.Client, iris: str) -> None:
    def endless() -> Iterator[pb.PredictStreamRequest]:
        yield pb.PredictStreamRequest(config=pb.PredictStreamConfig(model=iris))
        while True:
            yield pb.PredictStreamRequest(inputs=tensor(np.resize(X, (1000, 4))))

    for _ in range(5):
        call = stub.PredictStream(endless())
        for _ in range(20):
            next(call)
        call.cancel()
    deadline = time.monotonic() + 10
    while any(model.pending_request_count for model in client.status().models.loaded if model.model == iris):
        assert time.monotonic() < deadline
    assert client.predict(iris, X[:1]).tolist() == ["setosa"]
