"""Prediction: what goes out for which rows, and what comes back."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fitserve
import grpc
import numpy as np
import pytest
from fitserve import _tensors, errors
from fitserve.v1 import data_pb2, model_service_pb2, prediction_service_pb2
from google.protobuf import json_format

from tests.unit.client.fake_service import FakeService, abort, rich_status

X = np.ones((2, 4))
Streamed = prediction_service_pb2.PredictStreamResponse
Batch = np.ndarray[Any, Any]  # of any shape and type


def answer_sums(
    request: prediction_service_pb2.PredictRequest, context: grpc.ServicerContext
) -> prediction_service_pb2.PredictResponse:
    """Predicts the sum of each row."""
    sums = _tensors.decode(request.inputs.tensor).sum(axis=1)
    return prediction_service_pb2.PredictResponse(
        model=request.model, version=request.version or 3, prediction_tensor=_tensors.encode(sums)
    )


def test_predict_gives_one_value_a_row(service: FakeService, client: fitserve.Client) -> None:
    service.handlers["Predict"] = answer_sums
    predictions = client.predict("m", X)
    assert predictions.tolist() == [4, 4]
    assert predictions.dtype == np.float32


@pytest.mark.parametrize("labels", [["b", "a"], [2**60, 1], [0.5, 1.5], [True, False]])
def test_labels_and_classes_come_back_in_the_type_of_training(
    service: FakeService, client: fitserve.Client, labels: list[str | float | bool]
) -> None:
    got: list[prediction_service_pb2.PredictRequest] = []

    def answer(
        request: prediction_service_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> prediction_service_pb2.PredictResponse:
        got.append(request)
        reply = prediction_service_pb2.PredictResponse(
            version=2,
            prediction_tensor=_tensors.encode(np.array(labels)),
            probability_tensor=_tensors.encode(np.array([[0.25, 0.75], [1, 0]], np.float32)),
        )
        return json_format.ParseDict({"classes": labels}, reply)

    service.handlers["Predict"] = answer
    prediction = client.predict_proba("m", X, version=2)
    assert prediction.predictions.tolist() == labels
    assert prediction.classes is not None
    assert prediction.classes.tolist() == labels
    assert prediction.classes.dtype == prediction.predictions.dtype
    assert prediction.probabilities is not None
    assert prediction.probabilities.tolist() == [[0.25, 0.75], [1, 0]]
    assert prediction.version == 2
    assert (got[0].version, got[0].include_probabilities) == (2, True)


def test_an_alias_is_named_where_a_version_is(service: FakeService, client: fitserve.Client) -> None:
    got: list[object] = []

    def answer(
        request: prediction_service_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> prediction_service_pb2.PredictResponse:
        got.append((request.alias, request.HasField("version")))
        return prediction_service_pb2.PredictResponse(prediction_tensor=_tensors.encode(np.zeros(2, np.float32)))

    # An iterator of requests.
    def stream(requests: Any, context: grpc.ServicerContext) -> Iterator[prediction_service_pb2.PredictStreamResponse]:
        config = next(requests).config
        got.append((config.alias, config.HasField("version")))
        yield from ()

    service.handlers |= {"Predict": answer, "PredictStream": stream}
    client.predict("m", X, version="champion")
    list(client.predict_stream("m", [], version="challenger"))
    assert got == [("champion", False), ("challenger", False)]
    with pytest.raises(ValueError, match="at least one character"):
        client.predict("m", X, version="")


def test_integer_labels_that_no_double_holds_come_back_exactly(service: FakeService, client: fitserve.Client) -> None:
    large, text = 2**53 + 1, str(2**53 + 1)
    reply = prediction_service_pb2.PredictResponse(prediction_tensor=_tensors.encode(np.array([large, 1])))
    service.handlers["Predict"] = lambda request, context: json_format.ParseDict({"classes": [1, text]}, reply)
    prediction = client.predict_proba("m", X)
    assert prediction.predictions.tolist() == [large, 1]
    assert prediction.classes is not None
    assert prediction.classes.tolist() == [1, large]
    assert prediction.classes.dtype == np.int64

    by_hand = json_format.ParseDict({"predictions": [text, 1], "classes": [1, text]}, type(reply)())
    service.handlers["Predict"] = lambda request, context: by_hand
    prediction = client.predict_proba("m", X)
    assert prediction.predictions.tolist() == [large, 1]

    signature = {"classes": [text, str(large + 1)], "prediction_dtype": "DATA_TYPE_INT64"}
    model = {"model": {"versions": [{"signature": signature}]}}
    service.handlers["GetModel"] = lambda request, context: json_format.ParseDict(
        model, model_service_pb2.GetModelResponse()
    )
    (version,) = client.model("m").versions
    assert version.signature is not None
    assert version.signature.classes == (large, large + 1)


def test_labels_that_are_texts_of_digits_stay_texts(service: FakeService, client: fitserve.Client) -> None:
    reply = json_format.ParseDict(
        {"predictions": ["1", "2"], "classes": ["1", "2"]}, prediction_service_pb2.PredictResponse()
    )
    service.handlers["Predict"] = lambda request, context: reply
    prediction = client.predict_proba("m", X)
    assert prediction.predictions.tolist() == ["1", "2"]
    assert prediction.classes is not None
    assert prediction.classes.tolist() == ["1", "2"]


def test_rows_typed_by_hand_are_answered_with_values_and_read_as_arrays(
    service: FakeService, client: fitserve.Client
) -> None:
    inputs = json_format.ParseDict({"rows": [[1, 2]]}, data_pb2.Inputs())
    reply = json_format.ParseDict(
        {"predictions": [1], "probabilities": [[0.5, 0.5]], "classes": [0, 1]},
        prediction_service_pb2.PredictResponse(),
    )
    service.handlers["Predict"] = lambda request, context: reply if request.inputs == inputs else None
    prediction = client.predict_proba("m", inputs)
    assert prediction.predictions.tolist() == [1]
    assert prediction.predictions.dtype == np.int64
    assert prediction.classes is not None
    assert prediction.classes.tolist() == [0, 1]
    assert prediction.probabilities is not None
    assert prediction.probabilities.dtype == np.float32


@pytest.mark.parametrize(
    ("predictions", "classes", "expected"),
    [(["a", None], ["a", "b"], ["a", None]), ([None], ["a", "b"], [None]), ([True, None], [False, True], [True, None])],
)
def test_a_label_that_there_is_not_comes_back_as_none(
    service: FakeService,
    client: fitserve.Client,
    predictions: list[object],
    classes: list[object],
    expected: list[object],
) -> None:
    inputs = json_format.ParseDict({"records": [{"x": 1}]}, data_pb2.Inputs())
    reply = json_format.ParseDict(
        {"predictions": predictions, "probabilities": [[0.5, None]], "classes": classes},
        prediction_service_pb2.PredictResponse(),
    )
    service.handlers["Predict"] = lambda request, context: reply
    prediction = client.predict_proba("m", inputs)
    assert prediction.predictions.tolist() == expected
    assert prediction.classes is not None
    assert prediction.classes.tolist() == classes
    assert prediction.probabilities is not None
    assert np.isnan(prediction.probabilities).tolist() == [[False, True]]


@pytest.mark.parametrize("number", [1.5, 2])
def test_a_value_that_there_is_not_comes_back_as_nan(
    service: FakeService, client: fitserve.Client, number: float
) -> None:
    inputs = json_format.ParseDict({"records": [{"x": 1}, {"x": 2}]}, data_pb2.Inputs())
    reply = json_format.ParseDict({"predictions": [number, None]}, prediction_service_pb2.PredictResponse())
    service.handlers["Predict"] = lambda request, context: reply
    values = client.predict("m", inputs)
    assert values[0] == number
    assert np.isnan(values[1])


def test_named_tensors_are_answered_with_named_outputs(service: FakeService, client: fitserve.Client) -> None:
    tensor = _tensors.encode(np.array([[1.0]], np.float32))
    service.handlers["Predict"] = lambda request, context: prediction_service_pb2.PredictResponse(
        outputs={"y": request.inputs.tensors["x"]}
    )
    prediction = client.predict_proba("m", data_pb2.Inputs(tensors={"x": tensor}))
    assert prediction.outputs["y"].tolist() == [[1.0]]
    assert prediction.predictions.tolist() == [{"y": 1.0}]


def test_threads_share_one_client(service: FakeService) -> None:
    service.handlers["Predict"] = answer_sums
    with fitserve.Client(service.target) as client, ThreadPoolExecutor(8) as threads:
        sums = threads.map(lambda number: client.predict("m", np.full((1, 2), number))[0], range(100))
        assert list(sums) == [2 * number for number in range(100)]


# Requests as gRPC gives them.
def stream_of(answer: Callable[[int, data_pb2.Inputs], Streamed]) -> Callable[[Any, grpc.ServicerContext], object]:
    """Makes a handler that answers batch after batch."""

    def handle(
        requests: Iterator[prediction_service_pb2.PredictStreamRequest], context: grpc.ServicerContext
    ) -> Iterator[Streamed]:
        assert next(requests).config.model == "m"
        for index, request in enumerate(requests):
            yield answer(index, request.inputs)

    return handle


def sums_or_error(index: int, inputs: data_pb2.Inputs) -> Streamed:
    """Predicts the sum of each row, and refuses rows of one column."""
    if inputs.tensor.shape[1] == 1:
        status = rich_status(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "The model takes 4 columns.")
        return Streamed(index=index, error=status)
    sums = _tensors.encode(_tensors.decode(inputs.tensor).sum(axis=1))
    return Streamed(index=index, response=prediction_service_pb2.PredictResponse(prediction_tensor=sums))


def test_a_stream_answers_in_order(service: FakeService, client: fitserve.Client) -> None:
    service.handlers["PredictStream"] = stream_of(sums_or_error)
    batches = (np.full((2, 4), number) for number in range(50))
    answers = client.predict_stream("m", batches, max_in_flight=3)
    assert [answer.predictions.tolist() for answer in answers] == [[4 * number] * 2 for number in range(50)]


def test_an_empty_stream_has_no_answers(service: FakeService, client: fitserve.Client) -> None:
    service.handlers["PredictStream"] = stream_of(sums_or_error)
    assert list(client.predict_stream("m", [])) == []


def test_a_bad_batch_ends_the_stream_with_its_error(service: FakeService, client: fitserve.Client) -> None:
    service.handlers["PredictStream"] = stream_of(sums_or_error)
    answers = client.predict_stream("m", [X, X[:, :1], X])
    next(answers)
    with pytest.raises(errors.InvalidArgument, match="takes 4 columns") as caught:
        next(answers)
    assert caught.value.__notes__ == ["This is the answer to batch 1 of the stream."]


def test_a_bad_batch_can_answer_for_itself(service: FakeService, client: fitserve.Client) -> None:
    service.handlers["PredictStream"] = stream_of(sums_or_error)
    first, second, third = client.predict_stream("m", [X, X[:, :1], X], on_error="yield")
    assert isinstance(second, errors.InvalidArgument)
    assert isinstance(first, fitserve.Prediction)
    assert isinstance(third, fitserve.Prediction)


def test_no_more_batches_are_read_than_may_be_in_flight(service: FakeService, client: fitserve.Client) -> None:
    go_on = threading.Event()

    def answer_later(index: int, inputs: data_pb2.Inputs) -> Streamed:
        go_on.wait(10)
        return sums_or_error(index, inputs)

    service.handlers["PredictStream"] = stream_of(answer_later)
    read: list[int] = []
    all_in_flight = threading.Event()

    def batches() -> Iterator[Batch]:
        for number in range(20):
            read.append(number)
            if len(read) == 4:
                all_in_flight.set()
            yield X

    answers = client.predict_stream("m", batches(), max_in_flight=4)
    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(next, answers)
        assert all_in_flight.wait(10)
        assert read == [0, 1, 2, 3]
        go_on.set()
        first.result()
        assert len(list(answers)) == 19
    assert len(read) == 20


def test_what_the_batches_raise_reaches_the_caller(service: FakeService, client: fitserve.Client) -> None:
    service.handlers["PredictStream"] = stream_of(sums_or_error)

    def batches() -> Iterable[Batch]:
        yield X
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(client.predict_stream("m", batches()))
    with pytest.raises(ValueError, match="a single row"):
        list(client.predict_stream("m", [X[0]]))


def test_a_stream_that_is_left_ends_the_call(service: FakeService, client: fitserve.Client) -> None:
    ended = threading.Event()
    answer = stream_of(sums_or_error)

    # Requests as gRPC gives them.
    def handle(requests: Any, context: grpc.ServicerContext) -> object:
        context.add_callback(ended.set)
        return answer(requests, context)

    service.handlers["PredictStream"] = handle
    answers = client.predict_stream("m", itertools.repeat(X))
    next(answers)
    # Both clients give generators, which the type of an iterator does not say.
    answers.close()  # type: ignore[attr-defined]
    assert ended.wait(10)


async def test_a_task_that_is_cancelled_ends_its_stream(service: FakeService) -> None:
    began, ended = threading.Event(), threading.Event()

    def wait_for_batches(
        requests: Iterator[prediction_service_pb2.PredictStreamRequest], context: grpc.ServicerContext
    ) -> Iterator[Streamed]:
        context.add_callback(ended.set)
        began.set()
        yield from (Streamed() for request in requests if request.HasField("inputs"))

    async def batches() -> AsyncIterator[Batch]:
        await asyncio.Event().wait()
        yield X

    async def consume(client: fitserve.AsyncClient) -> None:
        async for _ in client.predict_stream("m", batches()):
            pass

    service.handlers["PredictStream"] = wait_for_batches
    async with fitserve.AsyncClient(service.target) as client:
        task = asyncio.create_task(consume(client))
        assert await asyncio.to_thread(began.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(ended.wait, 10)


def test_the_error_of_a_whole_stream_is_raised(client: fitserve.Client) -> None:
    with pytest.raises(errors.Unimplemented):
        list(client.predict_stream("m", [X]))


def test_a_stream_that_is_refused_while_batches_are_sent_tells_the_reason(
    service: FakeService, client: fitserve.Client
) -> None:
    refusal = rich_status(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", "There is no such model.")
    service.handlers["PredictStream"] = lambda requests, context: abort(context, refusal)
    for _ in range(20):
        with pytest.raises(errors.NotFound, match="no such model"):
            list(client.predict_stream("m", itertools.repeat(X)))


def test_options_of_a_stream_are_checked_at_once(client: fitserve.Client) -> None:
    with pytest.raises(ValueError, match="max_in_flight must be at least 1, not 0"):
        client.predict_stream("m", [X], max_in_flight=0)
