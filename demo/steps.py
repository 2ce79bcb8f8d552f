"""The steps of the demo, one function each. Each returns its figures, or raises DemoFailed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import fitserve
import numpy as np
from fitserve import errors
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from demo.exercises import SEED, Exercise, Features
from demo.figures import STREAM_ROWS, Refusal
from demo.service import DemoFailed

STREAM_BATCH = 500
SINGLE_ROWS = 200
READY_SECONDS = 120.0
POLL_SECONDS = 0.03
SPARE = "spare"
"""A model more than may be loaded."""


@dataclass(frozen=True)
class Training:
    """What came of fitting all models at the same time."""

    seconds: dict[str, float]
    in_parallel: int


def wait_for_interpreter(client: fitserve.Client) -> None:
    """Returns when an interpreter with all libraries stands ready, so that the fits' times are those of the fits."""
    deadline = time.monotonic() + READY_SECONDS
    while not client.status().training.idle_interpreter_count:
        if time.monotonic() > deadline:
            raise DemoFailed(f"no interpreter for training was ready within {READY_SECONDS:.0f} s")
        time.sleep(POLL_SECONDS)


def fit_all(client: fitserve.Client, exercises: list[Exercise], console: Console) -> Training:
    """Fits all models at the same time, and shows how far each is: in bars, or in lines where there is no terminal."""
    jobs = [client.fit(e.model, *e.train, algorithm=e.parameters, seed=SEED, queue=True) for e in exercises]
    in_parallel = 0
    columns = (
        TextColumn("  {task.description:32}"),
        BarColumn(20),
        TaskProgressColumn(),
        TextColumn("{task.fields[at]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        lines = [bars.add_task(f"{e.model:9}{e.algorithm}", total=1.0, at="") for e in exercises]
        for job, line in zip(jobs, lines, strict=True):
            _show(job.latest, bars, line)
        while not all([_follow(job, bars, line) for job, line in zip(jobs, lines, strict=True)]):
            in_parallel = max(in_parallel, len(client.status().training.active_processes))
            time.sleep(POLL_SECONDS)
    return Training({job.model: _seconds(job.wait()) for job in jobs}, in_parallel)


def _follow(job: fitserve.Job, bars: Progress, line: TaskID) -> bool:
    """Asks how a job is, shows the news, and returns whether it has ended."""
    if job.latest.has_ended:
        return True
    before, latest = job.state, job.refresh()
    if latest.state != before or not bars.disable:
        _show(latest, bars, line)
    return latest.has_ended


def _show(job: fitserve.TrainingJob, bars: Progress, line: TaskID) -> None:
    if bars.disable:
        bars.console.print(f"  {job.model:9}{job.algorithm:23}{_where(job)}")
    else:
        bars.update(line, completed=job.progress, at=_where(job))


def _where(job: fitserve.TrainingJob) -> str:
    match job.state:
        case "QUEUED":
            return "waits for a core"
        case "RUNNING":
            return f"{job.step.unit} {job.step.number}/{job.step.total}" if job.step else "starts"
        case "SUCCEEDED":
            return f"done in {_seconds(job):.2f} s"
        case _:
            return job.state.lower()


def _seconds(job: fitserve.TrainingJob) -> float:
    assert job.start_time is not None
    assert job.end_time is not None
    return (job.end_time - job.start_time).total_seconds()


def load_all(client: fitserve.Client, exercises: list[Exercise]) -> str:
    """Loads all models and returns what the service then says is loaded."""
    for exercise in exercises:
        client.load(exercise.model)
    pool = client.status().models
    if {model.model for model in pool.loaded} != {exercise.model for exercise in exercises}:
        raise DemoFailed(f"loaded are {pool.loaded}")
    return f"{len(pool.loaded)} of {pool.limit}: " + ", ".join(f"{one.model} v{one.version}" for one in pool.loaded)


def single_row_milliseconds(client: fitserve.Client, exercise: Exercise) -> float:
    """Returns the median time of a call with one row, in milliseconds."""
    rows = exercise.test[0]
    times = []
    for number in range(SINGLE_ROWS):
        row = rows[number % len(rows)][None]
        start = time.perf_counter()
        client.predict(exercise.model, row)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1000


def stream(client: fitserve.Client, exercise: Exercise) -> tuple[int, float]:
    """Predicts many rows over one stream; returns their number and the seconds. All answers are compared with Predict's."""
    rows = np.resize(exercise.test[0], (STREAM_ROWS, *exercise.test[0].shape[1:]))
    expected = np.resize(client.predict(exercise.model, exercise.test[0]), STREAM_ROWS)
    start = time.perf_counter()
    answers = [answer.predictions for answer in client.predict_stream(exercise.model, _batches(rows))]
    seconds = time.perf_counter() - start
    predictions = np.concatenate(answers)
    if len(predictions) != len(expected):
        raise DemoFailed(f"{len(predictions)} of {len(expected)} rows came back from the stream")
    if wrong := np.count_nonzero(predictions != expected):
        raise DemoFailed(f"{wrong} of {len(expected)} answers of the stream are not Predict's")
    return len(predictions), seconds


def _batches(rows: Features) -> Iterator[Features]:
    for start in range(0, len(rows), STREAM_BATCH):
        yield rows[start : start + STREAM_BATCH]


def refusals(client: fitserve.Client, exercises: list[Exercise], cores: int) -> list[Refusal]:
    """Loads one model and fits one model too many; returns how the service refused."""
    tumours = next(exercise for exercise in exercises if exercise.algorithm == "random_forest")
    client.fit(SPARE, *tumours.train, algorithm="logistic_regression", queue=True).wait()
    too_many_loaded = _refused("load one model too many", lambda: client.load(SPARE))
    digits = next(exercise for exercise in exercises if exercise.algorithm == "torch_cnn")
    long = client.fit("long", *digits.train, algorithm="torch_cnn", epochs=100_000, cores=cores, queue=True)
    try:
        too_many_fits = _refused(
            "fit one model too many", lambda: client.fit("extra", *tumours.train, algorithm="logistic_regression")
        )
    finally:
        long.cancel()
    return [too_many_loaded, too_many_fits]


def _refused(what: str, call: Callable[[], object]) -> Refusal:
    """Makes a call that must be refused. Raises DemoFailed if it is not."""
    try:
        call()
    except errors.FitServeError as error:
        return Refusal(what, error.code.name, error.reason, error.message)
    raise DemoFailed(f"the service did not refuse to {what}")


def take_down(client: fitserve.Client, exercises: list[Exercise]) -> None:
    """Unloads and removes one model, then removes all. Raises DemoFailed if anything is left."""
    first = exercises[0].model
    client.unload(first)
    client.remove(first)
    if first in {model.name for model in client.models()}:
        raise DemoFailed(f"{first} is left after Remove")
    client.remove_all(force=True)
    if left := [model.name for model in client.models()]:
        raise DemoFailed(f"models are left after RemoveAll: {left}")
    if loaded := client.status().models.loaded:
        raise DemoFailed(f"models are loaded after RemoveAll: {loaded}")
