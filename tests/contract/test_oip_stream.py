"""ModelStreamInfer of the Open Inference Protocol, called by tritonclient, sync and aio."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

import fitserve
import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import service_pb2 as pb

from tests.contract.oip import features
from tests.contract.test_training import X
from tests.service_process import ServiceProcess

WAIT = 60


class Answers:
    """What a stream's callback was given."""

    def __init__(self) -> None:
        self._queue: queue.Queue = queue.Queue()

    def __call__(self, result: triton.InferResult | None, error: Exception | None) -> None:
        self._queue.put((result, error))

    def take(self, count: int) -> list[tuple[triton.InferResult | None, Exception | None]]:
        return [self._queue.get(timeout=WAIT) for _ in range(count)]


@pytest.fixture
def answers() -> Answers:
    return Answers()


def test_answers_come_in_order_with_their_ids(oip, oip_iris: str, answers: Answers) -> None:
    oip.start_stream(answers)
    for number in range(300):
        oip.async_stream_infer(oip_iris, [features(X[: 1 + number % 150])], request_id=str(number))
    results = [result for result, error in answers.take(300) if error is None]
    oip.stop_stream()
    assert [result.get_response().id for result in results] == [str(number) for number in range(300)]
    assert [len(result.as_numpy("scores")) for result in results] == [1 + number % 150 for number in range(300)]
    assert all(result.get_response().parameters["triton_final_response"].bool_param for result in results)


def test_a_bad_request_answers_for_itself_and_the_stream_goes_on(oip, oip_iris: str, answers: Answers) -> None:
    oip.start_stream(answers)
    oip.async_stream_infer(oip_iris, [features(X[:1])])
    oip.async_stream_infer(oip_iris, [features(X[:1, :3].copy())])
    oip.async_stream_infer("nobody", [features(X[:1])])
    oip.async_stream_infer(oip_iris, [features(X[:1])], enable_empty_final_response=True)
    errors = [error for _, error in answers.take(4)]
    oip.stop_stream()
    assert [str(error) for error in errors] == [
        "None",
        "inputs: the shape is [1, 3] but the model takes [rows, 4]",
        "there is no model 'nobody'",
        "None",
    ]


def test_an_error_tells_which_request_it_answers(oip) -> None:
    requests = iter([pb.ModelInferRequest(model_name="nobody", id="the-id")])
    (answer,) = oip._client_stub.ModelStreamInfer(requests)
    assert answer.error_message == "there is no model 'nobody'"
    assert answer.infer_response.id == "the-id"


def test_with_tritons_header_an_error_ends_the_stream_as_its_status(oip, oip_iris: str, answers: Answers) -> None:
    oip.start_stream(answers, headers={"triton_grpc_error": "true"})
    oip.async_stream_infer(oip_iris, [features(X[:1])])
    oip.async_stream_infer("nobody", [features(X[:1])])
    (_, good), (_, bad) = answers.take(2)
    oip.stop_stream()
    assert good is None
    assert (bad.status(), bad.message()) == ("StatusCode.NOT_FOUND", "there is no model 'nobody'")


async def test_the_async_client_streams(service: ServiceProcess, oip_iris: str) -> None:
    async def requests():
        for size in (1, 20, 3):
            yield {"model_name": oip_iris, "inputs": [features(X[:size])], "request_id": str(size)}
        yield {"model_name": "nobody", "inputs": [features(X[:1])]}

    async with triton_aio.InferenceServerClient(service.address) as client:
        got = [pair async for pair in client.stream_infer(requests())]
    assert [len(result.as_numpy("scores")) for result, error in got if error is None] == [1, 20, 3]
    assert str(got[3][1]) == "there is no model 'nobody'"


def test_a_stream_whose_answers_nobody_reads_is_not_read_either(oip, client: fitserve.Client, oip_iris: str) -> None:
    """Each request is small and each answer large, so that gRPC's own window for answers is soon full."""
    sent = 0
    stop = threading.Event()
    rows = np.resize(X, (20_000, 4))
    message = pb.ModelInferRequest(model_name=oip_iris, raw_input_contents=[rows.tobytes()])
    message.inputs.add(name="features", datatype="FP32", shape=rows.shape)

    def endless() -> Iterator[pb.ModelInferRequest]:
        nonlocal sent
        while not stop.is_set():
            yield message
            sent += 1

    call = oip._client_stub.ModelStreamInfer(endless())
    last, deadline = -1, time.monotonic() + WAIT
    while sent != last or not sent:  # until no more is taken
        assert time.monotonic() < deadline
        last = sent
        time.sleep(0.5)
    assert sent < 200
    stop.set()
    call.cancel()
    while pending(client, oip_iris):
        assert time.monotonic() < deadline
    with pytest.raises(grpc.RpcError):
        list(call)


def pending(client: fitserve.Client, model: str) -> int:
    return sum(one.pending_request_count for one in client.status().models.loaded if one.model == model)
