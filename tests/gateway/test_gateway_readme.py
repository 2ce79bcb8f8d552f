"""What the README and gateway/README.md say of REST holds: their `curl` lines, their settings."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess

import fitserve
import numpy as np
import pytest

from tests.conftest import StartService
from tests.e2e.test_readme import README, lines_of
from tests.gateway.conftest import StartGateway
from tests.gateway.test_gateway_process import SETTINGS
from tests.gateway_process import GatewayProcess, Json
from tests.service_process import ROOT

ADDRESS = "127.0.0.1:8080"
FIT = f"curl -s {ADDRESS}/v1/models/bloom:fit"
LINES = [line for line in lines_of("sh", README) if line.startswith("curl ")]


def call_of(line: str, document: Json) -> str:
    """Returns the call of the OpenAPI document that a `curl` line makes."""
    path = re.search(rf"{ADDRESS}([^\s'?]+)", line)[1]
    named = re.search(r"-X (\w+)", line)
    method = named[1].lower() if named else "post" if " -d " in line else "get"
    for template, calls in document["paths"].items():
        pattern = re.sub(r"\\\{\w+\\\}", "[^/:]+", re.escape(template))
        if re.fullmatch(pattern, path) and method in calls:
            return calls[method]["operationId"]
    return path


def test_each_call_has_a_curl_line(gateway: GatewayProcess) -> None:
    document = gateway.call("GET", "/openapi.json").json
    every = {call["operationId"] for calls in document["paths"].values() for call in calls.values()}
    assert {call_of(line, document) for line in LINES} == every | {"/v2/models/bloom/infer"}


def test_the_curl_lines_do_what_they_say(start_service: StartService, start_gateway: StartGateway) -> None:
    if not shutil.which("curl"):
        pytest.skip("curl is not on PATH; apt-get install curl installs it")
    service = start_service()
    gateway = start_gateway(service.address)
    document = gateway.call("GET", "/openapi.json").json
    with fitserve.Client(service.address) as client:
        digest = client.upload_dataset(np.eye(2, dtype=np.float32), ["a", "b"]).digest
    environment = os.environ | {"DATASET": digest, "JOB": ""}
    answers: dict[str, Json] = {}
    for line in LINES:
        command = line.replace(ADDRESS, gateway.address)
        done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        answer = json.loads(done.stdout.splitlines()[-1])
        assert "code" not in answer, f"{line}\n{answer}"
        answers[call_of(line, document)] = answer
        environment["JOB"] = answer["job"]["id"] if line.startswith(FIT) else environment["JOB"]
    assert answers["TrainingService_WatchTrainingJob"]["result"]["job"]["state"] == "JOB_STATE_SUCCEEDED"
    assert answers["ModelService_SetAlias"]["model"]["aliases"][0]["previous_version"] == 1
    assert answers["ModelService_RollbackAlias"]["model"]["aliases"][0]["version"] == 1
    assert answers["ModelService_Load"]["model"]["state"] == "MODEL_STATE_LOADED"
    assert answers["PredictionService_Predict"]["predictions"] == ["versicolor"]
    assert np.argmax(answers["/v2/models/bloom/infer"]["outputs"][0]["data"]) == 1
    assert [one["digest"] for one in answers["TrainingService_ListDatasets"]["datasets"]] == [digest]
    assert answers["ModelService_Remove"]["removed_versions"] == [1]


def test_the_settings_table_names_every_setting_and_no_other() -> None:
    text = (ROOT / "gateway/README.md").read_text()
    assert tuple(re.findall(r"^\| `(GATEWAY_\w+)` \|", text, re.MULTILINE)) == SETTINGS
