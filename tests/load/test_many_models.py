"""Fifty small models at once: all answer, and come back with Triton; and what memory each takes."""

from __future__ import annotations

from contextlib import suppress

import fitserve
import psutil
import pytest

from tests.conftest import StartService
from tests.contract.test_training import SPECIES, X, wait_until
from tests.service_process import ServiceProcess

MODELS = [f"small-{number}" for number in range(50)]
MOST_MEGABYTES = 50.0
"""The most memory that one more small model may take; with the embedded Triton it is a process with onnxruntime."""


def memory(service: ServiceProcess) -> float:
    """Returns the memory of Triton and all its models in MB; what processes share counts once."""
    total = 0
    for process in service.family():
        with suppress(psutil.Error):
            if process.name() in ("tritonserver", "triton_python_backend_stub"):
                total += process.memory_full_info().pss
    return total / 1e6


def all_answer(client: fitserve.Client) -> bool:
    return all((client.predict(model, X) == SPECIES).mean() > 0.9 for model in MODELS)


@pytest.mark.long
def test_fifty_small_models_answer_and_come_back_with_triton(
    start_service: StartService, capsys: pytest.CaptureFixture[str]
) -> None:
    service = start_service(MAX_LOADED_MODELS=str(len(MODELS)))
    with fitserve.Client(service.address) as client:
        jobs = [
            client.fit(model, X, SPECIES, algorithm="random_forest", n_estimators=10, queue=True) for model in MODELS
        ]
        for job in jobs:
            job.wait(300)
        client.load(MODELS[0])
        first = memory(service)
        for model in MODELS[1:]:
            client.load(model)
        assert all_answer(client)
        each = (memory(service) - first) / (len(MODELS) - 1)
        with capsys.disabled():
            print(f"\none more small model takes {each:.0f} MB of Triton's memory")
        (server,) = (process for process in service.family() if process.name() == "tritonserver")
        server.kill()
        wait_until(lambda: client.status().triton.restart_count == 1, 120)
        assert all_answer(client)
        assert len(client.status().models.loaded) == len(MODELS)
    assert each < MOST_MEGABYTES
