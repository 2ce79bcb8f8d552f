"""Jobs while what they depend on hangs: Triton, or the database."""

from __future__ import annotations

import signal
import sqlite3
import time
from contextlib import closing

import fitserve
import numpy as np
import psutil
import pytest

from tests.chaos.scene import Family, wait_until
from tests.conftest import StartService
from tests.service_process import ServiceProcess

pytestmark = pytest.mark.xdist_group("chaos-jobs")

ROWS = np.random.default_rng(7).normal(size=(100, 4)).astype(np.float32)
LABELS = (ROWS[:, 0] > 0).astype(np.int64)


def fit(client: fitserve.Client, model: str, **options: object) -> fitserve.Job:
    arguments = {"algorithm": "logistic_regression", "queue": True} | options
    return client.fit(model, ROWS, LABELS, **arguments)  # type: ignore[arg-type]


def published(client: fitserve.Client, model: str) -> bool:
    return any(found.name == model for found in client.models())


def hanging_triton(service: ServiceProcess) -> list[psutil.Process]:
    processes = Family(service).part("triton")
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    assert processes
    return processes


def test_neither_cancel_nor_stop_waits_for_a_load_that_hangs(start_service: StartService) -> None:
    service = start_service(GRACE_SECONDS="1")
    with fitserve.Client(service.address) as client:
        hanging_triton(service)
        jobs = [fit(client, model, load=True) for model in ("one", "two")]
        wait_until(lambda: published(client, "one") and published(client, "two"), "both versions are published")
        began = time.monotonic()
        cancelled = jobs[0].cancel()
        assert time.monotonic() - began < 2
        assert cancelled.state == "SUCCEEDED"
        assert cancelled.load_error is not None
        assert cancelled.load_error.reason == "CANCELLED"
        assert client.model("one").versions[0].metrics == cancelled.metrics
        began = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - began < 12, "the grace period is one second, and Triton hangs"
        assert "Traceback" not in service.log.read_text()
    service = start_service()
    with fitserve.Client(service.address) as client:
        end = client.job(jobs[1].id).latest
        assert end.state == "SUCCEEDED"
        assert end.load_error is not None
        assert end.load_error.reason in ("JOB_INTERRUPTED", "TRITON_UNAVAILABLE")
        assert client.load("two").serving_version == 1


def test_the_end_of_a_job_is_told_while_the_database_is_locked_and_durable_later(start_service: StartService) -> None:
    service = start_service()
    file = service.model_dir / ".fitserve" / "fitserve.db"
    with fitserve.Client(service.address) as client, closing(sqlite3.connect(file, isolation_level=None)) as other:
        job = fit(client, "iris", algorithm="random_forest", n_estimators=1000)
        wait_until(lambda: job.refresh().train_row_count > 0, "the training has begun")
        other.execute("BEGIN IMMEDIATE")
        end = job.wait(20)
        assert end.state == "SUCCEEDED"
        assert client.job(job.id).latest.metrics == end.metrics
        assert other.execute("SELECT state FROM jobs").fetchall() == [("running",)]
        other.execute("COMMIT")
        query = "SELECT state FROM jobs"
        wait_until(lambda: other.execute(query).fetchall() == [("succeeded",)], "the end is in the database", 20)
        assert service.stop() == 0
    log = service.log.read_text()
    assert "Traceback" not in log
    assert f"job {job.id}, succeeded, is not in the database" in log
