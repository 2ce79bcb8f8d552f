"""Versions of one model that different backends of Triton run, loaded at one time."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from functools import partial
from pathlib import Path

import fitserve
import numpy as np
import pytest
import skops.io
import tritonclient.grpc as triton
from sklearn.naive_bayes import GaussianNB

from tests.conftest import StartService
from tests.contract.test_training import SPECIES, X, fit, wait_until
from tests.contract.test_versions import Callers, stubs_of
from tests.integration.test_remote_triton import triton as running_triton
from tests.service_process import ServiceProcess

BACKENDS = ["onnxruntime", "fil", "fitserve_native", "onnxruntime"]
"""Those of the versions 1 to 4. The first and the last are one model to Triton."""

SAYS = ["setosa", "SETOSA", "Setosa", "last"]
"""What each version says of the first row."""


def four_loaded(client: fitserve.Client, name: str) -> None:
    """Makes a model of four versions on three backends, all loaded; the first serves."""
    fit(client, name, load=True).wait(60)
    add = partial(client.fit, name, X, queue=True, existing="new_version", algorithm="xgboost", n_estimators=5)
    add(np.char.upper(SPECIES), prefer_gpu=True).wait(60)
    trusted = GaussianNB().fit(X, SPECIES)
    client.import_model(
        name, skops.io.dumps(trusted), format="skops", classes=np.char.title(trusted.classes_), new_version=True
    )
    add(np.char.replace(SPECIES, "setosa", "last")).wait(60)
    for version in (2, 3, 4):
        client.load(name, version, alongside=True)
    assert [version.backend for version in client.model(name).versions] == BACKENDS


def said(client: fitserve.Client, name: str) -> list[str]:
    return [str(client.predict(name, X[:1], version=version)[0]) for version in (1, 2, 3, 4)]


def test_versions_of_several_backends_answer_together(
    service: ServiceProcess, client: fitserve.Client, name: str
) -> None:
    four_loaded(client, name)
    assert said(client, name) == SAYS
    assert client.model(name).loaded_versions == (1, 2, 3, 4)
    for version, text in enumerate(SAYS, 1):
        client.set_alias(name, "champion", version)
        assert client.predict(name, X[:1], version="champion").tolist() == [text]
    client.rollback_alias(name, "champion")
    assert client.predict(name, X[:1], version="champion").tolist() == ["Setosa"]
    with triton.InferenceServerClient(service.address) as oip:
        configs = [oip.get_model_config(name, str(version)).config for version in (1, 2, 3, 4)]
        assert [(config.name, config.backend) for config in configs] == [(name, backend) for backend in BACKENDS]
        states = {one.version: one.state for one in oip.get_model_repository_index().models if one.name == name}
        assert states == dict.fromkeys("1234", "READY")


def test_one_of_several_backends_comes_and_goes_while_the_others_answer(
    service: ServiceProcess, client: fitserve.Client, name: str
) -> None:
    four_loaded(client, name)
    with Callers(2, lambda: str(client.predict(name, X[:1], version=1)[0])) as callers:
        client.load(name, 2, alongside=True, instances=2)
        for called, version in ((name, 1), (f"{name}.v2", 2), (f"{name}.v3", 3), (name, 4)):
            wait_until(lambda wanted=(called, version): len(stubs_of(service, *wanted)) == 2)
        client.unload(name, 3)
        wait_until(lambda: not stubs_of(service, f"{name}.v3", 3))
        for process in stubs_of(service, f"{name}.v2", 2):
            process.kill()
        with suppress(fitserve.errors.Unavailable):
            client.predict(name, X[:1], version=2)
        wait_until(lambda: client.model(name).loaded_versions == (1, 2, 4))
        assert client.predict(name, X[:1], version=2).tolist() == ["SETOSA"]
        callers.go_on()
    assert set(callers.answers) == {"setosa"}
    client.load(name, 2)  # in place of version 1
    assert client.model(name).loaded_versions == (2, 4)
    wait_until(lambda: not stubs_of(service, name, 1))
    client.remove(name, 2, force=True)
    assert not Path(service.model_dir, f"{name}.v2").exists()
    client.remove(name, force=True)
    assert not [path for path in os.listdir(service.model_dir) if path.startswith(f"{name}.") or path == name]
    wait_until(lambda: not stubs_of(service, name, 4))


def test_versions_of_several_backends_come_back_after_triton_and_the_service_were_killed(
    start_service: StartService,
) -> None:
    """Also where there are no directories of links yet, as before there were any."""
    service = start_service(PREDICTION_PROCESSES="2")
    with fitserve.Client(service.address) as client:
        four_loaded(client, "signs")
        (server,) = (process for process in service.family() if process.name() == "tritonserver")
        server.kill()
        wait_until(lambda: client.status().triton.restart_count == 1, 60)
        assert said(client, "signs") == SAYS
    service.kill()
    for version in (2, 3):
        shutil.rmtree(service.model_dir / f"signs.v{version}")
    service = start_service(PREDICTION_PROCESSES="2")
    with fitserve.Client(service.address) as client:
        assert said(client, "signs") == SAYS
        client.remove("signs", force=True)
        assert os.listdir(service.model_dir) == [".fitserve"]


def test_a_running_triton_keeps_nothing_under_a_name_that_is_not_used_any_more(
    start_service: StartService, tmp_path: Path
) -> None:
    """A service before there were own names has loaded a version of FIL under the model's name, and was replaced."""
    with running_triton(tmp_path / "service" / "models") as address:
        service = start_service(TRITON_URL=address)
        with fitserve.Client(service.address) as client:
            fit(client, "iris", algorithm="xgboost", n_estimators=5, prefer_gpu=True, load=True).wait(60)
        service.kill()
        with triton.InferenceServerClient(address) as direct:
            config = direct.get_model_config("iris.v1", as_json=True)["config"] | {"name": "iris"}
            direct.load_model("iris", config=json.dumps(config))
            direct.unload_model("iris.v1")
            service = start_service(TRITON_URL=address)
            with fitserve.Client(service.address) as client:
                assert client.predict("iris", X[:1]).tolist() == ["setosa"]
                ready = {one.name for one in direct.get_model_repository_index().models if one.state == "READY"}
                assert ready == {"iris.v1"}
                client.unload("iris")
                wait_until(lambda: not direct.is_model_ready("iris.v1"))


def test_a_version_that_prefers_a_gpu_is_loaded_beside_one_that_does_not(client: fitserve.Client, name: str) -> None:
    fit(client, name, load=True).wait(60)
    fit(client, name, prefer_gpu=True, existing="new_version").wait(60)
    client.load(name, 2, alongside=True)
    assert [client.predict(name, X[:1], version=version).tolist() for version in (1, 2)] == [["setosa"]] * 2


def test_a_load_that_triton_refuses_leaves_the_other_backends_alone(
    service: ServiceProcess, client: fitserve.Client, name: str
) -> None:
    fit(client, name, load=True).wait(60)
    fit(client, name, algorithm="xgboost", n_estimators=5, prefer_gpu=True, existing="new_version").wait(60)
    (Path(service.model_dir) / f"{name}.v2").write_text("in the way")
    with pytest.raises(fitserve.FitServeError):
        client.load(name, 2, alongside=True)
    assert client.predict(name, X[:1]).tolist() == ["setosa"]
    (Path(service.model_dir) / f"{name}.v2").unlink()
    client.load(name, 2, alongside=True)
    assert client.predict(name, X[:1], version=2).tolist() == ["setosa"]
