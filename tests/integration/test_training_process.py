from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
from fitserve.v1 import training_spec_pb2
from numpy.typing import NDArray

from service.adapters.trainer_process import ForkServerTrainer
from service.domain.ports import TrainingEnded, TrainingOrder
from tests.unit.training.cases import make_spec, write_spec, write_table_dataset, write_tensor_dataset

pytestmark = pytest.mark.xdist_group("training_process")

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": f"{ROOT}:{ROOT / 'clients/python'}",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
PATIENCE_SECONDS = 60
# Trains until it is killed.
ENDLESS: dict[str, object] = {"epochs": 100_000}


@dataclass(frozen=True)
class Outcome:
    """What one training did."""

    started: dict[str, object]
    exited: dict[str, object]
    events: list[dict[str, object]]
    log: str

    def steps(self) -> list[dict[str, object]]:
        return [event for event in self.events if event["event"] == "step"]


class Run:
    """A training under way, read by threads so that its pipes never fill."""

    def __init__(self, server: Server, job: str) -> None:
        self._server = server
        self._job = job
        self.events: list[dict[str, object]] = []
        self.log = ""
        events, self._events_end = os.pipe()
        log, self._log_end = os.pipe()
        self._readers = [
            threading.Thread(target=self._read_events, args=(events,)),
            threading.Thread(target=self._read_log, args=(log,)),
        ]

    def start(self, spec: Path) -> Run:
        self.order("fit", spec)
        return self

    def order(self, operation: str, spec: Path) -> None:
        order = {"op": operation, "job": self._job, "spec": str(spec), "name": "irises"}
        self._server.send(order, [self._events_end, self._log_end])
        os.close(self._events_end)
        os.close(self._log_end)
        for reader in self._readers:
            reader.start()

    def pid(self) -> int:
        pid = self._server.wait_for("started", self._job)["pid"]
        assert isinstance(pid, int)
        return pid

    def outcome(self) -> Outcome:
        started = self._server.wait_for("started", self._job)
        exited = self._server.wait_for("exited", self._job)
        for reader in self._readers:
            reader.join(PATIENCE_SECONDS)
        return Outcome(started, exited, self.events, self.log)

    def _read_events(self, descriptor: int) -> None:
        with os.fdopen(descriptor) as lines:
            for line in lines:
                self.events.append(json.loads(line))

    def _read_log(self, descriptor: int) -> None:
        with os.fdopen(descriptor) as lines:
            self.log = lines.read()


class Server:
    """A real fork server and the service's end of its socket."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(PATIENCE_SECONDS)
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "training", "serve", f"--socket-fd={theirs.fileno()}"],
            pass_fds=[theirs.fileno()],
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        self._answers: list[dict[str, object]] = []
        self._jobs = 0
        self.ready = self.wait_for("ready")

    def fit(self, spec: training_spec_pb2.TrainingSpec) -> Run:
        self._jobs += 1
        path = Path(spec.output_uri).with_suffix(".pb")
        return Run(self, f"job-{self._jobs}").start(write_spec(path, spec))

    def send(self, order: Mapping[str, object], descriptors: list[int]) -> None:
        socket.send_fds(self._socket, [json.dumps(order).encode()], descriptors)

    def wait_for(self, event: str, job: str | None = None) -> dict[str, object]:
        while True:
            for answer in self._answers:
                if answer["event"] == event and answer.get("job") == job:
                    return answer
            self._answers.append(json.loads(self._socket.recv(65536)))

    def hang_up(self) -> None:
        self._socket.close()


@contextlib.contextmanager
def running_server() -> Iterator[Server]:
    server = Server()
    try:
        yield server
    finally:
        server.hang_up()
        server.process.wait(PATIENCE_SECONDS)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server() as server:
        yield server


@dataclass(frozen=True)
class Case:
    """A family on a small real dataset."""

    algorithm: str
    task: str
    parameters: Mapping[str, object]
    load: Callable[[], tuple[NDArray[np.float32], NDArray[np.generic]]]
    missing_values: bool = False

    def __str__(self) -> str:
        return f"{self.algorithm}-{self.task}{'-missing' * self.missing_values}"

    def data(self) -> tuple[NDArray[np.float32], NDArray[np.generic]]:
        features, targets = self.load()
        if self.missing_values:
            gone = np.random.default_rng(9).random(features.shape) < 0.1
            features = np.where(gone, np.float32(np.nan), features)
        return features, targets


def iris() -> tuple[NDArray[np.float32], NDArray[np.generic]]:
    from sklearn.datasets import load_iris

    features, targets = load_iris(return_X_y=True)
    return features.astype(np.float32), targets


def cancer() -> tuple[NDArray[np.float32], NDArray[np.generic]]:
    from sklearn.datasets import load_breast_cancer

    features, targets = load_breast_cancer(return_X_y=True)
    return features.astype(np.float32), targets


def diabetes() -> tuple[NDArray[np.float32], NDArray[np.generic]]:
    from sklearn.datasets import load_diabetes

    features, targets = load_diabetes(return_X_y=True)
    return features.astype(np.float32), targets


def digit_images() -> tuple[NDArray[np.float32], NDArray[np.generic]]:
    from sklearn.datasets import load_digits

    features, targets = load_digits(return_X_y=True)
    return features.astype(np.float32).reshape(-1, 1, 8, 8), targets


CASES = [
    Case("logistic_regression", "classification", {"c": 0.5}, iris),
    Case("logistic_regression", "classification", {"class_weight": "balanced"}, cancer),
    Case("random_forest", "classification", {"n_estimators": 40, "class_weight": "balanced"}, iris),
    Case("random_forest", "regression", {"n_estimators": 40, "max_depth": 6}, diabetes),
    Case("hist_gradient_boosting", "classification", {"max_iter": 30}, cancer),
    Case("hist_gradient_boosting", "classification", {"max_iter": 30}, iris, missing_values=True),
    Case("hist_gradient_boosting", "regression", {"max_iter": 30, "loss": "poisson"}, diabetes),
    Case("xgboost", "classification", {"n_estimators": 20, "subsample": 0.7}, iris),
    Case("xgboost", "classification", {"n_estimators": 20}, cancer, missing_values=True),
    Case("xgboost", "regression", {"n_estimators": 20, "gamma": 100.0}, diabetes),
    Case("torch_mlp", "classification", {"epochs": 5}, cancer),
    Case("torch_mlp", "regression", {"epochs": 5, "dropout": 0.1}, diabetes),
    Case("torch_cnn", "classification", {"epochs": 1, "channels": [8]}, digit_images),
    Case("torch_cnn", "regression", {"epochs": 1, "channels": [8]}, digit_images),
]


def refit(case: Case, parameters: dict[str, object], unseen: NDArray[np.float32]) -> NDArray[np.float64]:
    """Returns what the library predicts when it is trained here, on the same rows with the same parameters."""
    from training import algorithms, data
    from training.algorithms.base import Problem
    from training.progress import Progress
    from training.spec import Task

    features, targets = case.data()
    task: Task = "classification" if case.task == "classification" else "regression"
    learned = targets.astype(np.int64) if task == "classification" else targets.astype(np.float64)
    rows = data.Rows(features, learned)
    train, held_out = data.split(rows, task == "classification", 0.2, 11)
    if case.algorithm.startswith("torch"):
        spec = make_spec(Path(), Path(), case.algorithm, case.task, case.parameters)
        classes = len(np.unique(targets)) if task == "classification" else 0
        problem = Problem(task, features.shape[1:], classes, 11, 1)
        family = algorithms.build(case.algorithm, getattr(spec.request, case.algorithm), problem)
        family.fit(train, held_out, Progress(os.open(os.devnull, os.O_WRONLY)))
        return family.predict(unseen)
    model = library_model(case, parameters)
    doubles = case.algorithm in ("logistic_regression", "hist_gradient_boosting")
    model.fit(train.features.astype(np.float64 if doubles else np.float32), train.targets)
    matrix = unseen.astype(np.float64 if doubles else np.float32)
    predicted = model.predict_proba(matrix) if task == "classification" else model.predict(matrix)
    return np.asarray(predicted, np.float64).reshape(len(unseen), -1)


# Any: scikit-learn and XGBoost have no types.
def library_model(case: Case, parameters: dict[str, object]):  # type: ignore[no-untyped-def]
    from sklearn import ensemble, linear_model, pipeline, preprocessing
    from xgboost import XGBClassifier, XGBRegressor

    # What is null belongs to the other task.
    given = {name: value for name, value in parameters.items() if value is not None}
    given["random_state"] = 11
    classifier = case.task == "classification"
    match case.algorithm:
        case "logistic_regression":
            given["C"] = given.pop("c")
            return pipeline.make_pipeline(preprocessing.StandardScaler(), linear_model.LogisticRegression(**given))
        case "random_forest":
            if given["max_features"] == "all":
                given["max_features"] = None
            return (ensemble.RandomForestClassifier if classifier else ensemble.RandomForestRegressor)(**given)
        case "hist_gradient_boosting":
            kind = ensemble.HistGradientBoostingClassifier if classifier else ensemble.HistGradientBoostingRegressor
            return kind(**given)
        case _:
            return (XGBClassifier if classifier else XGBRegressor)(**given, tree_method="hist", n_jobs=1)


def served(directory: Path, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Returns what a server computes from the model file."""
    from training import limits
    from training.export import sessions

    limits.prepare_environment()
    return sessions.onnx_scores((directory / "model.onnx").read_bytes(), features)


def dataset_of(case: Case, directory: Path) -> Path:
    features, targets = case.data()
    kind = "integer" if case.task == "classification" else "number"
    return write_tensor_dataset(directory, features, kind, targets.tolist())


def endless_fit(server: Server, tmp_path: Path, name: str = "endless") -> Run:
    features, targets = iris()
    dataset = write_tensor_dataset(tmp_path / f"{name}-data", features, "integer", targets.tolist())
    return server.fit(make_spec(dataset, tmp_path / name, "torch_mlp", parameters=ENDLESS))


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_ready_server_has_one_thread_and_no_grpc(server: Server) -> None:
    assert isinstance(server.ready["seconds"], float)
    process = psutil.Process(server.process.pid)
    assert process.num_threads() == 1
    assert not [mapped.path for mapped in process.memory_maps() if "grpc" in mapped.path]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_trained_model_serves_what_its_library_predicts(server: Server, tmp_path: Path, case: Case) -> None:
    dataset = dataset_of(case, tmp_path / "data")
    spec = make_spec(dataset, tmp_path / "1", case.algorithm, case.task, case.parameters, seed=11)
    outcome = server.fit(spec).outcome()
    assert outcome.exited["exit_code"] == 0, outcome.log
    assert [event["event"] for event in outcome.events if event["event"] not in ("step", "heartbeat")] == [
        "started",
        "done",
    ]
    assert outcome.steps()[-1]["progress"] == 1.0

    manifest = json.loads((tmp_path / "1" / "manifest.json").read_text())
    assert manifest["signature"]["missing_values"] == case.missing_values
    assert manifest["parity"]["max_difference"] <= manifest["parity"]["tolerance"]
    assert manifest["metrics"] == outcome.events[-1]["metrics"]

    features, _ = case.data()
    shuffled = np.random.default_rng(3).permuted(features.reshape(len(features), -1), axis=0)
    unseen = shuffled.reshape(features.shape)
    expected = refit(case, manifest["parameters"], unseen)
    largest = 1.0 if case.task == "classification" else max(1.0, float(np.abs(expected).max()))
    assert np.abs(served(tmp_path / "1", unseen) - expected).max() <= 1e-5 * largest


def test_a_manifest_says_everything_that_serving_needs(server: Server, tmp_path: Path) -> None:
    columns: dict[str, tuple[str, Sequence[object]]] = {
        "length": ("number", [1.0, float("nan"), 3.0, 4.0, 5.0, float("nan")]),
        "ripe": ("boolean", [True, False, True, False, True, False]),
        "color": ("category", ["red", "green", None, "red", "green", "red"]),
        "fruit": ("category", ["pear", "fig", "pear", "fig", "pear", "fig"]),
    }
    dataset = write_table_dataset(tmp_path / "data", columns)
    spec = make_spec(dataset, tmp_path / "1", "random_forest", target="fruit", parameters={"n_estimators": 5})
    assert server.fit(spec).outcome().exited["exit_code"] == 0
    manifest = json.loads((tmp_path / "1" / "manifest.json").read_text())
    assert manifest["signature"] == {
        "shape": [3],
        "targets": [],
        "columns": [
            {"name": "length", "kind": "number", "missing_values": True, "fill": 3.0},
            {"name": "ripe", "kind": "boolean", "missing_values": False, "fill": 1.0},
            {
                "name": "color",
                "kind": "category",
                "missing_values": True,
                "categories": ["green", "red"],
                "unknown_category": "none",
            },
        ],
        "missing_values": True,
        "classes": ["fig", "pear"],
        "label_kind": "category",
    }
    assert (manifest["model"], manifest["version"], manifest["backend"]) == ("irises", 1, "onnxruntime")
    assert manifest["parameters"]["n_estimators"] == 5
    assert manifest["parameters"]["criterion"] == "gini"
    assert (manifest["train_row_count"], manifest["validation_row_count"]) == (5, 1)
    assert set(manifest["library_versions"]) == {"scikit-learn", "onnx", "onnxruntime"}
    assert manifest["files"]["model.onnx"]["size_bytes"] == (tmp_path / "1" / "model.onnx").stat().st_size


def test_a_training_uses_no_more_threads_than_its_cores(server: Server, tmp_path: Path) -> None:
    run = endless_fit(server, tmp_path)
    process = psutil.Process(run.pid())
    wait_until(lambda: any(event["event"] == "heartbeat" for event in run.events))
    heartbeat = 1
    assert process.num_threads() <= 1 + heartbeat
    os.killpg(process.pid, signal.SIGKILL)
    run.outcome()


@pytest.mark.parametrize("algorithm", ["random_forest", "hist_gradient_boosting", "xgboost", "torch_mlp"])
def test_a_forked_training_can_use_several_cores(server: Server, tmp_path: Path, algorithm: str) -> None:
    features, targets = cancer()
    dataset = write_tensor_dataset(tmp_path / "data", features, "integer", targets.tolist())
    rounds = {"torch_mlp": "epochs", "hist_gradient_boosting": "max_iter"}.get(algorithm, "n_estimators")
    spec = make_spec(dataset, tmp_path / "1", algorithm, parameters={rounds: 5}, cores=2)
    outcome = server.fit(spec).outcome()
    assert outcome.exited["exit_code"] == 0, outcome.log


def test_a_killed_training_is_reported_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    run = endless_fit(server, tmp_path)
    wait_until(lambda: any(event["event"] == "step" for event in run.events))
    pid = run.pid()
    assert psutil.Process(pid).name() == "fit:irises"
    assert os.getpgid(pid) == pid
    os.killpg(pid, signal.SIGKILL)
    outcome = run.outcome()
    assert outcome.exited["exit_code"] == -signal.SIGKILL
    assert outcome.exited["pid"] == pid
    assert isinstance(outcome.exited["peak_memory_bytes"], int)
    assert outcome.exited["peak_memory_bytes"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["endless-data", "endless.pb"]


def test_trainings_run_side_by_side(server: Server, tmp_path: Path) -> None:
    endless = endless_fit(server, tmp_path)
    features, targets = iris()
    dataset = write_tensor_dataset(tmp_path / "data", features, "integer", targets.tolist())
    outcome = server.fit(make_spec(dataset, tmp_path / "1", "logistic_regression")).outcome()
    assert outcome.exited["exit_code"] == 0
    os.killpg(endless.pid(), signal.SIGKILL)
    endless.outcome()


def test_what_the_library_says_is_in_the_log(server: Server, tmp_path: Path) -> None:
    features, targets = iris()
    dataset = write_tensor_dataset(tmp_path / "data", features, "integer", targets.tolist())
    spec = make_spec(dataset, tmp_path / "1", "logistic_regression", parameters={"max_iter": 1})
    outcome = server.fit(spec).outcome()
    assert outcome.exited["exit_code"] == 0
    assert "ConvergenceWarning" in outcome.log


def test_a_bad_hyper_parameter_is_named(server: Server, tmp_path: Path) -> None:
    features, targets = diabetes()
    dataset = write_tensor_dataset(tmp_path / "data", features, "number", targets.tolist())
    spec = make_spec(dataset, tmp_path / "1", "random_forest", "regression", {"criterion": "gini"})
    outcome = server.fit(spec).outcome()
    assert outcome.exited["exit_code"] == 2
    failed = outcome.events[-1]
    assert (failed["event"], failed["reason"], failed["field"]) == (
        "failed",
        "INVALID_FIELD",
        "random_forest.criterion",
    )
    assert not (tmp_path / "1").exists()


def test_a_new_version_must_have_the_columns_of_the_old(server: Server, tmp_path: Path) -> None:
    features, targets = iris()
    dataset = write_tensor_dataset(tmp_path / "data", features, "integer", targets.tolist())
    spec = make_spec(dataset, tmp_path / "1", "logistic_regression")
    spec.signature.shape.append(5)
    outcome = server.fit(spec).outcome()
    assert (outcome.exited["exit_code"], outcome.events[-1]["field"]) == (2, "inline.inputs")


def test_an_unexpected_error_is_in_the_log_and_not_in_the_message(server: Server, tmp_path: Path) -> None:
    spec = make_spec(tmp_path / "nowhere", tmp_path / "1", "xgboost")
    outcome = server.fit(spec).outcome()
    assert outcome.exited["exit_code"] == 1
    assert outcome.events[-1]["message"] == "the training of xgboost failed; the service log has the details"
    assert "FileNotFoundError" in outcome.log


def test_an_error_outside_of_a_training_leaves_with_a_code_that_is_no_librarys(server: Server) -> None:
    run = Run(server, "job-unknown")
    run.order("bake", Path("nowhere"))
    outcome = run.outcome()
    assert (outcome.exited["exit_code"], outcome.events) == (os.EX_SOFTWARE, [])
    assert "KeyError" in outcome.log


def test_a_training_that_is_refused_memory_fails_for_that(server: Server, tmp_path: Path) -> None:
    dataset = noise(tmp_path / "data")
    parameters: dict[str, object] = {"hidden_sizes": [8192, 8192]}
    spec = make_spec(dataset, tmp_path / "1", "torch_mlp", "regression", parameters, memory_limit_bytes=64 << 20)
    outcome = server.fit(spec).outcome()
    assert outcome.exited["exit_code"] == 3, (outcome.events[-1], outcome.log[-2000:])
    assert outcome.events[-1]["reason"] == "TRAINER_OOM"
    assert not (tmp_path / "1").exists()


async def test_trainings_over_their_memory_limits_fail_for_that_however_their_libraries_end(tmp_path: Path) -> None:
    """Some raise, some abort and OpenMP's exits, as it comes; the service tells the same of all."""
    dataset = noise(tmp_path / "data")
    deep: dict[str, object] = {"n_estimators": 100_000, "max_depth": 20}
    wide: dict[str, object] = {"max_iter": 100_000, "max_leaf_nodes": 500, "min_samples_leaf": 1}
    cases: list[tuple[str, dict[str, object], int]] = [
        ("torch_mlp", {"hidden_sizes": [8192, 8192]}, 64),
        ("random_forest", {"n_estimators": 10_000}, 16),
        ("xgboost", deep, 1),
        ("xgboost", deep, 64),
        ("hist_gradient_boosting", wide, 16),
    ]
    trainer = ForkServerTrainer()
    await trainer.start()
    try:
        for number, (algorithm, parameters, limit_mib) in enumerate(cases):
            output = tmp_path / str(number)
            spec = make_spec(dataset, output, algorithm, "regression", parameters)
            run = await trainer.run(order_of(spec, limit_mib << 20))
            async with asyncio.timeout(PATIENCE_SECONDS):
                end = [event async for event in run.events()][-1]
            assert isinstance(end, TrainingEnded)
            assert end.reason == "TRAINER_OOM", (algorithm, limit_mib, end)
            assert not output.exists()
    finally:
        await trainer.stop()


def noise(directory: Path) -> Path:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(2000, 10)).astype(np.float32)
    return write_tensor_dataset(directory, features, "number", generator.normal(size=2000).tolist())


def order_of(spec: training_spec_pb2.TrainingSpec, memory_limit_bytes: int) -> TrainingOrder:
    """Returns the order from which the service writes this spec."""
    output = Path(spec.output_uri)
    return TrainingOrder(
        job=f"job-{output.name}",
        model=spec.request.model,
        version=spec.version,
        request=spec.request.SerializeToString(),
        task="regression",
        target="",
        dataset=Path(spec.dataset_uri),
        dataset_digest=spec.dataset_digest,
        cores=spec.cores,
        memory_limit_bytes=memory_limit_bytes,
        spec=output.with_suffix(".pb"),
        output=output,
        signature=None,
    )


def test_the_end_of_the_service_ends_the_server_and_its_trainings(tmp_path: Path) -> None:
    with running_server() as server:
        runs = [endless_fit(server, tmp_path, name) for name in ("a", "b")]
        pids = [run.pid() for run in runs]
        server.hang_up()
        assert server.process.wait(PATIENCE_SECONDS) == 0
    assert all(is_gone(pid) for pid in pids)


def test_the_death_of_the_server_ends_its_trainings(tmp_path: Path) -> None:
    with running_server() as server:
        pid = endless_fit(server, tmp_path).pid()
        server.process.kill()
        wait_until(lambda: is_gone(pid))


def test_a_training_in_the_foreground_reports_on_standard_output(tmp_path: Path) -> None:
    features, targets = iris()
    dataset = write_tensor_dataset(tmp_path / "data", features, "integer", targets.tolist())
    spec = write_spec(tmp_path / "spec.pb", make_spec(dataset, tmp_path / "1", "hist_gradient_boosting"))
    done = subprocess.run(
        [sys.executable, "-P", "-m", "training", "fit", str(spec)], env=ENVIRONMENT, capture_output=True, check=True
    )
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[0] == {"event": "started", "train_rows": 120, "validation_rows": 30}
    assert events[-1]["event"] == "done"
    assert (tmp_path / "1" / "manifest.json").exists()
