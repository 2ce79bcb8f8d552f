"""`make bench` measures, checks the answers and writes its results."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.service_process import ROOT

SUBJECTS = ["fitserve", "grpc-echo", "triton"]


@pytest.mark.skipif(not shutil.which("h2load"), reason="there is no h2load; it is in Debian's package nghttp2-client")
def test_a_short_run_measures_each_subject_and_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--only", "stream,lone", "--rounds", "1", "--seconds", "0.3"]
    options = ["--subjects", ",".join(SUBJECTS), "--results", str(tmp_path / "results"), "--no-plots"]
    bench = subprocess.run(
        [*command, *options],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert bench.returncode == 0, bench.stdout + bench.stderr
    results = json.loads((tmp_path / "results/latest.json").read_text())
    assert results["missing"] == {}
    assert results["ratios"]["stream256_vs_triton"] > 0
    assert not [figure["problem"] for figure in results["figures"] + results["latencies"] if figure["problem"]]
    assert {one["subject"] for one in results["latencies"]} == set(SUBJECTS)
    assert "stream256_vs_triton" in bench.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_an_unknown_section_is_refused_with_the_known_ones() -> None:
    bench = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--only", "speed"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert bench.returncode == 2
    assert "there is no section speed; there are unary, stream" in bench.stderr
