"""What is tried again, what importing costs, and what the package shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import fitserve
import grpc
import pytest
from fitserve import _channel
from fitserve.v1 import (
    model_service_pb2,
    prediction_service_pb2,
    server_service_pb2,
    training_job_pb2,
    training_service_pb2,
)
from google.protobuf import descriptor_pb2

from tests.unit.client.fake_service import FakeService


def test_exactly_the_methods_that_the_contract_calls_idempotent_are_tried_again() -> None:
    (config,) = json.loads(str(dict(_channel.options())["grpc.service_config"]))["methodConfig"]
    named = {(name["service"], name.get("method")) for name in config["name"]}
    assert config["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]
    for service, method, idempotent in methods():
        assert bool({(service, None), (service, method)} & named) == idempotent, method


def methods() -> Iterator[tuple[str, str, bool]]:
    """Yields service, method and whether it is idempotent."""
    for module in (training_service_pb2, model_service_pb2, prediction_service_pb2, server_service_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                level = method.GetOptions().idempotency_level
                yield service.full_name, method.name, level != descriptor_pb2.MethodOptions.IDEMPOTENCY_UNKNOWN


def test_a_call_outlives_a_service_that_is_away_for_a_moment(service: FakeService, client: fitserve.Client) -> None:
    got: list[training_service_pb2.FitRequest] = []

    def accept_the_third(
        request: training_service_pb2.FitRequest, context: grpc.ServicerContext
    ) -> training_service_pb2.FitResponse:
        got.append(request)
        if len(got) < 3:
            context.abort(grpc.StatusCode.UNAVAILABLE, "starting")
        return training_service_pb2.FitResponse(job=training_job_pb2.TrainingJob(id="j1"))

    service.handlers["Fit"] = accept_the_third
    assert client.fit("m", [[1]], [1], algorithm="xgboost").id == "j1"
    assert got[0].request_id
    assert got[0] == got[1] == got[2]


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.ABORTED]
)
def test_other_errors_are_told_at_once(service: FakeService, client: fitserve.Client, code: grpc.StatusCode) -> None:
    service.handlers["GetStatus"] = lambda request, context: context.abort(code, "no")
    with pytest.raises(fitserve.FitServeError):
        client.status()
    assert service.calls == ["GetStatus"]


def modules_after(code: str) -> set[str]:
    """Returns the top-level modules that a new interpreter has after some code."""
    script = f"{code}\nimport sys\nprint(*sys.modules)"
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=path)
    return set(run.stdout.split())


def test_importing_messages_loads_neither_grpc_nor_numpy() -> None:
    loaded = modules_after("import fitserve.v1.training_spec_pb2")
    assert not {"grpc", "numpy", "fitserve.client", "fitserve.errors"} & loaded


def test_the_synchronous_client_does_not_load_the_asynchronous_one() -> None:
    loaded = modules_after("import fitserve; fitserve.Client")
    assert "fitserve.client" in loaded
    assert "fitserve.aio" not in loaded


def test_every_public_name_can_be_loaded() -> None:
    # What a name stands for differs.
    found: dict[str, Any] = {name: getattr(fitserve, name) for name in fitserve.__all__}
    assert all(found.values())
    assert set(fitserve.__all__) <= set(dir(fitserve))
    with pytest.raises(AttributeError, match="no attribute 'Clint'"):
        getattr(fitserve, "Clint")  # noqa: B009
