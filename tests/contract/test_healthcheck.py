"""`python -m service.healthcheck`, as a container's engine runs it."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.conftest import StartService
from tests.service_process import ROOT


def check(listen: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service.healthcheck"],
        env=os.environ | {"LISTEN": listen},
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=30,
    )


def test_a_service_is_healthy_until_it_is_gone(start_service: StartService) -> None:
    service = start_service()
    assert check(service.address).returncode == 0
    everywhere = "0.0.0.0:" + service.address.rpartition(":")[2]
    assert check(everywhere).returncode == 0
    service.stop()
    gone = check(service.address)
    assert gone.returncode == 1
    assert "does not answer" in gone.stderr
