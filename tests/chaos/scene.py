"""A service under load, its processes by their part, and what must hold of it after any of them was killed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import fitserve
import grpc
import numpy as np
import numpy.typing as npt
import psutil
from fitserve import errors

from service.domain.registry import LONGEST_RELOAD_DELAY
from tests.service_process import ServiceProcess

STEADY = "steady"
"""A model that is loaded all the time."""

RESTING = "resting"
"""A model that the disturbances load and unload."""

RECOVERY_SECONDS = LONGEST_RELOAD_DELAY + 30.0
"""How long the service may take to be whole again, on a machine that tests share: a model that is killed again and again
waits for its reload."""

CALL_SECONDS = 60.0
"""The deadline of a prediction: long enough for a Triton that hangs to be noticed and replaced, which fails the call."""

# What a call may meet while a process is killed under it; anything else is a bug.
_PASSING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED)

Labels = npt.NDArray[np.int64]


def wait_until(condition: Callable[[], bool], what: str, seconds: float = RECOVERY_SECONDS) -> None:
    """Returns as soon as a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.02)


def alive(process: psutil.Process) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@dataclass
class Family:
    """All processes that a service has had, as far as they were seen."""

    service: ServiceProcess
    seen: set[psutil.Process] = field(default_factory=set)

    def members(self) -> list[psutil.Process]:
        """Returns those that are there now."""
        now = self.service.family()
        self.seen.update(now)
        return now

    def part(self, name: str) -> list[psutil.Process]:
        """Returns the processes that play a part: service, launcher, triton, stub, fork-server or training."""
        return [process for process in self.members() if _part_of(process) == name]

    def kill(self, name: str) -> bool:
        """Kills the processes that play a part; returns whether there was one."""
        victims = self.part(name)
        for process in victims:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        return bool(victims)

    def leftovers(self) -> list[str]:
        """Returns the processes that still run and the shared memory regions that are still there."""
        processes = [f"process {process.pid}" for process in self.seen if alive(process)]
        regions = [path.name for process in self.seen for path in Path("/dev/shm").glob(f"fitserve-{process.pid}-*")]
        return processes + regions


def _part_of(process: psutil.Process) -> str:
    try:
        words, parent = " ".join(process.cmdline()), process.parent()
        parent_words = " ".join(parent.cmdline()) if parent is not None else ""
    except psutil.Error:
        return ""
    if "triton_python_backend_stub" in words:
        return "stub" if f"/{STEADY}/" in words else "another stub"
    if "bin/tritonserver" in words:
        return "triton"
    if "triton_runtime" in words:
        return "launcher"
    if "training serve" in words:  # a forked process keeps the words of its parent
        return "training" if "training serve" in parent_words else "fork-server"
    return "service" if words.endswith("-m service") else ""


class Scene:
    """A service with a model that is loaded, one that is not, and callers.

    Args:
        directory: Where the service keeps its state.
        settings: The service's settings.
    """

    def __init__(self, directory: Path, **settings: str) -> None:
        self._directory = directory
        self._settings = settings
        random = np.random.default_rng(7)
        self.rows = random.normal(size=(400, 4)).astype(np.float32)
        self.labels = (self.rows[:, 0] + self.rows[:, 1] > 0).astype(np.int64)
        self._start()
        jobs = [self._fit_small(STEADY, load=True), self._fit_small(RESTING)]
        for job in jobs:
            job.wait(120)
        self.expected: Labels = np.asarray(self.client.predict(STEADY, self.rows[:50]))
        self.loaded: set[str] = {STEADY}
        self._fits = 0

    def _start(self) -> None:
        self.service = ServiceProcess(self._directory, **self._settings)
        self.family = Family(self.service)
        self.client = fitserve.Client(self.service.address, timeout=60.0)

    def _fit_small(self, model: str, load: bool = False) -> fitserve.Job:
        return self.client.fit(model, self.rows, self.labels, algorithm="logistic_regression", load=load, queue=True)

    def fit(self, trees: int = 100) -> fitserve.Job:
        """Starts the training of a new model."""
        self._fits += 1
        name = f"fit-{self._fits}"
        return self.client.fit(name, self.rows, self.labels, algorithm="random_forest", n_estimators=trees, queue=True)

    def restart(self) -> None:
        """Starts the service again after its end."""
        self.client.close()
        self._start()

    def stop(self) -> None:
        """Ends the service as an operator would, and checks that nothing is left of it."""
        self.client.close()
        self.family.members()
        assert self.service.stop() == 0
        assert self.family.leftovers() == []

    # -- what goes on while something is killed ----------------------------------------------------------------------

    @contextmanager
    def callers(self) -> Iterator[Callers]:
        """Predicts from several threads, one of them over a stream, as long as the block runs."""
        callers = Callers(self)
        with callers:
            yield callers
        assert callers.surprises == [], callers.surprises
        assert callers.answers > 0

    def load(self) -> None:
        """Loads the resting model, and notes it if that is acknowledged."""
        self._attempt(lambda: self.client.load(RESTING), lambda: self.loaded.add(RESTING))

    def unload(self) -> None:
        """Unloads the resting model, and notes it if that is acknowledged."""
        self._attempt(lambda: self.client.unload(RESTING), lambda: self.loaded.discard(RESTING))

    def _attempt(self, call: Callable[[], object], done: Callable[[], None]) -> None:
        if _passed(call):
            done()

    def triton_restarts(self) -> int:
        """Returns how often Triton was started again."""
        triton = self.client.status().triton
        assert triton is not None
        return triton.restart_count

    def free_cores(self) -> int:
        """Returns the cores that no job has."""
        training = self.client.status().training
        assert training is not None
        return training.free_cores

    # -- what must hold ----------------------------------------------------------------------------------------------

    def wait_until_it_answers(self) -> None:
        """Returns when the loaded model answers, and rightly, without anyone having asked for it."""
        wait_until(self._answers, "the loaded model answers again")

    def check(self, jobs: list[fitserve.Job]) -> None:
        """Checks that all that was acknowledged is there, and that the next calls work."""
        self.wait_until_it_answers()
        for job in jobs:
            self._check_end(job)
        self._check_versions()
        if RESTING in self.loaded:
            wait_until(lambda: self.client.model(RESTING).serving_version == 1, "an acknowledged load is kept")
        wait_until(self._fits_again, "a fit succeeds", 90)

    def _answers(self) -> bool:
        answers: list[object] = []
        called = _passed(lambda: answers.append(self.client.predict(STEADY, self.rows[:50], timeout=5)))
        return called and np.array_equal(np.asarray(answers[0]), self.expected)

    def _fits_again(self) -> bool:
        """Whether a new fit succeeds; one that is sent while the fork server is dying dies with it."""
        job = self._fit_small(f"after-{time.monotonic_ns()}")
        for _ in job.watch(60):
            pass
        assert job.latest.error is None or job.latest.error.reason == "TRAINER_DIED"
        return job.state == "SUCCEEDED"

    def _check_end(self, job: fitserve.Job) -> None:
        for _ in job.watch(60):
            pass
        end = job.latest
        made = [version.job for model in self.client.models() if model.name == end.model for version in model.versions]
        if end.state == "SUCCEEDED":
            assert made == [end.id]
        else:
            assert end.error is not None
            assert end.error.reason in ("TRAINER_DIED", "JOB_INTERRUPTED")
            assert made == []

    def _check_versions(self) -> None:
        """What is listed is what is on disk, each version whole."""
        listed = {(model.name, version.version) for model in self.client.models() for version in model.versions}
        on_disk = {
            (path.parent.name, int(path.name))
            for path in self.service.model_dir.glob("[a-z]*/[0-9]*")
            if (path / "manifest.json").is_file() and any(path.glob("model.*"))
        }
        assert listed == on_disk
        states = {version.state for model in self.client.models() for version in model.versions}
        assert "FAILED" not in states
        succeeded = {(job.model, job.version) for job in self.client.jobs(states=["SUCCEEDED"])}
        assert succeeded == listed


def _passed(call: Callable[[], object]) -> bool:
    """Makes a call under which something may be killed; returns whether it was answered well.

    Raises:
        FitServeError: It failed in a way that no kill explains.
    """
    try:
        call()
    except errors.FitServeError as error:
        if error.code not in _PASSING:
            raise
        return False
    return True


class Callers:
    """Threads that predict with the steady model until the block ends.

    Attributes:
        answers: The number of right answers.
        surprises: Wrong answers, and errors that no kill explains.
    """

    def __init__(self, scene: Scene, count: int = 1) -> None:
        self._scene = scene
        self._stopping = threading.Event()
        self.answers = 0
        self.surprises: list[str] = []
        targets = [*[self._call] * count, self._stream]
        self._threads = [threading.Thread(target=self._run, args=(target,)) for target in targets]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        wait_until(lambda: self.answers > 5 or bool(self.surprises), "the callers get answers")
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(CALL_SECONDS + 10)
        if any(thread.is_alive() for thread in self._threads):
            self.surprises.append("a call is never answered")

    def _run(self, target: Callable[[fitserve.Client], None]) -> None:
        with fitserve.Client(self._scene.service.address, timeout=CALL_SECONDS) as client:
            while not self._stopping.is_set():
                try:
                    target(client)
                except errors.FitServeError as error:
                    if error.code not in _PASSING:
                        self.surprises.append(str(error))
                    self._stopping.wait(0.05)
                except Exception as error:
                    self.surprises.append(repr(error))
                    return

    def _call(self, client: fitserve.Client) -> None:
        self._take(np.asarray(client.predict(STEADY, self._scene.rows[:50])))
        self._stopping.wait(0.002)  # the tests share the machine with the service

    def _stream(self, client: fitserve.Client) -> None:
        def batches() -> Iterator[npt.NDArray[np.float32]]:
            while not self._stopping.is_set():
                yield self._scene.rows[:50]
                self._stopping.wait(0.002)

        for answer in client.predict_stream(STEADY, batches(), on_error="yield"):
            if isinstance(answer, errors.FitServeError):
                if answer.code not in _PASSING:
                    self.surprises.append(str(answer))
                self._stopping.wait(0.01)
            else:
                self._take(np.asarray(answer.predictions))

    def _take(self, predictions: Labels) -> None:
        if not np.array_equal(predictions, self._scene.expected):
            self.surprises.append(f"wrong predictions: {predictions}")
        self.answers += 1
