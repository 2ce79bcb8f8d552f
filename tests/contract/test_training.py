"""TrainingService over a real channel: fits, jobs, datasets."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import fitserve
import grpc
import numpy as np
import psutil
import pytest
from fitserve import errors
from fitserve.v1 import (
    algorithm_pb2,
    data_pb2,
    dataset_pb2,
    prediction_service_pb2,
    prediction_service_pb2_grpc,
    training_job_pb2,
    training_service_pb2,
    training_service_pb2_grpc,
)
from sklearn.datasets import load_digits, load_iris

from tests.conftest import StartService
from tests.contract.wire import rows
from tests.service_process import ServiceProcess

IRIS = load_iris()
X = IRIS.data.astype(np.float32)
SPECIES = IRIS.target_names[IRIS.target]
DIGITS = load_digits()
IMAGES = DIGITS.images[:, None].astype(np.float32)


def fit(client: fitserve.Client, name: str, **options: object) -> fitserve.Job:
    """Starts a fit that takes a tenth of a second."""
    arguments = {"algorithm": "logistic_regression", "queue": True} | options
    return client.fit(name, X, SPECIES, **arguments)


def fit_for_ever(client: fitserve.Client, name: str, **options: object) -> fitserve.Job:
    """Starts a fit that ends only when it is ended."""
    return client.fit(name, IMAGES, DIGITS.target, algorithm="torch_cnn", epochs=100_000, **options)


def wait_until(condition, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the state did not come"
        time.sleep(0.01)


# -- a fit and its job -----------------------------------------------------------------------------------------------


def test_a_fit_makes_a_version_with_metrics_proof_and_labels(client: fitserve.Client, name: str) -> None:
    done = fit(client, name).wait(30)
    assert done.state == "SUCCEEDED"
    assert done.progress == 1
    assert done.metrics["accuracy"] > 0.8
    assert {"accuracy", "log_loss", "f1", "roc_auc"} <= set(done.metrics)
    assert (done.train_row_count, done.validation_row_count) == (120, 30)
    assert done.peak_memory_bytes > 0
    assert done.cpu_seconds > 0
    (version,) = client.model(name).versions
    assert list(version.signature.classes) == list(IRIS.target_names)
    assert version.parity.max_difference <= version.parity.tolerance
    assert (version.state, version.job, version.dataset) == ("STORED", done.id, done.dataset)


def test_a_regression_has_its_own_metrics(client: fitserve.Client, name: str) -> None:
    done = client.fit(name, X[:, :3], X[:, 3].astype(float), algorithm="xgboost", queue=True).wait(30)
    assert done.task == "REGRESSION"
    assert set(done.metrics) == {"rmse", "mae", "r2"}


def test_integer_labels_come_back_exactly_however_large_they_are(
    service: ServiceProcess, client: fitserve.Client, name: str
) -> None:
    labels = np.array([2**53 + 1, 2**53 + 2, 7])
    fitted = client.fit(name, X, labels[IRIS.target], algorithm="logistic_regression", queue=True, load=True)
    assert fitted.wait(30).load_error is None
    assert client.predict(name, X[[0, 50, 149]]).tolist() == labels.tolist()
    answer = client.predict_proba(name, X[:1])
    assert answer.classes is not None
    assert answer.classes.tolist() == sorted(labels.tolist())
    signature = client.model(name).versions[0].signature
    assert signature is not None
    assert signature.classes == (7, 2**53 + 1, 2**53 + 2)
    stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(service.address))
    by_hand = stub.Predict(
        prediction_service_pb2.PredictRequest(model=name, inputs=rows(X[0].tolist(), X[149].tolist()))
    )
    assert [value.WhichOneof("kind") for value in by_hand.predictions] == ["string_value", "number_value"]
    assert by_hand.predictions[0].string_value == str(2**53 + 1)


def test_a_fit_that_asks_for_it_is_loaded_when_its_job_ends(client: fitserve.Client, name: str) -> None:
    done = fit(client, name, load=True).wait(30)
    assert done.load_error is None
    assert client.predict(name, X[:2]).tolist() == ["setosa", "setosa"]
    assert client.model(name).versions[0].loaded_by == f"job {done.id}"


def test_a_watcher_sees_steps_and_the_final_state_and_may_come_late(
    service: ServiceProcess, client: fitserve.Client, name: str
) -> None:
    job = client.fit(name, IMAGES, DIGITS.target, algorithm="torch_cnn", epochs=4, queue=True)
    wait_until(lambda: job.refresh().step is not None)
    updates = list(job.watch(60))
    assert updates[-1].job.state == "SUCCEEDED"
    steps = [step for update in updates for step in update.steps]
    assert [step.number for step in steps] == sorted({step.number for step in steps})
    assert steps[-1].number == 4
    assert (steps[-1].unit, steps[-1].total) == ("epoch", 4)
    assert "loss" in " ".join(steps[-1].metrics)
    stub = training_service_pb2_grpc.TrainingServiceStub(grpc.insecure_channel(service.address))
    (late,) = stub.WatchTrainingJob(training_service_pb2.WatchTrainingJobRequest(job=job.id))
    assert late.job.state == training_job_pb2.JOB_STATE_SUCCEEDED


def test_a_taken_name_is_refused_unless_a_new_version_is_asked_for(client: fitserve.Client, name: str) -> None:
    fit(client, name).wait(30)
    with pytest.raises(errors.AlreadyExists) as refused:
        fit(client, name)
    assert refused.value.reason == "MODEL_EXISTS"
    assert fit(client, name, existing="new_version").wait(30).version == 2
    assert [version.version for version in client.model(name).versions] == [1, 2]


def test_a_new_version_must_take_what_the_versions_before_take(client: fitserve.Client, name: str) -> None:
    fit(client, name).wait(30)
    with pytest.raises(errors.InvalidArgument) as refused:
        client.fit(name, X[:, :2], SPECIES, algorithm="logistic_regression", existing="new_version")
    assert "inline.inputs" in refused.value.field_violations


def test_two_fits_of_one_name_at_once_are_aborted(client: fitserve.Client, name: str) -> None:
    job = fit_for_ever(client, name, queue=True)
    with pytest.raises(errors.Aborted) as refused:
        fit(client, name)
    assert refused.value.reason == "OPERATION_IN_PROGRESS"
    assert job.cancel().state == "CANCELLED"
    assert fit(client, name).wait(30).state == "SUCCEEDED"


def test_a_repeated_request_id_answers_with_the_same_job(client: fitserve.Client, name: str) -> None:
    first = fit(client, name, request_id=f"r-{name}")
    again = [fit(client, name, request_id=f"r-{name}").id for _ in range(3)]
    assert set(again) == {first.id}
    first.wait(30)
    assert fit(client, name, request_id=f"r-{name}").id == first.id
    with pytest.raises(errors.InvalidArgument) as refused:
        fit(client, name, seed=7, request_id=f"r-{name}")
    assert refused.value.reason == "REQUEST_ID_REUSED"


# -- limits ----------------------------------------------------------------------------------------------------------


def test_a_service_without_training_cores_trains_nothing_and_says_so(start_service: StartService) -> None:
    service = start_service(TRAINING_CORES="0")
    with fitserve.Client(service.address) as client:
        with pytest.raises(errors.FitServeError) as refused:
            fit(client, "nothing")
        assert (refused.value.reason, refused.value.metadata["setting"]) == ("UNIMPLEMENTED", "TRAINING_CORES")
        assert client.status().training.total_cores == 0
    assert not [process for process in service.family() if "training" in process.cmdline()]
    assert service.stop() == 0


def test_cores_are_a_budget_and_those_who_wait_are_served_in_order(start_service: StartService) -> None:
    service = start_service(TRAINING_CORES="1", TRAINING_QUEUE="2")
    with fitserve.Client(service.address) as client:
        first = fit_for_ever(client, "first")
        with pytest.raises(errors.ResourceExhausted) as refused:
            fit(client, "refused", queue=False)
        assert refused.value.reason == "NO_FREE_CORES"
        assert refused.value.retry_after > 0
        second, third = fit(client, "second"), fit(client, "third")
        assert (second.state, third.state) == ("QUEUED", "QUEUED")
        with pytest.raises(errors.ResourceExhausted) as full:
            fit(client, "fourth")
        assert full.value.reason == "TRAINING_QUEUE_FULL"
        training = client.status().training
        assert (training.total_cores, training.free_cores, training.queued_job_count) == (1, 0, 2)
        wait_until(lambda: len(client.status().training.active_processes) == 1)
        assert psutil.pid_exists(client.status().training.active_processes[0].pid)
        assert third.cancel().state == "CANCELLED"
        first.cancel()
        assert second.wait(30).state == "SUCCEEDED"
        assert client.status().training.free_cores == 1


def test_a_running_fit_is_cancelled_within_two_seconds(client: fitserve.Client, name: str) -> None:
    job = fit_for_ever(client, name, queue=True)
    wait_until(lambda: job.refresh().step is not None)
    (pid,) = (process.pid for process in client.status().training.active_processes if process.job == job.id)
    begin = time.monotonic()
    assert job.cancel().state == "CANCELLED"
    assert time.monotonic() - begin < 2
    assert not psutil.pid_exists(pid)
    assert job.cancel().state == "CANCELLED"  # again changes nothing
    with pytest.raises(errors.NotFound):
        client.model(name)


def test_a_time_limit_ends_a_fit_with_deadline_exceeded(client: fitserve.Client, name: str) -> None:
    job = fit_for_ever(client, name, queue=True, time_limit=0.5)
    with pytest.raises(fitserve.TrainingFailed) as failed:
        job.wait(30)
    assert (failed.value.code, failed.value.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "TIME_LIMIT_EXCEEDED")


def test_a_memory_limit_ends_a_fit_with_resource_exhausted(client: fitserve.Client, name: str) -> None:
    wide = np.random.default_rng(0).normal(size=(600, 4000)).astype(np.float32)
    job = client.fit(
        name,
        wide,
        (wide[:, 0] > 0).astype(int),
        algorithm="torch_mlp",
        hidden_sizes=[8192, 8192],
        queue=True,
        memory_limit_bytes=100_000_000,
    )
    with pytest.raises(fitserve.TrainingFailed) as failed:
        job.wait(60)
    assert (failed.value.code, failed.value.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TRAINER_OOM")


def test_a_killed_training_process_fails_its_job_and_frees_name_and_core(client: fitserve.Client, name: str) -> None:
    job = fit_for_ever(client, name, queue=True)
    wait_until(lambda: any(p.job == job.id for p in client.status().training.active_processes))
    (pid,) = (process.pid for process in client.status().training.active_processes if process.job == job.id)
    psutil.Process(pid).kill()
    with pytest.raises(fitserve.TrainingFailed) as failed:
        job.wait(10)
    assert failed.value.reason == "TRAINER_DIED"
    assert failed.value.metadata["signal"] == "9"
    assert fit(client, name).wait(30).state == "SUCCEEDED"


def test_cross_field_rules_of_an_algorithm_fail_the_job_naming_the_field(client: fitserve.Client, name: str) -> None:
    job = client.fit(name, X, X[:, 0].astype(float), algorithm="random_forest", criterion="gini", queue=True)
    with pytest.raises(fitserve.TrainingFailed) as failed:
        job.wait(30)
    assert failed.value.reason == "INVALID_FIELD"
    assert failed.value.metadata["field"] == "random_forest.criterion"


# -- jobs ------------------------------------------------------------------------------------------------------------


def test_jobs_are_listed_in_pages_the_latest_first(service: ServiceProcess, client: fitserve.Client, name: str) -> None:
    made = [fit(client, name, existing="new_version").wait(30).id for _ in range(3)]
    stub = training_service_pb2_grpc.TrainingServiceStub(grpc.insecure_channel(service.address))
    listed, token = [], ""
    while True:
        page = stub.ListTrainingJobs(
            training_service_pb2.ListTrainingJobsRequest(model=name, page_size=2, page_token=token)
        )
        assert len(page.jobs) <= 2
        listed += [job.id for job in page.jobs]
        if not (token := page.next_page_token):
            break
    assert listed == made[::-1]
    failed = training_service_pb2.ListTrainingJobsRequest(model=name, states=[training_job_pb2.JOB_STATE_FAILED])
    assert not stub.ListTrainingJobs(failed).jobs


def test_unknown_jobs_and_datasets_are_not_found(client: fitserve.Client) -> None:
    for call in (
        lambda: client.job("20200101-000000-00000000"),
        lambda: client.delete_dataset("sha256:" + "0" * 64),
        lambda: client.fit("x", dataset="sha256:" + "0" * 64, algorithm="xgboost"),
    ):
        with pytest.raises(errors.NotFound):
            call()


# -- datasets --------------------------------------------------------------------------------------------------------


def test_an_upload_has_the_same_digest_in_whatever_chunks_it_comes(client: fitserve.Client, name: str) -> None:
    digests = {client.upload_dataset(X, SPECIES, chunk_rows=rows).digest for rows in (1, 7, 150)}
    assert len(digests) == 1
    (digest,) = digests
    assert [dataset.digest for dataset in client.datasets()].count(digest) == 1
    for number in (1, 2):
        job = client.fit(f"{name}-{number}", dataset=digest, algorithm="logistic_regression", queue=True)
        assert job.wait(30).dataset == digest
    client.delete_dataset(digest)
    assert digest not in [dataset.digest for dataset in client.datasets()]


def test_a_table_is_uploaded_and_one_of_its_columns_is_the_target(client: fitserve.Client, name: str) -> None:
    table = {"length": X[:, 2], "width": X[:, 3], "species": SPECIES}
    dataset = client.upload_dataset(table, chunk_rows=40)
    assert dataset.columns == ("length", "width", "species")
    job = client.fit(name, dataset=dataset.digest, target="species", algorithm="random_forest", queue=True, load=True)
    job.wait(30)
    assert [column.name for column in client.model(name).versions[0].signature.columns] == ["length", "width"]
    assert client.predict(name, [{"width": 0.2, "length": 1.4}]).tolist() == ["setosa"]


def test_a_dataset_in_use_is_not_deleted(client: fitserve.Client, name: str) -> None:
    dataset = client.upload_dataset(IMAGES, DIGITS.target)
    job = client.fit(name, dataset=dataset.digest, algorithm="torch_cnn", epochs=100_000, queue=True)
    with pytest.raises(errors.FailedPrecondition) as refused:
        client.delete_dataset(dataset.digest)
    assert refused.value.reason == "DATASET_IN_USE"
    job.cancel()
    client.delete_dataset(dataset.digest)


def test_a_wrong_digest_is_data_loss_and_an_interrupted_upload_leaves_nothing(service: ServiceProcess) -> None:
    stub = training_service_pb2_grpc.TrainingServiceStub(grpc.insecure_channel(service.address))

    def messages(digest: str = "", cut: threading.Event | None = None):
        yield training_service_pb2.UploadDatasetRequest(
            description=dataset_pb2.DatasetDescription(digest=digest, display_name="cut")
        )
        rows = data_pb2.Tensor(dtype=data_pb2.DATA_TYPE_FP32, shape=[3, 1], data=bytes(12))
        yield training_service_pb2.UploadDatasetRequest(
            chunk=dataset_pb2.DatasetChunk(inputs=data_pb2.Inputs(tensor=rows))
        )
        if cut:
            cut.wait(20)

    with pytest.raises(grpc.RpcError) as failed:
        stub.UploadDataset(messages("sha256:" + "0" * 64))
    assert failed.value.code() == grpc.StatusCode.DATA_LOSS
    staging = Path(service.model_dir, ".fitserve", "staging")
    before = set(staging.iterdir())
    cut = threading.Event()
    call = stub.UploadDataset.future(messages(cut=cut))
    wait_until(lambda: set(staging.iterdir()) - before)
    call.cancel()
    cut.set()
    wait_until(lambda: not set(staging.iterdir()) - before)


def test_an_upload_whose_caller_goes_away_is_not_stored(service: ServiceProcess) -> None:
    stub = training_service_pb2_grpc.TrainingServiceStub(grpc.insecure_channel(service.address))
    name = "gone"

    def messages(number: int, sent: threading.Event, end: threading.Event):
        description = dataset_pb2.DatasetDescription(display_name=name)
        yield training_service_pb2.UploadDatasetRequest(description=description)
        rows = data_pb2.Tensor(dtype=data_pb2.DATA_TYPE_FP32, shape=[1, 1], data=np.float32(number).tobytes())
        yield training_service_pb2.UploadDatasetRequest(
            chunk=dataset_pb2.DatasetChunk(inputs=data_pb2.Inputs(tensor=rows))
        )
        sent.set()
        end.wait(20)

    def stored() -> list[str]:
        page = stub.ListDatasets(training_service_pb2.ListDatasetsRequest(page_size=1000))
        return [dataset.display_name for dataset in page.datasets]

    for number in range(20):
        sent, end = threading.Event(), threading.Event()
        call = stub.UploadDataset.future(messages(number, sent, end))
        assert sent.wait(20)
        wait_until(lambda: any(Path(service.model_dir, ".fitserve", "staging").iterdir()))
        call.cancel()
        end.set()
        wait_until(lambda: not any(Path(service.model_dir, ".fitserve", "staging").iterdir()))
    assert name not in stored()


def test_file_formats_are_unimplemented_and_say_so(service: ServiceProcess) -> None:
    stub = training_service_pb2_grpc.TrainingServiceStub(grpc.insecure_channel(service.address))
    description = dataset_pb2.DatasetDescription(format=dataset_pb2.DATASET_FORMAT_CSV)
    with pytest.raises(grpc.RpcError) as failed:
        stub.UploadDataset(iter([training_service_pb2.UploadDatasetRequest(description=description)]))
    assert failed.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert "DATASET_FORMAT_CHUNKS" in failed.value.details()


def test_sixty_megabytes_are_learned_from_inline(service: ServiceProcess, client: fitserve.Client, name: str) -> None:
    rows = np.random.default_rng(0).normal(size=(60 * 2**20 // 400, 100)).astype(np.float32)
    inputs = data_pb2.Tensor(dtype=data_pb2.DATA_TYPE_FP32, shape=rows.shape, data=rows.tobytes())
    targets = data_pb2.Column(booleans=data_pb2.BooleanValues(values=rows[:, 0] > 0))
    request = training_service_pb2.FitRequest(
        model=name,
        inline=training_service_pb2.InlineDataset(inputs=data_pb2.Inputs(tensor=inputs), targets=targets),
        xgboost=algorithm_pb2.Xgboost(n_estimators=2, max_depth=2),
        queue=True,
    )
    stub = training_service_pb2_grpc.TrainingServiceStub(
        grpc.insecure_channel(service.address, [("grpc.max_send_message_length", -1)])
    )
    assert client.job(stub.Fit(request, timeout=60).job.id).wait(120).metrics["accuracy"] > 0.9


def test_data_larger_than_one_message_goes_by_upload(start_service: StartService) -> None:
    service = start_service(MAX_MESSAGE_BYTES="200000")
    rows = np.random.default_rng(0).normal(size=(20_000, 10)).astype(np.float32)
    with fitserve.Client(service.address) as client:
        algorithm = algorithm_pb2.LogisticRegression()
        with pytest.raises(errors.ResourceExhausted):
            client.fit("large", rows, (rows[:, 0] > 0), algorithm=algorithm)
        digest = client.upload_dataset(rows, (rows[:, 0] > 0), chunk_rows=2000).digest
        done = client.fit("large", dataset=digest, algorithm=algorithm).wait(60)
        assert done.train_row_count == 16_000
