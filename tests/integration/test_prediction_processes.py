"""Several processes on one port: each predicts, each tells the same truth, and each may die."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import fitserve
import grpc
import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from fitserve import _core, _tensors
from fitserve.v1 import (
    data_pb2,
    model_service_pb2,
    prediction_service_pb2,
    server_service_pb2,
    training_job_pb2,
    training_service_pb2,
)
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.chaos.scene import alive, wait_until
from tests.contract.oip import features
from tests.contract.wire import Stubs, error_of, stubs_of
from tests.service_process import ROOT, ServiceProcess

PROCESSES = 3
CONNECT_SECONDS = 60.0
"""How long it may take until each process has been given a connection; one of them may be starting."""

ROWS = np.random.default_rng(3).normal(size=(200, 4)).astype(np.float32)
UP, DOWN = (ROWS[:, 0] > 0).astype(np.int64), (ROWS[:, 0] <= 0).astype(np.int64)
"""What versions 1 and 2 of the model learn: the reverse of each other, so that an answer shows whose it is."""


@dataclass
class Service:
    """A service of three processes, with a channel to each of them."""

    process: ServiceProcess
    client: fitserve.Client
    channels: dict[int, grpc.Channel] = field(default_factory=dict)

    @property
    def further(self) -> list[int]:
        """The ids of the further processes that run."""
        family = self.process.family()
        return [one.pid for one in family if alive(one) and "service.prediction_process" in one.cmdline()]

    def stubs(self) -> list[Stubs]:
        """Raw stubs of each process, the primary's first."""
        return [stubs_of(self.channels[pid]) for pid in sorted(self.channels, key=lambda pid: pid != self.process.pid)]

    def connect(self) -> None:
        """Opens channels until each process has one."""
        self.disconnect()
        wanted = {self.process.pid, *self.further}
        assert len(wanted) == PROCESSES
        deadline = time.monotonic() + CONNECT_SECONDS
        while wanted - self.channels.keys():
            assert time.monotonic() < deadline, f"not all of {wanted} are given connections"
            pid, channel = self.connected()
            if pid in self.channels:
                channel.close()
            else:
                self.channels[pid] = channel

    def connected(self) -> tuple[int, grpc.Channel]:
        """Returns a new channel, which is connected, and the process that answers it."""
        pids = {self.process.pid, *self.further}
        before = {pid: connections(pid, self.port) for pid in pids}
        channel = new_channel(self.process.address)
        stubs_of(channel).server.GetStatus(server_service_pb2.GetStatusRequest(), timeout=20)
        [pid] = [pid for pid in pids if connections(pid, self.port) - before[pid]]
        return pid, channel

    def disconnect(self) -> None:
        """Closes the channels."""
        for channel in self.channels.values():
            channel.close()
        self.channels.clear()

    @property
    def port(self) -> int:
        """The port of all processes."""
        return int(self.process.address.rpartition(":")[2])


def new_channel(address: str) -> grpc.Channel:
    """Returns a channel with a connection of its own."""
    return grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])


def connections(pid: int, port: int) -> set[int]:
    """Returns the callers' ports of the connections to the service's port that a process has."""
    found = psutil.Process(pid).net_connections("tcp")
    return {one.raddr.port for one in found if one.raddr and one.laddr.port == port}


def started(directory: Path, **settings: str) -> Service:
    """Starts a service with a model of two versions, of which the first is loaded, and aliases."""
    process = ServiceProcess(directory, PREDICTION_PROCESSES=str(PROCESSES), **settings)
    client = fitserve.Client(process.address, timeout=60.0)
    client.fit("sign", ROWS, UP, algorithm="logistic_regression", load=True, queue=True).wait(120)
    client.fit("sign", ROWS, DOWN, algorithm="logistic_regression", existing="new_version", queue=True).wait(120)
    client.set_alias("sign", "champion", 1)
    return Service(process, client)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service that the tests share."""
    service = started(tmp_path_factory.mktemp("processes"))
    yield service
    service.disconnect()
    service.client.close()
    assert service.process.stop() == 0
    assert "Traceback" not in service.process.log.read_text()


@pytest.fixture
def service(running: Service) -> Service:
    """The service, whole, with version 1 serving and nothing else loaded."""
    wait_until(lambda: len(running.further) == PROCESSES - 1, "all processes are there")
    running.client.unload("sign")
    running.client.load("sign", 1)
    running.client.set_alias("sign", "champion", 1)
    running.connect()
    return running


def inputs(rows: np.ndarray) -> data_pb2.Inputs:
    """Rows as a request has them."""
    return data_pb2.Inputs(tensor=_tensors.encode(rows))


def predict(stubs: Stubs, **fields: object) -> prediction_service_pb2.PredictResponse:
    """Predicts some rows."""
    request = prediction_service_pb2.PredictRequest(model="sign", inputs=inputs(ROWS[:4]), **fields)  # type: ignore[arg-type]
    return stubs.predictions.Predict(request, timeout=60)


def labels(response: prediction_service_pb2.PredictResponse) -> list[int]:
    """Returns the labels of a response."""
    return [int(label) for label in _tensors.decode(response.prediction_tensor)]


# -- predictions -----------------------------------------------------------------------------------------------------


def test_each_process_has_as_many_connections_as_any_other(service: Service) -> None:
    def counts() -> list[int]:
        return [len(connections(pid, service.port)) for pid in service.channels]

    with ExitStack() as stack:
        for _ in range(24):
            _, channel = service.connected()
            stack.callback(channel.close)
            assert labels(predict(stubs_of(channel))) == UP[:4].tolist()
        wait_until(lambda: max(counts()) - min(counts()) <= 1, "they are shared evenly")


def test_new_connections_go_where_others_have_ended(service: Service) -> None:
    with ExitStack() as stack:
        channels: dict[int, list[grpc.Channel]] = {pid: [] for pid in service.channels}
        for _ in range(12):
            pid, channel = service.connected()
            stack.enter_context(channel)
            channels[pid].append(channel)
        emptied = service.further[0]
        for channel in channels[emptied]:
            channel.close()
        wait_until(lambda: len(connections(emptied, service.port)) == 1, "they have ended")
        time.sleep(0.2)  # until the first process knows of it
        for _ in channels[emptied]:
            pid, channel = service.connected()
            stack.enter_context(channel)
            assert pid == emptied


def test_a_further_process_predicts_without_the_primary(service: Service) -> None:
    primary, *further = service.stubs()
    service.process.process.send_signal(signal.SIGSTOP)
    try:
        assert [labels(predict(stubs)) for stubs in further] == [UP[:4].tolist()] * 2
    finally:
        service.process.process.send_signal(signal.SIGCONT)
    assert labels(predict(primary)) == UP[:4].tolist()


def test_streams_and_the_open_inference_protocol_are_answered_by_each_process(service: Service) -> None:
    config = prediction_service_pb2.PredictStreamConfig(model="sign")
    for stubs in service.stubs():
        messages = [
            prediction_service_pb2.PredictStreamRequest(config=config),
            *[prediction_service_pb2.PredictStreamRequest(inputs=inputs(ROWS[:4]))] * 3,
        ]
        replies = list(stubs.predictions.PredictStream(iter(messages), timeout=60))
        assert [labels(reply.response) for reply in replies] == [UP[:4].tolist()] * 3
    for _ in range(12):
        with triton.InferenceServerClient(service.process.address) as client:
            scores = client.infer("sign", [features(ROWS[:4])]).as_numpy("scores")
            assert scores.argmax(axis=1).tolist() == UP[:4].tolist()


def test_statistics_count_what_all_processes_have_answered(service: Service) -> None:
    for stubs in service.stubs():
        for _ in range(5):
            predict(stubs)
    with triton.InferenceServerClient(service.process.address) as client:
        [one] = client.get_inference_statistics("sign").model_stats
    assert one.inference_stats.success.count == 15
    assert one.inference_count == 60


# -- one truth -------------------------------------------------------------------------------------------------------


def test_an_error_is_the_same_whoever_answers(service: Service) -> None:
    unknown = prediction_service_pb2.PredictRequest(model="sing", inputs=inputs(ROWS[:1]))
    wrong = prediction_service_pb2.PredictRequest(model="sign", inputs=inputs(ROWS[:1, :3]))
    stream = prediction_service_pb2.PredictStreamRequest(
        config=prediction_service_pb2.PredictStreamConfig(model="sign", version=2)
    )
    calls: list[Callable[[Stubs], object]] = [
        lambda stubs: stubs.predictions.Predict(unknown),
        lambda stubs: stubs.predictions.Predict(wrong),
        lambda stubs: predict(stubs, version=2),
        lambda stubs: predict(stubs, alias="nobody"),
        lambda stubs: list(stubs.predictions.PredictStream(iter([stream]))),
        lambda stubs: stubs.models.GetModel(model_service_pb2.GetModelRequest(model="sing")),
        lambda stubs: stubs.channel.unary_unary("/fitserve.v1.ModelService/Nothing")(b""),
        lambda stubs: stubs.channel.unary_unary("/fitserve.v1.PredictionService/Predict")(b"\xff\xff"),
    ]
    for call in calls:
        first, *others = [error_of(partial(call, stubs)) for stubs in service.stubs()]
        assert others == [first] * (PROCESSES - 1)


def test_training_and_models_are_reached_through_each_process(service: Service) -> None:
    for number, stubs in enumerate(service.stubs()[1:]):
        name = f"through-{number}"
        [chunk] = map(_core.read_chunk, _core.chunks(ROWS + number, UP))
        upload = [_core.upload_description("through"), *_core.upload_parts(chunk, 50)]
        digest = stubs.training.UploadDataset(iter(upload)).dataset.digest
        request = training_service_pb2.FitRequest(model=name, dataset=digest, load=True, queue=True)
        request.logistic_regression.SetInParent()
        job = stubs.training.Fit(request).job.id
        *_, last = stubs.training.WatchTrainingJob(training_service_pb2.WatchTrainingJobRequest(job=job))
        assert last.job.state == training_job_pb2.JOB_STATE_SUCCEEDED
        stubs.models.Unload(model_service_pb2.UnloadRequest(model=name))
        [version] = stubs.models.Load(model_service_pb2.LoadRequest(model=name)).model.versions
        assert version.loaded_by.startswith("ipv4:127.0.0.1:"), "who has called is known, whoever passes the call on"
        stubs.models.Remove(model_service_pb2.RemoveRequest(model=name, force=True))


def test_health_and_reflection_are_answered_through_each_process(service: Service) -> None:
    for stubs in service.stubs():
        watch = health_pb2_grpc.HealthStub(stubs.channel).Watch(health_pb2.HealthCheckRequest(), timeout=20)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
        reflection = reflection_pb2_grpc.ServerReflectionStub(stubs.channel)
        question = reflection_pb2.ServerReflectionRequest(list_services="")
        [answer] = reflection.ServerReflectionInfo(iter([question]), timeout=20)
        assert "fitserve.v1.PredictionService" in [one.name for one in answer.list_services_response.service]


def test_deadlines_hold_for_calls_that_are_passed_on(service: Service) -> None:
    for stubs in service.stubs()[1:]:
        watch = health_pb2_grpc.HealthStub(stubs.channel).Watch(health_pb2.HealthCheckRequest(), timeout=0.5)
        with pytest.raises(grpc.RpcError) as caught:
            list(watch)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


# -- changes under load ----------------------------------------------------------------------------------------------


@dataclass
class Answer:
    """What came of one call."""

    began: float
    ended: float
    version: int
    error: grpc.StatusCode | None = None


class Callers:
    """Calls the model over a connection to each process, by an alias and without, until the block ends."""

    def __init__(self, service: Service) -> None:
        self.answers: dict[str, list[Answer]] = {"": [], "champion": []}
        self._stop = threading.Event()
        targets = [(stubs, alias) for stubs in service.stubs() for alias in self.answers]
        self._threads = [threading.Thread(target=self._run, args=target) for target in targets]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        self.wait_for_more()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for_more(self) -> None:
        """Returns when each alias has been answered some times more."""
        goals = {alias: len(answers) + 3 * PROCESSES for alias, answers in self.answers.items()}
        wait_until(lambda: all(len(self.answers[alias]) > goal for alias, goal in goals.items()), "calls are answered")

    def _run(self, stubs: Stubs, alias: str) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                response = predict(stubs, **({"alias": alias} if alias else {}))
                assert labels(response) == (UP if response.version == 1 else DOWN)[:4].tolist()
                self.answers[alias].append(Answer(began, time.monotonic(), response.version))
            except grpc.RpcError as error:
                self.answers[alias].append(Answer(began, time.monotonic(), 0, error.code()))
            self._stop.wait(0.002)

    def versions(self, alias: str, since: float, until: float) -> set[int]:
        """Returns the versions that have answered the calls which a time holds whole, 0 for errors."""
        return {answer.version for answer in self.answers[alias] if since <= answer.began and answer.ended <= until}

    def errors(self) -> set[grpc.StatusCode | None]:
        """Returns the codes of all errors."""
        return {answer.error for answers in self.answers.values() for answer in answers} - {None}


def after(callers: Callers, change: Callable[[], object]) -> tuple[float, float]:
    """Makes a change; returns when it was answered and a time at which calls have been answered since."""
    change()
    done = time.monotonic()
    callers.wait_for_more()
    return done, time.monotonic()


def test_no_call_is_answered_by_another_version_once_a_change_is_acknowledged(service: Service) -> None:
    client = service.client
    with Callers(service) as callers:
        for _ in range(3):
            beside = after(callers, lambda: client.load("sign", 2, alongside=True))
            moved = after(callers, lambda: client.set_alias("sign", "champion", 2))
            back = after(callers, lambda: client.rollback_alias("sign", "champion"))
            again = after(callers, lambda: client.set_alias("sign", "champion", 2))
            replaced = after(callers, lambda: client.load("sign", 2))
            assert [callers.versions("champion", *span) for span in (beside, moved, back, again)] == [
                {1},
                {2},
                {1},
                {2},
            ]
            assert [callers.versions("", *span) for span in (beside, moved, back, replaced)] == [{1}, {1}, {1}, {2}]
            client.load("sign", 1, alongside=True)
            client.set_alias("sign", "champion", 1)
            client.load("sign", 1)
    assert callers.errors() == set()


def test_after_an_unload_no_process_answers_and_after_a_load_each_does(service: Service) -> None:
    with Callers(service) as callers:
        for _ in range(3):
            gone = after(callers, lambda: service.client.unload("sign"))
            back = after(callers, lambda: service.client.load("sign", 1))
            assert callers.versions("", *gone) == callers.versions("champion", *gone) == {0}
            assert callers.versions("", *back) == callers.versions("champion", *back) == {1}
    assert callers.errors() <= {grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNAVAILABLE}


def test_a_model_in_use_by_a_further_process_is_not_evicted(tmp_path: Path) -> None:
    service = started(tmp_path / "service", MAX_LOADED_MODELS="2")
    try:
        for name in ("older", "newer"):
            service.client.fit(name, ROWS, UP, algorithm="logistic_regression", queue=True).wait(120)
        service.client.load("older")
        service.connect()
        for stubs in service.stubs()[1:]:
            predict(stubs)  # so "older" is the one that was used least recently
        service.client.load("newer", evict=True)
        loaded = {model.name for model in service.client.models() if model.serving_version}
        assert loaded == {"sign", "newer"}
    finally:
        service.disconnect()
        service.client.close()
        service.process.stop()


# -- deaths ----------------------------------------------------------------------------------------------------------


def test_a_killed_further_process_comes_back_and_costs_only_its_own_calls(service: Service) -> None:
    victim = service.further[0]
    with Callers(service) as callers:
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(service.further) == PROCESSES - 1 and victim not in service.further, "it is back")
        callers.wait_for_more()
    assert callers.errors() <= {grpc.StatusCode.UNAVAILABLE}
    service.connect()
    assert [labels(predict(stubs)) for stubs in service.stubs()] == [UP[:4].tolist()] * PROCESSES
    assert service.client.model("sign").serving_version == 1


def test_a_further_process_that_ends_is_given_no_more_connections(service: Service) -> None:
    victim = service.further[0]
    [before] = connections(victim, service.port)
    config = prediction_service_pb2.PredictStreamConfig(model="sign")
    go = threading.Event()

    def messages() -> Iterator[prediction_service_pb2.PredictStreamRequest]:
        yield prediction_service_pb2.PredictStreamRequest(config=config)
        yield prediction_service_pb2.PredictStreamRequest(inputs=inputs(ROWS[:4]))
        go.wait(20)

    stream = stubs_of(service.channels[victim]).predictions.PredictStream(messages(), timeout=60)
    assert labels(next(stream).response) == UP[:4].tolist()
    os.kill(victim, signal.SIGTERM)
    time.sleep(0.3)
    with ExitStack() as stack:
        for _ in range(9):
            channel = new_channel(service.process.address)
            stack.callback(channel.close)
            assert labels(predict(stubs_of(channel))) == UP[:4].tolist()
        assert connections(victim, service.port) == {before}, "the stream's, which may end by itself"
    go.set()
    assert list(stream) == []
    wait_until(lambda: len(service.further) == PROCESSES - 1 and victim not in service.further, "another one is there")


def test_a_further_process_without_room_is_left_alone(service: Service) -> None:
    victim = psutil.Process(service.further[0])
    limits = victim.rlimit(psutil.RLIMIT_NOFILE)
    victim.rlimit(psutil.RLIMIT_NOFILE, (victim.num_fds() + 2, limits[1]))
    lost = 0
    try:
        with ExitStack() as stack:
            for _ in range(30):
                channel = new_channel(service.process.address)
                stack.callback(channel.close)
                try:
                    assert labels(predict(stubs_of(channel))) == UP[:4].tolist()
                except grpc.RpcError as error:
                    assert error.code() is grpc.StatusCode.UNAVAILABLE
                    lost += 1
    finally:
        victim.rlimit(psutil.RLIMIT_NOFILE, limits)
    assert lost <= 3, "one, and a further one a second"


def test_callers_who_come_while_the_service_starts_are_shared_too(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    channels = [new_channel(f"127.0.0.1:{port}") for _ in range(12)]
    waiting = [
        stubs_of(channel).server.GetStatus.future(
            server_service_pb2.GetStatusRequest(), timeout=60, wait_for_ready=True
        )
        for channel in channels
    ]
    process = ServiceProcess(tmp_path / "service", PREDICTION_PROCESSES="3", LISTEN=f"127.0.0.1:{port}")
    try:
        for call in waiting:
            call.result()
        pids = [process.pid, *(one.pid for one in process.family() if "service.prediction_process" in one.cmdline())]
        assert [len(connections(pid, port)) for pid in pids] == [4, 4, 4]
    finally:
        for channel in channels:
            channel.close()
        process.stop()


def test_a_further_process_that_hangs_does_not_keep_an_alias_from_moving(service: Service) -> None:
    service.client.load("sign", 2, alongside=True)
    victim = service.further[0]
    os.kill(victim, signal.SIGSTOP)
    service.client.set_alias("sign", "champion", 2)
    assert victim not in service.further
    wait_until(lambda: len(service.further) == PROCESSES - 1, "another one is there")
    service.connect()
    assert [predict(stubs, alias="champion").version for stubs in service.stubs()] == [2] * PROCESSES


def test_after_tritons_death_all_processes_answer_again(service: Service) -> None:
    [triton_server] = [one for one in service.process.family() if "tritonserver" in one.name()]
    with Callers(service) as callers:
        triton_server.kill()
        wait_until(lambda: bool(callers.errors()), "calls fail")
        since = time.monotonic()
        wait_until(lambda: all(_answers(stubs) for stubs in service.stubs()), "all answer")
        assert time.monotonic() > since
    assert callers.errors() <= {grpc.StatusCode.UNAVAILABLE}


def _answers(stubs: Stubs) -> bool:
    try:
        return labels(predict(stubs)) == UP[:4].tolist()
    except grpc.RpcError:
        return False


def _stubs_of_sign(service: Service) -> list[psutil.Process]:
    found = []
    for one in service.process.family():
        with suppress(psutil.Error):
            if "python_backend_stub" in one.name() and "/sign/" in " ".join(one.cmdline()):
                found.append(one)
    return found


def test_a_model_that_crashes_is_loaded_again_whoever_sees_it(service: Service) -> None:
    # Those of a Triton that was killed before may take a moment to end.
    wait_until(lambda: len(_stubs_of_sign(service)) == 1, "one process computes the model")
    _stubs_of_sign(service)[0].kill()
    further = service.stubs()[1]
    wait_until(lambda: _answers(further), "the model answers")
    assert [labels(predict(stubs)) for stubs in service.stubs()] == [UP[:4].tolist()] * PROCESSES


# -- start and stop --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_second_service_on_the_port_is_refused(service: Service, tmp_path: Path, processes: str) -> None:
    environment = os.environ | {
        "LISTEN": service.process.address,
        "MODEL_DIR": str(tmp_path / "models"),
        "PREDICTION_PROCESSES": processes,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'clients/python'}",
    }
    command = [sys.executable, "-m", "service"]
    second = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=60, check=False)
    assert second.returncode == 1
    assert f"LISTEN='{service.process.address}': the address is taken" in second.stderr.decode()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Service]:
    """A service that a test ends."""
    service = started(tmp_path / "service")
    service.connect()
    yield service
    service.disconnect()
    service.client.close()
    service.process.stop()


def test_a_stop_lets_the_streams_of_all_processes_finish(own: Service) -> None:
    go, family = threading.Event(), own.process.family()
    config = prediction_service_pb2.PredictStreamConfig(model="sign")

    def messages() -> Iterator[prediction_service_pb2.PredictStreamRequest]:
        yield prediction_service_pb2.PredictStreamRequest(config=config)
        yield prediction_service_pb2.PredictStreamRequest(inputs=inputs(ROWS[:4]))
        go.wait(20)
        yield prediction_service_pb2.PredictStreamRequest(inputs=inputs(ROWS[:4]))

    streams = [stubs.predictions.PredictStream(messages(), timeout=60) for stubs in own.stubs()]
    watches = [
        health_pb2_grpc.HealthStub(stubs.channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        for stubs in own.stubs()
    ]
    assert [labels(next(stream).response) for stream in streams] == [UP[:4].tolist()] * PROCESSES
    assert [next(watch).status for watch in watches] == [health_pb2.HealthCheckResponse.SERVING] * PROCESSES
    own.process.process.send_signal(signal.SIGTERM)
    assert [next(watch).status for watch in watches] == [health_pb2.HealthCheckResponse.NOT_SERVING] * PROCESSES
    for watch in watches:
        watch.cancel()
    go.set()
    with ThreadPoolExecutor() as pool:
        rest = list(pool.map(list, streams))
    assert [[labels(one.response) for one in replies] for replies in rest] == [[UP[:4].tolist()]] * PROCESSES
    assert own.process.process.wait(20) == 0
    assert [one.pid for one in family if alive(one)] == []
    assert "Traceback" not in own.process.log.read_text()


def test_nothing_is_left_of_a_killed_primary(own: Service) -> None:
    family = own.process.family()
    assert len(own.further) == PROCESSES - 1
    own.process.kill()
    wait_until(lambda: not any(map(alive, family)), "all processes are gone", 5)


def test_a_stop_while_the_processes_start_leaves_nothing(tmp_path: Path) -> None:
    environment = os.environ | {
        "LISTEN": "127.0.0.1:0",
        "MODEL_DIR": str(tmp_path / "models"),
        "PREDICTION_PROCESSES": str(PROCESSES),
        "PYTHONPATH": f"{ROOT}:{ROOT / 'clients/python'}",
    }
    with (tmp_path / "log").open("wb") as log:
        starting = subprocess.Popen([sys.executable, "-m", "service"], cwd=tmp_path, env=environment, stderr=log)
    primary, seen = psutil.Process(starting.pid), set[psutil.Process]()

    def begun() -> bool:
        seen.update(primary.children(recursive=True))
        return any("service.prediction_process" in one.cmdline() for one in seen if alive(one))

    wait_until(begun, "a further process is there")
    starting.send_signal(signal.SIGTERM)
    assert starting.wait(20) == 0
    assert [one.pid for one in seen if alive(one)] == []
    assert "Traceback" not in (tmp_path / "log").read_text()
