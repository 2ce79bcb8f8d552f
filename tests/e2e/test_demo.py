"""`make demo` does what the README says of it."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.service_process import ROOT

MODEL_KEYS = {"model", "algorithm", "task", "fit_seconds", "score", "reference_score", "single_row_ms_p50"}
FAMILIES = {"torch_cnn": "torch", "random_forest": "scikit-learn", "xgboost": "xgboost"}


def test_the_demo_ends_well_and_its_last_line_holds_the_figures() -> None:
    demo = subprocess.run(
        [sys.executable, "-m", "demo", "--json"], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    figures = json.loads(demo.stdout.splitlines()[-1])
    assert len(figures["models"]) >= 4
    for model in figures["models"]:
        assert set(model) == MODEL_KEYS
        assert model["fit_seconds"] > 0
        assert model["single_row_ms_p50"] > 0
        assert abs(model["score"] - model["reference_score"]) <= 0.01
    assert set(FAMILIES) <= {model["algorithm"] for model in figures["models"]}
    assert {model["task"] for model in figures["models"]} == {"classification", "regression"}
    assert figures["fits_in_parallel"] >= 2
    assert figures["stream_rows"] == 100_000
    assert figures["stream_rows_per_second"] > 0
    assert [(refusal["code"], refusal["reason"]) for refusal in figures["refusals"]] == [
        ("RESOURCE_EXHAUSTED", "TOO_MANY_LOADED_MODELS"),
        ("RESOURCE_EXHAUSTED", "NO_FREE_CORES"),
    ]
    assert all(refusal["what"] and refusal["message"] for refusal in figures["refusals"])
