"""The service stays small, whatever the size of the messages that it has seen."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import fitserve
import grpc
import numpy as np
import psutil
import pytest
from fitserve import errors
from fitserve.v1 import dataset_pb2, training_service_pb2

from tests.contract.test_training import X, fit, wait_until
from tests.contract.wire import stubs_of, tensor
from tests.service_process import ServiceProcess

LARGE = np.resize(X, (3_900_000, 4))
"""Rows that make a message of 60 MB."""


def predict(client: fitserve.Client, service: ServiceProcess) -> None:
    scores = client.predict_proba("iris", LARGE, timeout=120)
    assert len(scores.probabilities) == len(LARGE)  # 80 MB come back


def predict_what_is_refused(client: fitserve.Client, service: ServiceProcess) -> None:
    with pytest.raises(errors.InvalidArgument):
        client.predict("iris", LARGE.reshape(-1, 8), timeout=120)


def predict_and_go(client: fitserve.Client, service: ServiceProcess) -> None:
    with pytest.raises(errors.DeadlineExceeded):
        client.predict("iris", LARGE, timeout=1)


def fit_inline(client: fitserve.Client, service: ServiceProcess) -> None:
    targets = np.arange(len(LARGE), dtype=np.int8) % 2
    client.fit("large", LARGE, targets, algorithm="torch_mlp", queue=True, timeout=120).cancel()


def upload(client: fitserve.Client, service: ServiceProcess) -> None:
    def messages() -> Iterator[training_service_pb2.UploadDatasetRequest]:
        yield training_service_pb2.UploadDatasetRequest(description=dataset_pb2.DatasetDescription())
        for _ in range(2):
            chunk = dataset_pb2.DatasetChunk(inputs=tensor(LARGE.shape, LARGE.tobytes()))
            yield training_service_pb2.UploadDatasetRequest(chunk=chunk)

    with grpc.insecure_channel(service.address) as channel:
        reply = stubs_of(channel).training.UploadDataset(messages(), timeout=120)
    assert reply.dataset.row_count == 2 * len(LARGE)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A service of these tests alone, so that what each of them leaves adds up."""
    process = ServiceProcess(tmp_path_factory.mktemp("service"))
    with fitserve.Client(process.address) as client:
        fit(client, "iris", load=True).wait(60)
    yield process
    process.stop()


@pytest.mark.parametrize("use", [predict, predict_what_is_refused, predict_and_go, fit_inline, upload])
def test_large_messages_leave_no_memory_behind(
    service: ServiceProcess, client: fitserve.Client, use: Callable[[fitserve.Client, ServiceProcess], None]
) -> None:
    use(client, service)
    wait_until_small(service)


def test_a_stream_that_stays_open_keeps_none_of_its_large_messages(
    service: ServiceProcess, client: fitserve.Client
) -> None:
    go_on = threading.Event()

    wide = LARGE.reshape(-1, 1000)
    client.fit("wide", wide[:100], np.arange(100) % 2, algorithm="logistic_regression", load=True, queue=True).wait(60)

    def batches() -> Iterator[np.ndarray]:
        yield wide
        go_on.wait()
        yield wide[:1]

    answers = client.predict_stream("wide", batches(), include_probabilities=True)
    assert len(next(answers).predictions) == len(wide)
    wait_until_small(service)
    go_on.set()
    assert len(next(answers).predictions) == 1


def wait_until_small(service: ServiceProcess) -> None:
    process = psutil.Process(service.pid)
    wait_until(lambda: process.memory_info().rss < 150e6, 10)
