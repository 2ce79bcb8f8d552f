"""What the README shows works: its shell lines, its Python, its settings, its commands."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from service.settings import Settings
from tests.service_process import ROOT, ServiceProcess

README = (ROOT / "README.md").read_text()
ADDRESS = "127.0.0.1:50051"


def blocks(language: str) -> list[str]:
    """Returns the README's code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def shell_lines(tool: str) -> list[str]:
    """Returns the README's shell lines that begin with a tool's name."""
    return [line for block in blocks("sh") for line in block.splitlines() if line.startswith(tool)]


def run_shell(lines: list[str], service: ServiceProcess) -> list[str]:
    """Runs lines one after another, each with the JOB of the first one's answer, and returns their outputs."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "JOB": ""}
    outputs = []
    for line in lines:
        command = line.replace(ADDRESS, service.address)
        done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        outputs.append(done.stdout)
        environment["JOB"] = environment["JOB"] or json.loads(outputs[0])["job"]["id"]
    return outputs


@pytest.mark.parametrize("tool", ["grpcurl", "buf curl"])
def test_the_shell_lines_train_watch_load_predict_and_remove(tool: str, service: ServiceProcess) -> None:
    if tool == "grpcurl" and not shutil.which("grpcurl"):
        pytest.skip("grpcurl is not on PATH; go install github.com/fullstorydev/grpcurl/cmd/grpcurl@latest")
    lines = shell_lines(tool)
    assert len(lines) == 5
    fit, watch, load, predict, remove = run_shell(lines, service)
    assert json.loads(fit)["job"]["state"] == "JOB_STATE_RUNNING"
    assert "JOB_STATE_SUCCEEDED" in watch
    assert json.loads(load)["model"]["state"] == "MODEL_STATE_LOADED"
    assert json.loads(predict)["predictions"] in (["versicolor"], [1, 0])
    assert len(json.loads(remove)["removedVersions"]) == 1


def test_the_python_snippet_runs(service: ServiceProcess, capsys: pytest.CaptureFixture[str]) -> None:
    (snippet,) = blocks("python")
    exec(compile(snippet.replace(ADDRESS, service.address), "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "['setosa' 'setosa' 'setosa']" in printed
    assert "MODEL_NOT_FOUND there is no model 'irs'" in printed


def test_the_settings_table_names_every_setting_and_no_other() -> None:
    named = re.findall(r"^\| `([A-Z_]+)` \|", README, re.MULTILINE)
    assert named == [name.upper() for name in Settings.model_fields]


def test_the_algorithm_table_names_every_algorithm_of_the_contract() -> None:
    from fitserve.v1 import training_service_pb2

    oneof = training_service_pb2.FitRequest.DESCRIPTOR.oneofs_by_name["algorithm"]
    named = re.findall(r"^\| `([a-z_]+)` \|", README, re.MULTILINE)
    assert named == [field.name for field in oneof.fields]


def test_every_file_that_the_readme_links_to_exists() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
