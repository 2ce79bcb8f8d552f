"""What a Fit costs beside the training itself, and how well several share the cores."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import fitserve
import numpy as np
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from threadpoolctl import threadpool_limits

from benchmarks.findings import Finding, Goal
from benchmarks.subjects.fitserve_service import FitServe
from benchmarks.work import Features, Predictions

TREES = 100
PARALLEL_TREES = 150
PARALLEL_ROWS = 6000
BESIDE_TRAINING = Goal(
    "fit_150_rows_beside_training_ms",
    "Fit of a forest on 150 rows, from call to version published, less the library's own fit",
    "ms",
    bound=250.0,
    least=False,
)


def measure(directory: Path, rounds: int, say: Callable[[str], None]) -> list[Finding]:
    """Runs a service that may train on all cores, and nothing else, and measures both.

    Args:
        directory: For the service's models.
        rounds: How often.
        say: Told of each figure.
    """
    cores = os.cpu_count() or 1
    service = FitServe(directory, {}, TRAINING_CORES=str(cores))
    try:
        with fitserve.Client(service.address) as client:
            _published(client, "warm-up", *_iris(), TREES)  # the first one waits for the libraries
            return [_beside_training(client, rounds, say), _in_parallel(client, cores, rounds, say)]
    finally:
        service.process.stop()


def _beside_training(client: fitserve.Client, rounds: int, say: Callable[[str], None]) -> Finding:
    """Measures the Fit of a forest on the 150 rows of iris, less what the library alone takes on the same rows."""
    features, targets = _iris()
    found, details = [], []
    for number in range(max(rounds, 5)):
        seconds = _published(client, f"iris-{number}", features, targets, TREES)
        alone = _library_seconds(features, targets)
        found.append((seconds - alone) * 1e3)
        details.append({"fit_ms": round(seconds * 1e3, 1), "library_ms": round(alone * 1e3, 1)})
        say(f"Fit of 150 rows: {details[-1]}")
    return Finding(BESIDE_TRAINING, found, "the library's fit", details={"rounds": details})


def _in_parallel(client: fitserve.Client, cores: int, rounds: int, say: Callable[[str], None]) -> Finding:
    """Measures as many equal fits as there are cores, one after the other and all at once."""
    rows = np.random.default_rng(0).normal(size=(PARALLEL_ROWS, 20)).astype(np.float32)
    labels = rows[:, 0] + rows[:, 1] > 0
    found, details = [], []
    for number in range(rounds):
        began = time.monotonic()
        for core in range(cores):
            _published(client, f"alone-{number}-{core}", rows, labels, PARALLEL_TREES)
        alone = time.monotonic() - began
        began = time.monotonic()
        jobs = [_fit(client, f"together-{number}-{core}", rows, labels, PARALLEL_TREES) for core in range(cores)]
        for job in jobs:
            job.wait()
        together = time.monotonic() - began
        found.append(alone / together)
        details.append({"one_after_another_s": round(alone, 3), "in_parallel_s": round(together, 3)})
        say(f"{cores} fits on {cores} cores: {details[-1]}")
    what = f"{cores} Fits in parallel on {cores} training cores, against one after another"
    goal = Goal("parallel_fits_speedup", what, "x", 0.9 * cores)
    return Finding(goal, found, "one after another", details={"rounds": details})


def _fit(client: fitserve.Client, name: str, features: Features, targets: Predictions, trees: int) -> fitserve.Job:
    return client.fit(name, features, targets, algorithm="random_forest", n_estimators=trees)


def _published(client: fitserve.Client, name: str, features: Features, targets: Predictions, trees: int) -> float:
    """Fits, and returns the seconds until the version is published."""
    began = time.monotonic()
    _fit(client, name, features, targets, trees).wait()
    return time.monotonic() - began


def _library_seconds(features: Features, targets: Predictions) -> float:
    """Returns how long the library takes to fit the same on one core; of three times the shortest, as imports come first."""
    seconds = []
    with threadpool_limits(1):
        for _ in range(3):
            began = time.monotonic()
            RandomForestClassifier(TREES, random_state=0, n_jobs=1).fit(features, targets)
            seconds.append(time.monotonic() - began)
    return min(seconds)


def _iris() -> tuple[Features, Predictions]:
    iris = load_iris()
    return iris.data.astype(np.float32), iris.target
