"""The steps of the demo, one function each. Each returns its figures, or raises DemoFailed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import fitserve
import numpy as np
from fitserve import errors
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

from demo.exercises import Exercise
from demo.reference import score
from demo.service import DemoFailed

STREAM_ROWS = 100_000
STREAM_BATCH = 500
SINGLE_ROWS = 200
SPARE = "spare"
"""A model more than may be loaded."""


@dataclass(frozen=True)
class Refusal:
    """A call that the service has refused, as it should."""

    what: str
    code: str
    reason: str
    message: str


@dataclass(frozen=True)
class Training:
    """What came of fitting all models at the same time."""

    seconds: dict[str, float]
    in_parallel: int


def wait_for_interpreter(client: fitserve.Client) -> None:
    """Returns when an interpreter with all libraries stands ready, so that the fits' times are those of the fits."""
    while not client.status().training.idle_interpreter_count:
        time.sleep(0.05)


def fit_all(client: fitserve.Client, exercises: list[Exercise], console: Console) -> Training:
    """Fits all models at the same time, with a progress bar for each."""
    jobs = [client.fit(e.model, *e.train, algorithm=e.parameters, seed=0, queue=True) for e in exercises]
    in_parallel = 0
    with _progress(console) as bars:
        lines = [bars.add_task(f"{e.model:9} {e.algorithm}", total=1.0) for e in exercises]
        while not all([_show(job, bars, line) for job, line in zip(jobs, lines, strict=True)]):
            in_parallel = max(in_parallel, len(client.status().training.active_processes))
            time.sleep(0.02)
    if in_parallel < 2:
        raise DemoFailed(f"at most {in_parallel} training processes were seen at one time; 2 were wanted")
    return Training({job.model: _seconds(job.wait()) for job in jobs}, in_parallel)


def _progress(console: Console) -> Progress:
    columns = (TextColumn("  {task.description:34}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)


def _show(job: fitserve.Job, bars: Progress, line: TaskID) -> bool:
    """Moves a job's bar and returns whether the job has ended."""
    if job.state not in ("QUEUED", "RUNNING"):
        return True
    latest = job.refresh()
    bars.update(line, completed=latest.progress)
    return latest.state not in ("QUEUED", "RUNNING")


def _seconds(job: fitserve.TrainingJob) -> float:
    assert job.start_time is not None
    assert job.end_time is not None
    return (job.end_time - job.start_time).total_seconds()


def scores(client: fitserve.Client, exercises: list[Exercise]) -> dict[str, float]:
    """Returns the score of each loaded model on its test rows."""
    return {e.model: score(e, client.predict(e.model, e.test[0])) for e in exercises}


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
    if not np.array_equal(predictions, expected):
        wrong = np.count_nonzero(predictions != expected) if len(predictions) == len(expected) else "other"
        raise DemoFailed(f"the stream's answers differ from Predict's: {wrong} of {STREAM_ROWS} rows")
    return len(predictions), seconds


def _batches(rows: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(rows), STREAM_BATCH):
        yield rows[start : start + STREAM_BATCH]


def refusals(client: fitserve.Client, exercises: list[Exercise], cores: int) -> list[Refusal]:
    """Loads one model and fits one model too many; returns how the service refused."""
    tumours = next(exercise for exercise in exercises if exercise.algorithm == "random_forest")
    client.fit(SPARE, *tumours.train, algorithm="logistic_regression", queue=True).wait()
    too_many_loaded = refused("load one model too many", lambda: client.load(SPARE))
    digits = next(exercise for exercise in exercises if exercise.algorithm == "torch_cnn")
    long = client.fit("long", *digits.train, algorithm="torch_cnn", epochs=100_000, cores=cores)
    try:
        too_many_fits = refused(
            "fit one model too many", lambda: client.fit("extra", *tumours.train, algorithm="logistic_regression")
        )
    finally:
        long.cancel()
    return [too_many_loaded, too_many_fits]


def refused(what: str, call: Callable[[], object]) -> Refusal:
    """Makes a call that must be refused for want of room. Raises DemoFailed if it is not."""
    try:
        call()
    except errors.ResourceExhausted as error:
        return Refusal(what, error.code.name, error.reason, error.message)
    raise DemoFailed(f"the service did not refuse to {what}")


def take_down(client: fitserve.Client, exercises: list[Exercise]) -> None:
    """Unloads one model, removes one, then all. Raises DemoFailed if anything is left."""
    client.unload(exercises[0].model)
    client.remove(exercises[0].model)
    client.remove_all(force=True)
    if left := [model.name for model in client.models()]:
        raise DemoFailed(f"models are left after RemoveAll: {left}")
