"""ModelService over a real channel: load, unload, remove."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fitserve
import grpc
import numpy as np
import pytest
from fitserve import errors
from fitserve.v1 import model_service_pb2, model_service_pb2_grpc

from tests.conftest import StartService
from tests.contract.test_training import X, fit
from tests.service_process import ServiceProcess


def test_load_and_unload_change_nothing_when_there_is_nothing_to_change(client: fitserve.Client, name: str) -> None:
    fit(client, name).wait(30)
    assert client.unload(name).state == "STORED"
    first = client.load(name)
    again = client.load(name)
    assert (first.state, first.serving_version) == ("LOADED", 1)
    assert again.versions[0].load_time == first.versions[0].load_time
    assert client.unload(name).state == "STORED"
    assert client.unload(name).state == "STORED"


def test_unknown_models_and_versions_are_not_found_and_the_nearest_name_is_told(client: fitserve.Client) -> None:
    fit(client, "tulips").wait(30)
    for call in (client.model, client.load, client.unload, client.remove, lambda name: client.predict(name, X[:1])):
        with pytest.raises(errors.NotFound) as missing:
            call("tulps")
        assert missing.value.reason == "MODEL_NOT_FOUND"
        assert missing.value.metadata == {"model": "tulps", "nearest": "tulips"}
    for call in (client.load, client.remove, lambda name, version: client.predict(name, X[:1], version=version)):
        with pytest.raises(errors.NotFound) as missing:
            call("tulips", version=9)
        assert missing.value.reason == "VERSION_NOT_FOUND"


def test_no_more_models_are_loaded_than_allowed_unless_one_is_evicted(start_service: StartService) -> None:
    service = start_service(MAX_LOADED_MODELS="2")
    with fitserve.Client(service.address) as client:
        for name in ("a", "b", "c"):
            fit(client, name).wait(30)
        client.load("a")
        client.load("b")
        client.predict("a", X[:1])  # so b is the one used least recently
        with pytest.raises(errors.ResourceExhausted) as refused:
            client.load("c")
        assert refused.value.reason == "TOO_MANY_LOADED_MODELS"
        assert refused.value.metadata["loaded"] == "a,b"
        (quota,) = [detail for detail in refused.value.details if type(detail).__name__ == "QuotaFailure"]
        assert "a,b" in quota.violations[0].description
        stub = model_service_pb2_grpc.ModelServiceStub(grpc.insecure_channel(service.address))
        reply = stub.Load(model_service_pb2.LoadRequest(model="c", evict=True))
        assert list(reply.evicted_models) == ["b"]
        assert {model.model for model in client.status().models.loaded} == {"a", "c"}


def test_a_newer_version_takes_over_without_a_failed_prediction(client: fitserve.Client, name: str) -> None:
    fit(client, name, load=True).wait(30)
    fit(client, name, existing="new_version", c=0.01).wait(30)
    stop, versions = threading.Event(), []

    def predict() -> None:
        while not stop.is_set():
            versions.append(client.predict_proba(name, X[:3]).version)

    with ThreadPoolExecutor() as pool:
        workers = [pool.submit(predict) for _ in range(4)]
        while not versions:
            pass
        assert client.load(name).serving_version == 2
        count = len(versions)
        while len(versions) < count + 20:
            pass
        stop.set()
        for worker in workers:
            worker.result()  # raises if a prediction failed
    assert versions[0] == 1
    assert versions[-1] == 2


def test_a_loaded_model_is_removed_only_by_force(client: fitserve.Client, name: str) -> None:
    fit(client, name, load=True).wait(30)
    with pytest.raises(errors.FailedPrecondition) as refused:
        client.remove(name)
    assert refused.value.reason == "MODEL_LOADED"
    assert client.predict(name, X[:1]).tolist() == ["setosa"]
    assert list(client.remove(name, force=True)) == [1]
    with pytest.raises(errors.NotFound):
        client.model(name)


def test_one_version_is_removed_and_the_others_stay(
    service: ServiceProcess, client: fitserve.Client, name: str
) -> None:
    fit(client, name).wait(30)
    fit(client, name, existing="new_version", load=True).wait(30)
    assert list(client.remove(name, version=1)) == [1]
    assert [version.version for version in client.model(name).versions] == [2]
    assert not Path(service.model_dir, name, "1").exists()
    assert client.predict(name, X[:1]).tolist() == ["setosa"]
    assert fit(client, name, existing="new_version").wait(30).version == 3


def test_remove_all_takes_all_or_nothing(start_service: StartService) -> None:
    with fitserve.Client(start_service().address) as client:
        for name in ("a", "b"):
            fit(client, name).wait(30)
        client.load("b")
        with pytest.raises(errors.FailedPrecondition) as refused:
            client.remove_all()
        assert refused.value.metadata == {"models": "b"}
        assert [model.name for model in client.models()] == ["a", "b"]
        assert client.remove_all(force=True) == ["a", "b"]
        assert client.models() == []


def test_a_damaged_artifact_is_data_loss_and_the_version_says_so(
    service: ServiceProcess, client: fitserve.Client, name: str
) -> None:
    fit(client, name).wait(30)
    file = Path(service.model_dir, name, "1", "model.onnx")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(errors.DataLoss) as damaged:
        client.load(name)
    assert damaged.value.reason == "ARTIFACT_DAMAGED"
    assert str(service.model_dir) not in damaged.value.message
    assert client.model(name).versions[0].state == "FAILED"
    client.remove(name)


def test_models_are_listed_in_pages_by_name(service: ServiceProcess, client: fitserve.Client, name: str) -> None:
    made = [f"page-{name}-{letter}" for letter in "cab"]
    for model in made:
        fit(client, model).wait(30)
    stub = model_service_pb2_grpc.ModelServiceStub(grpc.insecure_channel(service.address))
    listed, token = [], ""
    while True:
        page = stub.ListModels(model_service_pb2.ListModelsRequest(page_size=2, page_token=token))
        listed += [model.name for model in page.models]
        if not (token := page.next_page_token):
            break
    assert [model for model in listed if model in made] == sorted(made)
    assert listed == sorted(listed)


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["ä", "b c", ""]),
        np.array([-5, 2**53, 0]),
        np.array([0.5, -1.25, 3.0]),
        np.array([True, False, True]),
    ],
    ids=["texts", "integers", "numbers", "truth values"],
)
def test_labels_come_back_as_they_were_given(client: fitserve.Client, name: str, labels: np.ndarray) -> None:
    rows = np.repeat(np.eye(3, dtype=np.float32) * 5, 10, axis=0)
    given = np.repeat(labels, 10)
    job = client.fit(name, rows, given, algorithm="random_forest", task="classification", load=True, queue=True)
    job.wait(30)
    predicted = client.predict(name, rows)
    assert predicted.dtype.kind == labels.dtype.kind
    assert predicted.tolist() == given.tolist()
    answer = client.predict_proba(name, rows)
    assert sorted(answer.classes.tolist()) == sorted(set(labels.tolist()))
    assert np.allclose(answer.probabilities.sum(axis=1), 1, atol=1e-5)
    assert answer.classes[answer.probabilities.argmax(axis=1)].tolist() == given.tolist()
