"""The requests that the clients send, and what they read from the replies."""

from __future__ import annotations

import datetime
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import fitserve
import grpc
import numpy as np
import pytest
from fitserve.v1 import (
    algorithm_pb2,
    data_pb2,
    dataset_pb2,
    model_pb2,
    model_service_pb2,
    server_service_pb2,
    training_job_pb2,
    training_service_pb2,
)

from tests.unit.client.fake_service import FakeService, abort, rich_status

X = np.arange(12, dtype=np.float64).reshape(3, 4)
Y = ["a", "b", "a"]


@pytest.fixture
def fits(service: FakeService) -> list[training_service_pb2.FitRequest]:
    """The FitRequests that the service got; it accepts them all."""
    got: list[training_service_pb2.FitRequest] = []

    def accept(
        request: training_service_pb2.FitRequest, context: grpc.ServicerContext
    ) -> training_service_pb2.FitResponse:
        got.append(request)
        job = training_job_pb2.TrainingJob(
            id="j1", model=request.model, version=1, state=training_job_pb2.JOB_STATE_QUEUED
        )
        return training_service_pb2.FitResponse(job=job)

    service.handlers["Fit"] = accept
    return got


def test_fit_sends_what_it_was_told(client: fitserve.Client, fits: list[training_service_pb2.FitRequest]) -> None:
    job = client.fit(
        "iris",
        X,
        Y,
        algorithm="random_forest",
        n_estimators=200,
        max_depth=None,
        max_features="sqrt",
        task="classification",
        validation_fraction=0.25,
        seed=7,
        cores=2,
        time_limit=1.5,
        memory_limit_bytes=2**30,
        queue=True,
        existing="new_version",
        load=True,
        request_id="r1",
        sample_weight=[1, 0.5, 2],
        class_weights={Y[0]: 3},
    )
    (request,) = fits
    expected = training_service_pb2.FitRequest(
        model="iris",
        random_forest=algorithm_pb2.RandomForest(n_estimators=200, max_features="sqrt"),
        task=training_job_pb2.TASK_CLASSIFICATION,
        validation_fraction=0.25,
        seed=7,
        cores=2,
        memory_limit_bytes=2**30,
        queue=True,
        existing=training_service_pb2.EXISTING_MODEL_NEW_VERSION,
        load=True,
        request_id="r1",
        class_weights={Y[0]: 3},
    )
    expected.inline.weights.extend([1, 0.5, 2])
    expected.time_limit.FromMilliseconds(1500)
    expected.inline.inputs.tensor.CopyFrom(
        data_pb2.Tensor(dtype=data_pb2.DATA_TYPE_FP32, shape=[3, 4], data=X.astype("<f4").tobytes())
    )
    expected.inline.targets.strings.values.extend(Y)
    assert request == expected
    assert (job.id, job.model, job.version, job.state) == ("j1", "iris", 1, "QUEUED")


def test_fit_leaves_the_defaults_to_the_service_but_makes_itself_repeatable(
    client: fitserve.Client, fits: list[training_service_pb2.FitRequest]
) -> None:
    client.fit("iris", X, Y, algorithm="xgboost")
    (request,) = fits
    assert request.WhichOneof("algorithm") == "xgboost"
    assert request.request_id
    request.ClearField("request_id")
    request.ClearField("inline")
    assert request == training_service_pb2.FitRequest(
        model="iris", xgboost=algorithm_pb2.Xgboost(), existing=training_service_pb2.EXISTING_MODEL_FAIL
    )


def test_fit_takes_the_message_of_an_algorithm(
    client: fitserve.Client, fits: list[training_service_pb2.FitRequest]
) -> None:
    mlp = algorithm_pb2.TorchMlp(hidden_sizes=[8, 4])
    client.fit("m", X, [1, 2, 3], algorithm=mlp)
    client.fit("m", X, [1, 2, 3], algorithm="torch_mlp", hidden_sizes=np.array([8, 4]))
    assert [request.torch_mlp for request in fits] == [mlp, mlp]


def test_fit_on_uploaded_data_sends_its_digest_only(
    client: fitserve.Client, fits: list[training_service_pb2.FitRequest]
) -> None:
    client.fit("m", dataset="sha256:00", target="price", algorithm="xgboost")
    assert (fits[0].WhichOneof("data"), fits[0].dataset, fits[0].target) == ("dataset", "sha256:00", "price")


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"algorithm": "random_forst"}, ValueError, "did you mean 'random_forest'"),
        ({"n_estimator": 5}, TypeError, "no hyper-parameter 'n_estimator'; did you mean 'n_estimators'"),
        ({"n_estimators": "many"}, TypeError, "random_forest takes no 'many' as n_estimators"),
        ({"algorithm": algorithm_pb2.Xgboost(), "max_depth": 3}, TypeError, "set max_depth in the message"),
        ({"algorithm": data_pb2.Tensor()}, ValueError, "Tensor is no algorithm"),
        ({"task": "clustering"}, ValueError, "no task 'clustering'"),
        ({"existing": "replace"}, ValueError, "there are fail, new_version"),
        ({"y": ["a", "b"]}, ValueError, "X has 3 rows but y has 2 values"),
        ({"y": None}, TypeError, "either y, or target"),
        ({"X": None}, TypeError, "either X, or dataset"),
        ({"dataset": "sha256:00"}, TypeError, "either X, or dataset"),
        ({"X": None, "dataset": "sha256:00"}, TypeError, "y together with X"),
    ],
)
# The arguments are of every type that fit takes.
def test_fit_tells_how_to_mend_a_wrong_argument(arguments: dict[str, Any], kind: type[Exception], text: str) -> None:
    with fitserve.Client("127.0.0.1:1") as client, pytest.raises(kind, match=text):
        client.fit("m", **{"X": X, "y": Y, "algorithm": "random_forest", **arguments})


def test_no_hyper_parameter_is_called_like_an_argument_of_fit() -> None:
    arguments = set(fitserve.Client.fit.__annotations__)
    for one in training_service_pb2.FitRequest.DESCRIPTOR.oneofs_by_name["algorithm"].fields:
        assert one.message_type is not None
        assert not arguments & set(one.message_type.fields_by_name)


@pytest.fixture
def uploads(service: FakeService) -> list[list[training_service_pb2.UploadDatasetRequest]]:
    """The messages of each upload that the service got whole."""
    got: list[list[training_service_pb2.UploadDatasetRequest]] = []

    # An iterator of requests.
    def accept(requests: Any, context: grpc.ServicerContext) -> training_service_pb2.UploadDatasetResponse:
        messages = list(requests)
        if context.is_active():
            got.append(messages)
        dataset = dataset_pb2.Dataset(digest="sha256:11", row_count=3, shape=[4], has_targets=True)
        return training_service_pb2.UploadDatasetResponse(dataset=dataset)

    service.handlers["UploadDataset"] = accept
    return got


def test_an_upload_is_a_description_and_chunks_of_rows(
    client: fitserve.Client, uploads: list[list[training_service_pb2.UploadDatasetRequest]]
) -> None:
    dataset = client.upload_dataset(X, Y, chunk_rows=2, display_name="flowers")
    (messages,) = uploads
    assert messages[0].description == dataset_pb2.DatasetDescription(
        display_name="flowers", format=dataset_pb2.DATASET_FORMAT_CHUNKS
    )
    chunks = [message.chunk for message in messages[1:]]
    assert [list(chunk.inputs.tensor.shape) for chunk in chunks] == [[2, 4], [1, 4]]
    assert b"".join(chunk.inputs.tensor.data for chunk in chunks) == X.astype("<f4").tobytes()
    assert [list(chunk.targets.strings.values) for chunk in chunks] == [["a", "b"], ["a"]]
    assert (dataset.digest, dataset.shape, dataset.has_targets) == ("sha256:11", (4,), True)
    assert dataset.create_time is None


def test_the_messages_of_an_upload_stay_below_four_megabytes(
    client: fitserve.Client, uploads: list[list[training_service_pb2.UploadDatasetRequest]]
) -> None:
    texts = ["ä" * 50] * 100_000
    client.upload_dataset({"n": np.arange(100_000), "f": np.ones(100_000), "t": texts}, ["yes"] * 100_000)
    sizes = [message.ByteSize() for message in uploads[0][1:]]
    assert len(sizes) > 3
    assert max(sizes) < 4_000_000


def test_data_larger_than_memory_comes_from_an_iterator(
    client: fitserve.Client, uploads: list[list[training_service_pb2.UploadDatasetRequest]]
) -> None:
    client.upload_dataset((np.full((2, 3), number), [number, number]) for number in range(3))
    chunks = [message.chunk for message in uploads[0][1:]]
    assert [list(chunk.targets.integers.values) for chunk in chunks] == [[0, 0], [1, 1], [2, 2]]


def test_what_an_iterator_of_chunks_raises_reaches_the_caller_and_ends_the_upload(
    service: FakeService, client: fitserve.Client
) -> None:
    cut_off: queue.SimpleQueue[bool] = queue.SimpleQueue()

    # An iterator of requests. Its end alone does not tell a cut-off upload from a whole one, for which an answer is awaited.
    def take(requests: Any, context: grpc.ServicerContext) -> training_service_pb2.UploadDatasetResponse:
        ended = threading.Event()
        if not context.add_callback(ended.set):  # on a busy machine the call may be over before this begins
            ended.set()
        with suppress(grpc.RpcError):
            list(requests)
        cut_off.put(ended.wait(10))
        return training_service_pb2.UploadDatasetResponse()

    service.handlers["UploadDataset"] = take

    def broken() -> Any:  # a generator of pairs
        yield X, Y
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        client.upload_dataset(broken())
    assert cut_off.get(timeout=20)


def test_an_upload_that_is_refused_halfway_tells_the_reason(service: FakeService, client: fitserve.Client) -> None:
    full = rich_status(grpc.StatusCode.RESOURCE_EXHAUSTED, "DISK_FULL", "The disk is full.")
    service.handlers["UploadDataset"] = lambda requests, context: abort(context, full)
    for _ in range(20):
        with pytest.raises(fitserve.errors.ResourceExhausted, match="disk is full"):
            client.upload_dataset((X, Y) for _ in range(50))


def test_large_data_is_uploaded_before_the_fit(
    client: fitserve.Client,
    fits: list[training_service_pb2.FitRequest],
    uploads: list[list[training_service_pb2.UploadDatasetRequest]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fitserve._core.INLINE_BYTES", 40)
    client.fit("iris", X, Y, algorithm="random_forest")
    assert (fits[0].WhichOneof("data"), fits[0].dataset) == ("dataset", "sha256:11")
    assert list(uploads[0][1].chunk.inputs.tensor.shape) == [3, 4]


VERSION = model_pb2.ModelVersion(
    version=2, state=model_pb2.MODEL_STATE_LOADED, algorithm="xgboost", metrics={"rmse": 0.5}
)
VERSION.signature.task = training_job_pb2.TASK_REGRESSION
VERSION.parameters.update({"max_depth": 6})
VERSION.create_time.FromSeconds(0)
MODEL = model_pb2.Model(
    name="m", state=model_pb2.MODEL_STATE_LOADED, versions=[VERSION], serving_version=2, instances=2, max_batch_rows=64
)
MODEL.aliases.add(name="champion", version=2, previous_version=1).update_time.FromSeconds(0)


@pytest.mark.parametrize(
    ("method", "call", "request_"),
    [
        ("GetModel", lambda client: client.model("m"), model_service_pb2.GetModelRequest(model="m")),
        ("Load", lambda client: client.load("m"), model_service_pb2.LoadRequest(model="m")),
        (
            "Load",
            lambda client: client.load("m", 2, evict=True),
            model_service_pb2.LoadRequest(model="m", version=2, evict=True),
        ),
        ("Unload", lambda client: client.unload("m"), model_service_pb2.UnloadRequest(model="m")),
        ("GetModel", lambda client: client.model("m", 3), model_service_pb2.GetModelRequest(model="m", version=3)),
        (
            "Load",
            lambda client: client.load(
                "m", "champion", alongside=True, instances=2, max_batch_rows=64, max_queue_rows=1000
            ),
            model_service_pb2.LoadRequest(
                model="m", alias="champion", alongside=True, instances=2, max_batch_rows=64, max_queue_rows=1000
            ),
        ),
        (
            "Unload",
            lambda client: client.unload("m", "challenger"),
            model_service_pb2.UnloadRequest(model="m", alias="challenger"),
        ),
        (
            "SetAlias",
            lambda client: client.set_alias("m", "champion", 2),
            model_service_pb2.SetAliasRequest(model="m", alias="champion", version=2),
        ),
        (
            "RollbackAlias",
            lambda client: client.rollback_alias("m", "champion"),
            model_service_pb2.RollbackAliasRequest(model="m", alias="champion"),
        ),
        (
            "DeleteAlias",
            lambda client: client.delete_alias("m", "champion"),
            model_service_pb2.DeleteAliasRequest(model="m", alias="champion"),
        ),
    ],
)
def test_a_call_about_a_model_answers_with_the_model(
    service: FakeService,
    client: fitserve.Client,
    method: str,
    call: Callable[[fitserve.Client], fitserve.Model],
    request_: object,
) -> None:
    got: list[object] = []

    def answer(request: object, context: grpc.ServicerContext) -> object:
        got.append(request)
        return getattr(model_service_pb2, f"{method}Response")(model=MODEL)

    service.handlers[method] = answer
    model = call(client)
    assert got == [request_]
    assert (model.name, model.state, model.serving_version) == ("m", "LOADED", 2)
    (version,) = model.versions
    assert version.signature is not None
    assert (version.signature.task, version.parameters, version.metrics) == (
        "REGRESSION",
        {"max_depth": 6},
        {"rmse": 0.5},
    )
    assert version.create_time == datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    assert (version.load_time, version.parity, version.error) == (None, None, None)
    assert (model.instances, model.max_batch_rows, model.max_queue_rows) == (2, 64, None)
    assert model.aliases == (fitserve.ModelAlias("champion", 2, 1, version.create_time),)
    assert (model.version_of("champion"), model.version_of("challenger"), model.loaded_versions) == (2, None, (2,))


def test_removals_answer_with_what_is_gone(service: FakeService, client: fitserve.Client) -> None:
    service.handlers["Remove"] = lambda request, context: model_service_pb2.RemoveResponse(
        removed_versions=[request.version] if request.force else []
    )
    service.handlers["RemoveAll"] = lambda request, context: model_service_pb2.RemoveAllResponse(
        removed_models=["a", "b"] if request.force else []
    )
    service.handlers["DeleteDataset"] = lambda request, context: training_service_pb2.DeleteDatasetResponse()
    assert client.remove("m", 3, force=True) == [3]
    assert client.remove("m", 3) == []
    assert client.remove_all(force=True) == ["a", "b"]
    client.delete_dataset("sha256:00")
    assert service.calls[-1] == "DeleteDataset"


def test_lists_are_read_to_the_last_page(service: FakeService, client: fitserve.Client) -> None:
    # Requests and replies of three methods.
    def pages(field: str, reply: Any, item: Any) -> Callable[[Any, grpc.ServicerContext], object]:
        return lambda request, context: (
            reply(**{field: [item]})
            if request.page_token == "2"
            else reply(**{field: [item, item]}, next_page_token="2")
        )

    service.handlers["ListModels"] = pages("models", model_service_pb2.ListModelsResponse, MODEL)
    service.handlers["ListDatasets"] = pages(
        "datasets", training_service_pb2.ListDatasetsResponse, dataset_pb2.Dataset(digest="d")
    )
    service.handlers["ListTrainingJobs"] = pages(
        "jobs", training_service_pb2.ListTrainingJobsResponse, training_job_pb2.TrainingJob(id="j")
    )
    assert [model.name for model in client.models()] == ["m"] * 3
    assert [dataset.digest for dataset in client.datasets()] == ["d"] * 3
    assert [job.id for job in client.jobs("m", states=["RUNNING"])] == ["j"] * 3


def test_the_status_is_read_whole(service: FakeService, client: fitserve.Client) -> None:
    reply = server_service_pb2.GetStatusResponse(version="1.0", memory_bytes=5)
    reply.training.active_processes.add(job="j", pid=12)
    reply.models.loaded.add(model="m", version=2)
    service.handlers["GetStatus"] = lambda request, context: reply
    status = client.status()
    assert (status.version, status.training.active_processes[0].pid) == ("1.0", 12)
    assert (status.models.loaded[0].model, status.triton.ready) == ("m", False)


def test_metadata_goes_with_every_call(service: FakeService, client: fitserve.Client) -> None:
    got: list[dict[str, str | bytes]] = []

    def answer(request: object, context: grpc.ServicerContext) -> object:
        got.append(dict(context.invocation_metadata()))
        return server_service_pb2.GetStatusResponse()

    service.handlers["GetStatus"] = answer
    client.status()
    assert got[0]["x-api-key"] == "k"
    assert str(got[0]["user-agent"]).startswith("fitserve-python/0.1.0 ")
