"""`docker compose up` on a real engine: built, brought up, used from outside, each container killed, taken down."""

from __future__ import annotations

import subprocess
import sys
import urllib.error
from collections.abc import Iterator

import fitserve
import pytest
from fitserve import errors

from tests.compose.stack import SERVICES, UP_SECONDS, Stack, wait_until
from tests.contract.test_training import SPECIES, X, fit
from tests.service_process import ROOT

pytestmark = pytest.mark.compose

UNREACHABLE = (urllib.error.URLError, ConnectionError, TimeoutError)


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    stack = Stack()
    try:
        stack.compose("build")
        stack.compose("up", "-d")
        wait_until(lambda: all(map(stack.is_healthy, SERVICES)), UP_SECONDS)
        yield stack
    except BaseException:
        print(stack.compose("logs", "--no-color"), file=sys.stderr)
        raise
    finally:
        stack.compose("down", "--volumes", "--remove-orphans")


def species_by_rest(stack: Stack, model: str) -> str | None:
    """Returns the prediction for the first row, or None while there is none."""
    try:
        reply = stack.call("POST", f"/v1/models/{model}:predict", {"inputs": {"rows": X[:1].tolist()}})
    except UNREACHABLE:  # an error of the service is among them
        return None
    return str(reply["predictions"][0])


def species_by_grpc(stack: Stack, model: str) -> str | None:
    try:
        with fitserve.Client(stack.grpc) as client:
            return str(client.predict(model, X[:1])[0])
    except errors.FitServeError:
        return None


def test_the_demo_runs_from_outside(stack: Stack) -> None:
    demo = subprocess.run(
        [sys.executable, "-m", "demo", "--address", stack.grpc], cwd=ROOT, text=True, capture_output=True, timeout=600
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "All figures are as they should be" in demo.stdout


def test_a_model_is_trained_loaded_and_used_by_rest(stack: Stack) -> None:
    order = {
        "logistic_regression": {},
        "inline": {"inputs": {"rows": X.tolist()}, "labels": SPECIES.tolist()},
        "queue": True,
    }
    job = stack.call("POST", "/v1/models/by-rest:fit", order)["job"]["id"]
    wait_until(lambda: stack.call("GET", f"/v1/trainingJobs/{job}")["job"]["state"].endswith("SUCCEEDED"))
    stack.call("POST", "/v1/models/by-rest:load", {})
    assert species_by_rest(stack, "by-rest") == "setosa"
    assert stack.call("GET", "/v1/status")["triton"].get("embedded", False) is False
    stack.call("DELETE", "/v1/models/by-rest?force=true")
    assert species_by_rest(stack, "by-rest") is None


@pytest.mark.parametrize("killed", SERVICES)
def test_a_killed_container_comes_back_and_its_models_answer(stack: Stack, killed: str) -> None:
    model = f"kept-{killed}"
    with fitserve.Client(stack.grpc) as client:
        fit(client, model, load=True).wait(120)
    assert species_by_rest(stack, model) == "setosa"
    stack.crash(killed)
    wait_until(lambda: species_by_rest(stack, model) == "setosa")
    wait_until(lambda: species_by_grpc(stack, model) == "setosa")
    wait_until(lambda: all(map(stack.is_healthy, SERVICES)))
    with fitserve.Client(stack.grpc) as client:
        assert model in {one.model for one in client.status().models.loaded}
        client.remove(model, force=True)


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_has_few_rights(stack: Stack, service: str) -> None:
    found = stack.inspect(service)
    assert found["Config"]["User"] not in ("", "0", "root")
    host = found["HostConfig"]
    assert (host["ReadonlyRootfs"], host["Init"], host["CapDrop"]) == (True, True, ["ALL"])
    assert host["Memory"] > 0
    assert host["NanoCpus"] > 0


def test_only_the_service_and_the_gateway_are_published(stack: Stack) -> None:
    published = {name: stack.inspect(name)["HostConfig"]["PortBindings"] or {} for name in SERVICES}
    assert {name: list(ports) for name, ports in published.items()} == {
        "triton": [],
        "service": ["50051/tcp"],
        "gateway": ["8080/tcp"],
    }


@pytest.mark.parametrize(("service", "may_write"), [("triton", False), ("service", True)])
def test_only_the_service_writes_models(stack: Stack, service: str, may_write: bool) -> None:
    mounts = {mount["Destination"]: mount["RW"] for mount in stack.inspect(service)["Mounts"]}
    assert mounts["/models"] is may_write


def test_a_stop_is_a_drain_and_the_models_are_there_after_it(stack: Stack) -> None:
    with fitserve.Client(stack.grpc) as client:
        fit(client, "drained", load=True).wait(120)
    stack.compose("stop", "service")
    assert stack.inspect("service")["State"]["ExitCode"] == 0
    stack.compose("start", "service")
    wait_until(lambda: species_by_rest(stack, "drained") == "setosa")
    with fitserve.Client(stack.grpc) as client:
        client.remove("drained", force=True)
