"""What docs/load-testing.md shows works."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.load.agreement import differences
from tests.load.stage import GHZ, Stage
from tests.service_process import ROOT

LINES = [
    line
    for block in re.findall(r"```sh\n(.*?)```", (ROOT / "docs/load-testing.md").read_text(), re.DOTALL)
    for line in block.splitlines()
]


def run(line: str, stage: Stage, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    command = line.replace("127.0.0.1:50051", stage.address).replace("report.json", str(tmp_path / "report.json"))
    path = f"{Path(sys.executable).parent}:{ROOT / '.tools'}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("line", LINES)
def test_every_shell_line_runs_the_load(line: str, stage: Stage, tmp_path: Path) -> None:
    if line.startswith("ghz") and not GHZ:
        pytest.skip("ghz is neither on PATH nor in .tools; make tools installs it where there is a Go")
    done = run(line, stage, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    written = tmp_path / "report.json"
    report = json.loads(written.read_text() if written.exists() else done.stdout)
    assert report["statusCodeDistribution"] == {"OK": 150}


def test_a_threshold_that_is_not_held_fails_the_command(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "slo.toml").write_text('average = "1ns"')
    done = run(f"python -m benchmarks.ghz --config tests/load/unknown_model.json --slo {tmp_path}/slo.toml 127.0.0.1:50051",
               stage, tmp_path)  # fmt: skip
    assert done.returncode == 1
    assert "average is" in done.stderr
    assert "error rate is 100.00%" in done.stderr


def test_a_configuration_that_cannot_be_run_says_why_on_one_line(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "load.json").write_text('{"call": "fitserve.v1.PredictionService.Predictt", "insecure": true}')
    done = run(f"python -m benchmarks.ghz --config {tmp_path}/load.json 127.0.0.1:50051", stage, tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        "call: service 'fitserve.v1.PredictionService' has no method 'Predictt'\n",
    )


def test_reports_that_differ_are_told_apart(stage: Stage) -> None:
    report = stage.report(ROOT / "tests/load/unknown_model.json", "fitserve")
    assert differences(report, report) == []
    assert differences(report, report | {"count": 91}) == ["count: 90 here, 91 in ghz"]
    assert "tags" in differences(report, report | {"tags": {"a": "b"}})[0]
    assert "average" in differences(report, report | {"average": report["average"] + 10**12})[0]
