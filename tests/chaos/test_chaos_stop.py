"""A stop by signal: callers are told first, streams finish, trainings end or are marked, and nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import fitserve
import grpc
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.chaos.scene import RESTING, STEADY, Family, Scene, alive, wait_until
from tests.service_process import ROOT

pytestmark = pytest.mark.xdist_group("chaos-stop")

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A service that each test stops, and starts again for the next one."""
    scene = Scene(tmp_path_factory.mktemp("chaos"), TRAINING_CORES="2", GRACE_SECONDS="2")
    yield scene
    scene.stop()


class Watch:
    """Notes in which order things happen while the service stops."""

    def __init__(self, scene: Scene) -> None:
        self.health: list[tuple[int, float]] = []
        self._channel = grpc.insecure_channel(scene.service.address)
        self._updates = health_pb2_grpc.HealthStub(self._channel).Watch(health_pb2.HealthCheckRequest())
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        wait_until(lambda: bool(self.health), "health answers")

    def _run(self) -> None:
        try:
            for update in self._updates:
                self.health.append((update.status, time.monotonic()))
        except grpc.RpcError:
            pass  # the service has gone

    def close(self) -> None:
        self._updates.cancel()
        self._thread.join(10)
        self._channel.close()


class OpenStream:
    """A stream whose next batch is sent when the test says so."""

    def __init__(self, scene: Scene) -> None:
        self._go = threading.Semaphore(1)
        self._last = threading.Event()
        self._rows = scene.rows[:50]
        self._expected = scene.expected
        self.right_answers = 0
        self.end = 0.0
        self.error: Exception | None = None
        self._client = fitserve.Client(scene.service.address)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        wait_until(lambda: self.right_answers == 1 or self.error is not None, "the stream answers")

    def _batches(self) -> Iterator[np.ndarray]:
        while not self._last.is_set():
            self._go.acquire()
            yield self._rows

    def _run(self) -> None:
        try:
            for answer in self._client.predict_stream(STEADY, self._batches()):
                self.right_answers += int(np.array_equal(answer.predictions, self._expected))
            self.end = time.monotonic()
        except Exception as error:
            self.error = error

    def send_last(self) -> None:
        """Sends one more batch, and no other after it."""
        self._last.set()
        self._go.release()

    def join(self) -> None:
        self._thread.join(10)
        self._client.close()


def stop_with_open_stream(scene: Scene, number: signal.Signals) -> float:
    """Stops the service while a stream is open; returns the seconds that the stop took."""
    watch, stream = Watch(scene), OpenStream(scene)
    scene.family.members()
    began = time.monotonic()
    scene.service.process.send_signal(number)
    wait_until(lambda: watch.health[-1][0] == NOT_SERVING, "health says NOT_SERVING")
    stream.send_last()
    stream.join()
    assert stream.error is None
    assert stream.right_answers == 2
    assert watch.health[-1][1] < stream.end
    assert scene.service.process.wait(20) == 0
    seconds = time.monotonic() - began
    watch.close()
    assert scene.family.leftovers() == []
    assert "Traceback" not in scene.service.log.read_text()
    return seconds


def test_a_stop_lets_the_stream_finish_and_marks_the_training_that_does_not(scene: Scene) -> None:
    job = scene.fit(trees=10000)
    wait_until(lambda: bool(scene.family.part("training")), "a training process runs")
    seconds = stop_with_open_stream(scene, signal.SIGTERM)
    assert 2 <= seconds < 8, "the grace period is two seconds"
    scene.restart()
    end = scene.client.job(job.id).latest
    assert end.state == "FAILED"
    assert end.error is not None
    assert end.error.reason == "JOB_INTERRUPTED"
    assert scene.client.model(STEADY).serving_version == 1


def test_an_interrupt_from_the_keyboard_stops_as_well(scene: Scene) -> None:
    stop_with_open_stream(scene, signal.SIGINT)
    scene.restart()
    assert scene.client.model(STEADY).serving_version == 1


@pytest.mark.long
def test_a_training_that_ends_within_the_grace_period_makes_its_version(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "service", TRAINING_CORES="2", GRACE_SECONDS="30")
    job = scene.fit(trees=1000)
    wait_until(lambda: bool(scene.family.part("training")), "a training process runs")
    scene.stop()
    scene.restart()
    assert scene.client.job(job.id).state == "SUCCEEDED"
    scene.check([scene.client.job(job.id)])
    assert scene.client.model(RESTING).serving_version == 0
    scene.stop()


def starting_service(directory: Path) -> subprocess.Popen[bytes]:
    """Begins to start a service and does not wait for it."""
    environment = os.environ | {
        "LISTEN": "127.0.0.1:0",
        "MODEL_DIR": str(directory / "models"),
        "PYTHONPATH": f"{ROOT}:{ROOT / 'clients/python'}",
    }
    log = (directory / "service.log").open("wb")
    with log:
        return subprocess.Popen(
            [sys.executable, "-m", "service"], cwd=directory, env=environment, stdout=log, stderr=log
        )


def family_with(service: subprocess.Popen[bytes], part: str) -> Family:
    """Returns the processes of a starting service, as soon as one of them is a certain part."""
    root = psutil.Process(service.pid)
    family = Family.__new__(Family)
    family.seen = {root}

    def started() -> bool:
        family.seen.update(root.children(recursive=True))
        return any(part in " ".join(process.cmdline()) for process in family.seen if alive(process))

    wait_until(started, f"{part} is there")
    return family


@pytest.mark.parametrize("part", ["triton_runtime", "tritonserver", "triton_python_backend_stub"])
def test_a_stop_during_the_start_leaves_nothing(tmp_path: Path, part: str) -> None:
    service = starting_service(tmp_path)
    family = family_with(service, part)
    service.send_signal(signal.SIGTERM)
    assert service.wait(20) == 0, (tmp_path / "service.log").read_text()
    assert family.leftovers() == []
    assert "Traceback" not in (tmp_path / "service.log").read_text()


@pytest.mark.parametrize("part", ["training serve", "triton_runtime", "tritonserver", "triton_python_backend_stub"])
def test_a_kill_during_the_start_leaves_nothing(tmp_path: Path, part: str) -> None:
    service = starting_service(tmp_path)
    family = family_with(service, part)
    service.kill()
    service.wait()
    family.wait_until_gone()
    assert family.leftovers() == []
