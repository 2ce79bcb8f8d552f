"""TRITON_URL: a Triton that somebody else runs, on the same model directory."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fitserve
import pytest
from fitserve import errors

from tests.conftest import StartService
from tests.contract.test_training import X, fit
from tests.service_process import ROOT

TRITON_PYTHON = Path(os.environ.get("FITSERVE_TRITON_PYTHON", ROOT / ".venv-triton/bin/python"))


@contextmanager
def triton(models: Path, port: int = 0) -> Iterator[str]:
    """Runs a Triton as an operator would and yields its address."""
    models.mkdir(parents=True, exist_ok=True)
    command = [TRITON_PYTHON, "-m", "triton_runtime", f"--model-repository={models}", f"--grpc-port={port}"]
    with subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as launcher:
        try:
            yield json.loads(launcher.stdout.readline())["address"]
        finally:
            launcher.terminate()
            launcher.wait(20)


def test_a_running_triton_serves_and_its_restart_is_noticed(start_service: StartService, tmp_path: Path) -> None:
    models = tmp_path / "service" / "models"
    with triton(models) as address:
        service = start_service(TRITON_URL=address)
        with fitserve.Client(service.address) as client:
            assert not client.status().triton.embedded
            fit(client, "iris", load=True).wait(60)
            assert client.predict("iris", X[:1]).tolist() == ["setosa"]
            first = address
    with fitserve.Client(service.address) as client:
        with pytest.raises(errors.Unavailable):
            client.predict("iris", X[:1])
        with triton(models, port=int(first.rpartition(":")[2])) as address:
            assert address == first
            deadline = time.monotonic() + 60
            while True:
                try:
                    assert client.predict("iris", X[:1]).tolist() == ["setosa"]
                    break
                except errors.Unavailable:
                    assert time.monotonic() < deadline
            assert service.stop() == 0
