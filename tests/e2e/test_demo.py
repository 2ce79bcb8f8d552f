"""`make demo` does what the README says of it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.service_process import ROOT

MODEL_KEYS = {"model", "algorithm", "task", "fit_seconds", "score", "reference_score", "single_row_ms_p50"}


@pytest.fixture(scope="module")
def demo() -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "demo", "--json"], cwd=ROOT, capture_output=True, text=True, timeout=240
    )


def test_the_demo_ends_well(demo: subprocess.CompletedProcess[str]) -> None:
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "All figures are as they should be" in demo.stdout


def test_its_last_line_holds_the_figures(demo: subprocess.CompletedProcess[str]) -> None:
    figures = json.loads(demo.stdout.splitlines()[-1])
    assert all(set(model) == MODEL_KEYS for model in figures["models"])
    families = {model["algorithm"].split("_")[0] for model in figures["models"]}
    assert {"torch", "random", "xgboost"} <= families
    assert all(model["fit_seconds"] > 0 and model["single_row_ms_p50"] > 0 for model in figures["models"])
    assert figures["fits_in_parallel"] >= 2
    assert figures["stream_rows"] == 100_000
    assert figures["stream_rows_per_second"] > 0
    assert [refusal["code"] for refusal in figures["refusals"]] == ["RESOURCE_EXHAUSTED"] * 2
