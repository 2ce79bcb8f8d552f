"""Models that an operator places in the model directory: they are found, served, and never changed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Literal

import fitserve
import grpc
import numpy as np
import pytest
from fitserve.v1 import model_pb2, model_service_pb2

from tests.conftest import StartService
from tests.contract.test_training import SPECIES, X
from tests.contract.wire import Stubs, error_of, stubs_of
from tests.operator_model import ECHO_CODE, ECHO_CONFIG, place
from tests.service_process import ROOT, ServiceProcess

GIVEN = [{"text": "a", "numbers": [1.0, 2.0]}]


def files_of(directory: Path) -> dict[str, bytes]:
    found = (path for path in directory.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(directory)): path.read_bytes() for path in found}


def state_of(client: fitserve.Client, name: str) -> str:
    return client.model(name).state


def test_it_is_found_loaded_used_and_unloaded_without_a_restart(
    service: ServiceProcess, client: fitserve.Client, name: str
) -> None:
    place(service.model_dir, name)
    assert name in [model.name for model in client.models()]
    assert state_of(client, name) == "STORED"
    client.load(name)
    assert client.predict(name, GIVEN)[0]["upper"] == "A"
    client.unload(name)
    assert state_of(client, name) == "STORED"
    with pytest.raises(fitserve.errors.FailedPrecondition):
        client.predict(name, GIVEN)


def test_a_load_alone_finds_it(service: ServiceProcess, client: fitserve.Client, name: str) -> None:
    place(service.model_dir, name)
    assert client.load(name).state == "LOADED"


def test_versions_are_its_numbered_directories(service: ServiceProcess, client: fitserve.Client, name: str) -> None:
    place(service.model_dir, name, versions=(1, 3))
    other = ECHO_CODE.replace(".upper()", ".lower()")
    (service.model_dir / name / "3" / "model.py").write_text(other)
    client.load(name, 1)
    client.load(name, 3, alongside=True)
    given = [{"text": "Aa", "numbers": [1.0]}]
    assert [client.predict(name, given, version=version)[0]["upper"] for version in (1, 3)] == ["AA", "aa"]


def test_several_copies_may_work(service: ServiceProcess, client: fitserve.Client, name: str) -> None:
    place(service.model_dir, name)
    assert client.load(name, instances=2).instances == 2
    assert client.predict(name, GIVEN)[0]["upper"] == "A"


def test_changed_files_are_served_after_the_next_load(
    service: ServiceProcess, client: fitserve.Client, name: str
) -> None:
    place(service.model_dir, name)
    client.load(name)
    client.unload(name)
    config = ECHO_CONFIG.format().replace('"count"', '"amount"')
    (service.model_dir / name / "config.pbtxt").write_text(config)
    (service.model_dir / name / "1" / "model.py").write_text(ECHO_CODE.replace('"count"', '"amount"'))
    client.load(name)
    assert client.predict(name, [{**GIVEN[0], "amount": 5}])[0]["sums"] == [8, 3]


def test_one_that_is_taken_away_is_gone(service: ServiceProcess, client: fitserve.Client, name: str) -> None:
    place(service.model_dir, name)
    assert state_of(client, name) == "STORED"
    (service.model_dir / name).rename(service.model_dir.parent / name)
    with pytest.raises(fitserve.errors.NotFound):
        client.model(name)


# -- nothing of it is changed or deleted -----------------------------------------------------------------------------


@pytest.mark.parametrize("force", [False, True])
def test_remove_is_refused(
    service: ServiceProcess, stubs: Stubs, client: fitserve.Client, name: str, force: bool
) -> None:
    place(service.model_dir, name)
    before = files_of(service.model_dir / name)
    client.load(name)
    for version in (None, 1):
        request = model_service_pb2.RemoveRequest(model=name, version=version, force=force)
        refused = error_of(lambda request=request: stubs.models.Remove(request))  # type: ignore[misc]
        assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "OPERATOR_MODEL")
    assert files_of(service.model_dir / name) == before
    assert client.predict(name, GIVEN)[0]["upper"] == "A"


def test_remove_all_leaves_it_and_says_so(start_service: StartService) -> None:
    service = start_service()
    place(service.model_dir, "echo")
    before = files_of(service.model_dir / "echo")
    with fitserve.Client(service.address) as client, grpc.insecure_channel(service.address) as channel:
        client.load("echo")
        client.fit("iris", X, SPECIES, algorithm="logistic_regression").wait(60)
        reply = stubs_of(channel).models.RemoveAll(model_service_pb2.RemoveAllRequest())
        assert (list(reply.removed_models), list(reply.kept_models)) == (["iris"], ["echo"])
        assert client.predict("echo", GIVEN)[0]["upper"] == "A"
    assert files_of(service.model_dir / "echo") == before


@pytest.mark.parametrize("existing", ["fail", "new_version"])
@pytest.mark.parametrize("whole", [False, True])
def test_a_fit_on_its_name_is_refused(
    service: ServiceProcess, client: fitserve.Client, name: str, existing: Literal["fail", "new_version"], whole: bool
) -> None:
    place(service.model_dir, name, versions=(1,) if whole else ())
    before = files_of(service.model_dir / name)
    with pytest.raises(fitserve.errors.FailedPrecondition) as refused:
        client.fit(name, X, SPECIES, algorithm="logistic_regression", existing=existing)
    assert refused.value.reason == "OPERATOR_MODEL"
    assert files_of(service.model_dir / name) == before


@pytest.mark.parametrize("new_version", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_an_import_under_its_name_is_refused(
    service: ServiceProcess, client: fitserve.Client, name: str, new_version: bool, whole: bool
) -> None:
    place(service.model_dir, name, versions=(1,) if whole else ())
    before, jobs = files_of(service.model_dir / name), service.model_dir / ".fitserve" / "jobs"
    others = set(jobs.iterdir())
    with pytest.raises(fitserve.errors.FailedPrecondition, match="operator") as refused:
        client.import_model(name, b"any file", format="onnx", new_version=new_version)
    assert refused.value.reason == "OPERATOR_MODEL"
    assert refused.value.metadata["model"] == name
    assert files_of(service.model_dir / name) == before
    assert set(jobs.iterdir()) <= others


# -- what is broken --------------------------------------------------------------------------------------------------

BROKEN = {
    "no configuration": "this is { no configuration",
    "no input": 'backend: "python" output [ { name: "y" data_type: TYPE_FP32 dims: [ 1 ] } ]',
    "no backend": ECHO_CONFIG.format().replace('backend: "python"', ""),
    "another name": 'name: "other"' + ECHO_CONFIG.format(),
    "decoupled": ECHO_CONFIG.format() + "model_transaction_policy { decoupled: true }",
}


@pytest.mark.parametrize("config", BROKEN.values(), ids=BROKEN)
def test_a_broken_configuration_fails_that_model_alone(
    service: ServiceProcess, stubs: Stubs, client: fitserve.Client, name: str, config: str
) -> None:
    place(service.model_dir, name, config)
    (version,) = stubs.models.GetModel(model_service_pb2.GetModelRequest(model=name)).model.versions
    assert version.state == model_pb2.MODEL_STATE_FAILED
    refused = error_of(lambda: stubs.models.Load(model_service_pb2.LoadRequest(model=name)))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "LOAD_FAILED")
    assert refused.message == version.error.message
    (service.model_dir / name / "config.pbtxt").write_text(ECHO_CONFIG.format())
    assert client.load(name).state == "LOADED"


def test_broken_code_fails_that_model_alone_until_it_is_mended(
    service: ServiceProcess, stubs: Stubs, client: fitserve.Client, name: str
) -> None:
    place(service.model_dir, name, code="raise ValueError('a secret of the operator')")
    refused = error_of(lambda: stubs.models.Load(model_service_pb2.LoadRequest(model=name)))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "LOAD_FAILED")
    assert "secret" not in refused.message
    assert "log" in refused.message
    assert "a secret of the operator" in service.log.read_text()
    assert state_of(client, name) == "FAILED"
    (service.model_dir / name / "1" / "model.py").write_text(ECHO_CODE)
    assert state_of(client, name) == "STORED"
    assert client.load(name).state == "LOADED"


def test_it_is_back_after_a_restart_and_a_broken_one_does_not_disturb(start_service: StartService) -> None:
    service = start_service()
    place(service.model_dir, "echo")
    with fitserve.Client(service.address) as client:
        client.load("echo")
    service.stop()
    place(service.model_dir, "broken", "{")
    (service.model_dir / "half").mkdir()
    (service.model_dir / "half" / "config.pbtxt").write_text(ECHO_CONFIG.format())
    service = start_service()
    with fitserve.Client(service.address) as client:
        assert client.predict("echo", GIVEN)[0]["upper"] == "A"
        assert {model.name: model.state for model in client.models()} == {"echo": "LOADED", "broken": "FAILED"}
    assert (service.model_dir / "half" / "config.pbtxt").exists()


def test_what_calls_write_can_never_be_code(service: ServiceProcess, stubs: Stubs, name: str) -> None:
    """A name that is a path, or an upload with a file's name, is refused before anything is looked at."""
    place(service.model_dir, name)
    for bad in (f"{name}/1", "../models", ".fitserve", f"{name}.py"):
        refused = error_of(lambda bad=bad: stubs.models.Load(model_service_pb2.LoadRequest(model=bad)))  # type: ignore[misc]
        assert refused.code is grpc.StatusCode.INVALID_ARGUMENT


# -- requirements ----------------------------------------------------------------------------------------------------


def test_missing_requirements_are_named_with_the_command_that_installs_them(
    service: ServiceProcess, stubs: Stubs, client: fitserve.Client, name: str
) -> None:
    place(service.model_dir, name)
    requirements = service.model_dir / name / "requirements.txt"
    requirements.write_text("numpy>=1.20  # which is there\nfitserve-needs-this>=3\n")
    refused = error_of(lambda: stubs.models.Load(model_service_pb2.LoadRequest(model=name)))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "LOAD_FAILED")
    assert refused.metadata["missing"] == "fitserve-needs-this>=3"
    assert f"python -m triton_runtime install MODEL_DIR/{name}" in refused.message
    requirements.write_text("numpy>=1.20\n")
    assert client.load(name).state == "LOADED"


def installed(directory: Path, requirements: str) -> subprocess.CompletedProcess[str]:
    """Places a model and has what it requires installed."""
    place(directory, "echo")
    (directory / "echo" / "requirements.txt").write_text(requirements)
    command = [ROOT / ".venv-triton/bin/python", "-m", "triton_runtime", "install", directory / "echo"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_what_is_installed_already_is_not_installed_again(tmp_path: Path) -> None:
    done = installed(tmp_path, "numpy<2\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_bad_requirement_is_told(tmp_path: Path) -> None:
    done = installed(tmp_path, "-r /etc/passwd\n")
    assert done.returncode == 1
    assert "one requirement a line" in done.stderr


# -- an example that ships -------------------------------------------------------------------------------------------


def test_text_similarity_says_how_alike_texts_are(service: ServiceProcess, client: fitserve.Client) -> None:
    shutil.copytree(
        ROOT / "model_repository/text_similarity", service.model_dir / "text_similarity", dirs_exist_ok=True
    )
    client.load("text_similarity")
    pairs = [("number plate", "number plates"), ("number plate", "NUMBER PLATE"), ("abc", "xyz"), ("", "a")]
    found = client.predict("text_similarity", [{"first": first, "second": second} for first, second in pairs])
    alike = [one["similarity"] for one in found]
    assert alike == pytest.approx([alike[0], 1, 0, 0])
    assert 0.8 < alike[0] < 1
    columns = {"first": [first for first, _ in pairs], "second": [second for _, second in pairs]}
    outputs = client.predict("text_similarity", tensors=columns)
    assert outputs["similarity"].ravel().tolist() == pytest.approx(alike)


def test_text_similarity_refuses_bytes_that_are_no_text(service: ServiceProcess, client: fitserve.Client) -> None:
    shutil.copytree(
        ROOT / "model_repository/text_similarity", service.model_dir / "text_similarity", dirs_exist_ok=True
    )
    client.load("text_similarity")
    given = {"first": np.array([[b"\xff"]], np.object_), "second": np.array([[b"a"]], np.object_)}
    with pytest.raises(fitserve.errors.InvalidArgument, match="is no UTF-8"):
        client.predict("text_similarity", tensors=given)


def test_further_processes_answer_its_predictions_too(start_service: StartService) -> None:
    service = start_service(PREDICTION_PROCESSES="2")
    place(service.model_dir, "echo")
    with fitserve.Client(service.address) as client:
        client.load("echo")
    for _ in range(8):  # each connection goes to one of the processes
        with fitserve.Client(service.address) as client:
            assert client.predict("echo", GIVEN)[0]["upper"] == "A"
            numbers = np.ones((1, 2), np.float32)
            assert client.predict("echo", tensors={"text": ["b"], "numbers": numbers})["upper"] == [["B"]]
