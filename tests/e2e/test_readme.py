"""What the README shows works: its shell lines, its Python, its settings, its commands."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import fitserve
import pytest
from sklearn.datasets import load_iris

from service.settings import Settings
from tests.service_process import ROOT, ServiceProcess

README = (ROOT / "README.md").read_text()
DOCUMENTS = {path: (ROOT / path).read_text() for path in ("README.md", "docs/operations.md")}
ADDRESS = "127.0.0.1:50051"


@dataclass(frozen=True)
class Tool:
    """A command line tool of the documents: how it comes here, and how its lines reach the service of the test.

    Attributes:
        install: The command that installs it.
        here: Returns what stands for the documents' addresses in a test.
    """

    install: str
    here: Callable[[ServiceProcess], dict[str, str]]


# A line of a `sh` block begins with one of these, and all lines of each are run. A new tool is added here.
TOOLS = {
    "grpcurl": Tool("make tools", lambda service: {ADDRESS: service.address}),
    "buf curl": Tool("make setup", lambda service: {ADDRESS: service.address}),
    "evans": Tool("make tools", lambda service: {"--port 50051": f"--port {service.address.partition(':')[2]}"}),
}

# The first words of lines that other tests run, and where those are.
ELSEWHERE = {
    "make": "tests/e2e/test_readme.py",
    "curl": "tests/gateway/test_gateway_readme.py",
    "docker": "tests/compose/test_compose.py",
    "perf_analyzer": "tests/contract/test_oip_perf_analyzer.py",
}

# What the end of a line is, and what its output shows; the first that fits counts. A line unlike these is added here.
ANSWERS = {
    r" (list|--list-services)": r"fitserve\.v1\.TrainingService\n",
    r" --list-methods": r"fitserve\.v1\.TrainingService/Fit\n",
    r" desc(ribe)? \S+RandomForest": r"// The number of trees\..*\n *optional int32 n_estimators = 1",
    r" desc(ribe)? \S+Load": r"// Loads a version into Triton",
    r"/Fit": r'"state": "JOB_STATE_RUNNING"',
    r"/WatchTrainingJob": r'"state": "JOB_STATE_SUCCEEDED"',
    r"/Load": r'"state": "MODEL_STATE_LOADED"',
    r"/ImportModel": r'"version": 1',
    r"/Predict": r'"predictions": \[\s*("Gentoo"|1,\s*0|\{\s*"similarity": 0\.\d+\s*\})\s*\]',
    r"/Remove": r'"removedVersions": \[\s*1\s*\]',
    r"[./]GetStatus( <<< '{}')?": r'"ready": true',
    r"Health/Check": r'"status": "SERVING"',
}


@pytest.fixture(scope="module", autouse=True)
def _examples(service: ServiceProcess) -> None:
    """What ships with the repository in its default model directory."""
    directory = service.model_dir / "text_similarity"
    if not directory.exists():
        shutil.copytree(ROOT / "model_repository" / "text_similarity", directory)


def blocks(text: str) -> list[tuple[str, str]]:
    """Returns a document's blocks of code, each with its language before it."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def lines_of(language: str, text: str) -> list[str]:
    """Returns the commands of the blocks of a language; lines that end with a backslash are joined with the next."""
    code = "".join(block for found, block in blocks(text) if found == language)
    return [line for line in code.replace("\\\n", "").splitlines() if line and not line.startswith("#")]


def run_python(library: str, service: ServiceProcess) -> None:
    """Runs the README's Python blocks that use a library, one after the other."""
    snippets = [code for language, code in blocks(README) if language == "python" and library in code]
    assert f"import {library}" in snippets[0]
    exec(compile("\n".join(snippets).replace(ADDRESS, service.address), "README.md", "exec"), {})


def tool_of(line: str) -> str | None:
    """Returns the name of the tool that a line calls."""
    return next((tool for tool in TOOLS if line.startswith(f"{tool} ")), None)


def answer_of(line: str) -> str | None:
    """Returns the pattern of a line's output."""
    return next((answer for end, answer in ANSWERS.items() if re.search(f"{end}$", line)), None)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_shell_line_is_run_by_a_test(document: str) -> None:
    text = DOCUMENTS[document]
    # No command hides in a block of another kind.
    assert {language for language, _ in blocks(text)} <= {"", "sh", "python", "yaml", "json"}
    lines = [line for line in lines_of("sh", text) + lines_of("", text) if line.split()[0] not in ELSEWHERE]
    assert lines
    assert [line for line in lines if tool_of(line) is None] == []
    assert [line for line in lines if answer_of(line) is None] == []


@pytest.mark.parametrize("tool", ELSEWHERE)
def test_lines_that_other_tests_run_are_there(tool: str) -> None:
    assert f"{tool} " in (ROOT / ELSEWHERE[tool]).read_text()


@pytest.mark.parametrize("tool", TOOLS)
def test_the_shell_lines_do_what_they_say(tool: str, service: ServiceProcess) -> None:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{ROOT}/.tools:{os.environ['PATH']}", "JOB": ""}
    if shutil.which(tool.split()[0], path=environment["PATH"]) is None:
        pytest.skip(f"{tool} is not on PATH; {TOOLS[tool].install} installs it")
    lines = [line for text in DOCUMENTS.values() for line in lines_of("sh", text) + lines_of("", text)]
    lines = [line for line in lines if tool_of(line) == tool]
    assert lines
    for line in lines:
        command = line
        for there, here in TOOLS[tool].here(service).items():
            assert there in command
            command = command.replace(there, here)
        done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        assert re.search(answer_of(line), done.stdout), f"{line}\n{done.stdout}"
        if line.endswith("Fit"):
            environment["JOB"] = json.loads(done.stdout)["job"]["id"]


def test_each_call_of_grpcurl_in_the_readme_has_a_twin_of_buf_curl() -> None:
    calls = {
        tool: [re.findall(r"fitserve\.v1\.\w+/\w+$", line) for line in lines_of("sh", README) if tool_of(line) == tool]
        for tool in ("grpcurl", "buf curl")
    }
    assert [call for call in calls["grpcurl"] if call] == [call for call in calls["buf curl"] if call]


def test_every_make_command_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z_-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for text in DOCUMENTS.values() for name in re.findall(r"(?:^|`)make ([a-z_-]+)", text, re.MULTILINE)}
    assert named
    assert named <= targets


def test_the_python_snippet_runs(service: ServiceProcess, capsys: pytest.CaptureFixture[str]) -> None:
    run_python("fitserve", service)
    printed = capsys.readouterr().out
    assert "['setosa' 'setosa' 'setosa']" in printed
    assert "MODEL_NOT_FOUND there is no model 'irs'" in printed
    assert "\n[0 0 0]\n2\n1\n['setosa' 'setosa' 'setosa']\n" in printed
    assert re.search(r"\n(1\.0|0\.9{9}\d*)\n\[\[1\.\]\n \[0\.\]\]\n", printed)
    assert "['Adelie' 'Adelie']" in printed
    assert "island CATEGORY Biscoe Dream Torgersen\n" in printed
    assert "\n['again']\n" in printed


def test_the_snippet_for_tritons_client_runs(service: ServiceProcess, capsys: pytest.CaptureFixture[str]) -> None:
    iris = load_iris()
    with fitserve.Client(service.address) as client:
        species = iris.target_names[iris.target]
        client.fit("iris", iris.data, species, algorithm="random_forest", queue=True).wait(60)
        run_python("tritonclient", service)
        client.remove("iris", force=True)
    printed = capsys.readouterr().out
    assert ":0:setosa'" in printed
    assert ":2:virginica'" in printed


def test_the_settings_table_names_every_setting_and_no_other() -> None:
    named = re.findall(r"^\| `([A-Z_]+)` \|", README, re.MULTILINE)
    assert named == [name.upper() for name in Settings.model_fields]


def test_the_algorithm_table_names_every_algorithm_of_the_contract() -> None:
    from fitserve.v1 import training_service_pb2

    oneof = training_service_pb2.FitRequest.DESCRIPTOR.oneofs_by_name["algorithm"]
    rows = re.findall(r"^\| ((?:`[a-z_]+`(?:, )?)+) \|", README, re.MULTILINE)
    named = [name for row in rows for name in re.findall("[a-z_]+", row)]
    assert sorted(named) == sorted(field.name for field in oneof.fields)


def test_every_file_that_the_readme_links_to_exists() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
