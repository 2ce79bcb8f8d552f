"""Triton's load tool `perf_analyzer` measures the service, by the Open Inference Protocol.

Its wheel on PyPI wants glibc 2.38; where that is only in a chroot, PERF_ANALYZER holds the command that runs it there.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess

import pytest

from tests.service_process import ROOT, ServiceProcess

FIGURES = ("Throughput", "Inference count", "Execution count", "Successful request count", "queue", "compute infer")


@pytest.fixture(scope="module")
def perf_analyzer() -> list[str]:
    """The command, to which options are added."""
    command = os.environ.get("PERF_ANALYZER") or shutil.which("perf_analyzer")
    if not command:
        pytest.skip("perf_analyzer is not on PATH and PERF_ANALYZER is not set; docs/operations.md says how to get it")
    return shlex.split(command)


def measure(command: list[str], service: ServiceProcess, model: str, *options: str) -> dict[str, float]:
    """Returns the figures of a short run; it need not be stable."""
    fixed = ["-m", model, "-i", "grpc", "-u", service.address, "--request-count", "300", *options]
    done = subprocess.run([*command, *fixed], capture_output=True, text=True, timeout=120)
    report = done.stdout + done.stderr
    found = {name: re.search(rf"{name}:? ([\d.]+)", report) for name in FIGURES}
    assert all(found.values()), report
    assert "Failed" not in report, report
    return {name: float(match[1]) for name, match in found.items() if match}


DOCUMENTED = "perf_analyzer -m iris -i grpc -u 127.0.0.1:50051 "


def documented() -> tuple[str, ...]:
    """Returns the options of the line in docs/operations.md that follow the address."""
    text = (ROOT / "docs/operations.md").read_text()
    (line,) = (line for line in text.splitlines() if line.startswith(DOCUMENTED))
    return tuple(line.removeprefix(DOCUMENTED).split())


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--async", "--concurrency-range", "32"),
        documented(),
        ("-b", "8"),
    ],
    ids=" ".join,
)
def test_perf_analyzer_measures_and_reads_our_statistics(
    perf_analyzer: list[str], service: ServiceProcess, oip_iris: str, options: tuple[str, ...]
) -> None:
    figures = measure(perf_analyzer, service, oip_iris, *options)
    rows = 8 if "-b" in options else 1
    assert figures["Throughput"] > 10
    assert figures["Successful request count"] >= 300
    assert figures["Inference count"] == rows * figures["Successful request count"]
    assert figures["Execution count"] <= figures["Successful request count"]
