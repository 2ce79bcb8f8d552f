"""The contract over REST: every call, its fields, its headers, its limits."""

from __future__ import annotations

import asyncio
import base64
import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from urllib.parse import quote

import numpy as np
import pytest

from tests.conftest import StartService
from tests.contract.test_training import DIGITS, IMAGES
from tests.contract.wire import METHODS
from tests.gateway.conftest import StartGateway
from tests.gateway.scripted_service import scripted_service
from tests.gateway_process import GatewayProcess, Json

ROWS = [[1.4, 0.2], [4.7, 1.4], [1.3, 0.2], [4.5, 1.5], [1.5, 0.3], [4.9, 1.5]]
SPECIES = ["setosa", "versicolor"] * 3
FLOWERS = {"inline": {"inputs": {"rows": ROWS}, "labels": SPECIES}, "queue": True}


def fit(gateway: GatewayProcess, model: str, **fields: Json) -> str:
    """Starts a short training and returns its job's id."""
    answer = gateway.call("POST", f"/v1/models/{model}:fit", {"logistic_regression": {}, **FLOWERS, **fields})
    assert answer.status == 200, answer.body
    return str(answer.json["job"]["id"])


def fit_for_ever(gateway: GatewayProcess, model: str) -> str:
    """Starts a training that ends only when it is ended, and returns its job's id."""
    tensor = {
        "dtype": "DATA_TYPE_FP32",
        "shape": list(IMAGES.shape),
        "data": base64.b64encode(IMAGES.tobytes()).decode(),
    }
    data = {"inputs": {"tensor": tensor}, "labels": DIGITS.target.tolist()}
    return fit(gateway, model, logistic_regression=None, torch_cnn={"epochs": 100_000}, inline=data)


def states(gateway: GatewayProcess, job: str) -> list[str]:
    return [line["result"]["job"]["state"] for line in gateway.lines(f"/v1/trainingJobs/{job}:watch")]


def test_every_call_without_a_stream_of_requests_is_in_the_document(gateway: GatewayProcess) -> None:
    document = gateway.call("GET", "/openapi.json").json
    documented = {call["operationId"] for path in document["paths"].values() for call in path.values()}
    expected = {
        f"{method.containing_service.name}_{method.name}"
        for path, method in METHODS.items()
        if path.startswith("/fitserve.v1.") and not method.client_streaming
    }
    assert documented == expected


def test_a_model_is_trained_watched_loaded_used_and_removed(gateway: GatewayProcess, name: str) -> None:
    job = fit(gateway, name)
    assert states(gateway, job)[-1] == "JOB_STATE_SUCCEEDED"
    assert gateway.call("GET", f"/v1/trainingJobs/{job}").json["job"]["progress"] == 1
    listed = gateway.call("GET", f"/v1/trainingJobs?model={name}&states=JOB_STATE_SUCCEEDED&page_size=5").json
    assert [one["id"] for one in listed["jobs"]] == [job]

    loaded = gateway.call("POST", f"/v1/models/{name}:load").json
    assert (loaded["model"]["state"], loaded["evicted_models"]) == ("MODEL_STATE_LOADED", [])
    assert name in [model["name"] for model in gateway.call("GET", "/v1/models").json["models"]]
    predicted = gateway.call(
        "POST",
        f"/v1/models/{name}:predict",
        {"inputs": {"rows": [[4.6, 1.3], [1.2, 0.3]]}, "include_probabilities": True, "version": 1},
    ).json
    assert (predicted["model"], predicted["version"]) == (name, 1)
    assert predicted["predictions"] == ["versicolor", "setosa"]
    assert np.argmax(predicted["probabilities"], axis=1).tolist() == [1, 0]

    alias = f"/v1/models/{name}/aliases/champion"
    named = gateway.call("PUT", alias, {"version": 1}).json["model"]["aliases"]
    assert [(one["name"], one["version"], one["previous_version"]) for one in named] == [("champion", 1, 0)]
    assert [
        one["version"] for one in gateway.call("GET", f"/v1/models/{name}?alias=champion").json["model"]["versions"]
    ] == [1]
    features = {"name": "features", "datatype": "FP32", "shape": [1, 2], "data": [4.6, 1.3]}
    inferred = gateway.call("POST", f"/v2/models/{name}/versions/champion/infer", {"inputs": [features]}).json
    assert inferred["model_version"] == "1"
    assert gateway.call("POST", f"{alias}:rollback").json["code"] == 9  # it was never moved
    assert gateway.call("DELETE", alias).json["model"]["aliases"] == []

    assert gateway.call("DELETE", f"/v1/models/{name}").json["code"] == 9  # it is loaded
    assert gateway.call("POST", f"/v1/models/{name}:unload", {}).json["model"]["state"] == "MODEL_STATE_STORED"
    assert gateway.call("GET", f"/v1/models/{name}").json["model"]["versions"][0]["version"] == 1
    assert gateway.call("DELETE", f"/v1/models/{name}?version=1").json["removed_versions"] == [1]
    assert gateway.call("GET", f"/v1/models/{name}").status == 404


def test_all_models_are_removed_only_by_force_while_one_is_loaded(
    start_service: StartService, start_gateway: StartGateway
) -> None:
    gateway = start_gateway(start_service().address)
    states(gateway, fit(gateway, "flower", load=True))
    assert gateway.call("DELETE", "/v1/models").json["code"] == 9
    assert gateway.call("DELETE", "/v1/models?force=true").json["removed_models"] == ["flower"]
    assert gateway.call("DELETE", "/v1/models").json["removed_models"] == []


def test_inputs_of_every_form_are_the_same_rows(gateway: GatewayProcess, name: str) -> None:
    states(gateway, fit(gateway, name, load=True))
    raw = base64.b64encode(np.array([[4.6, 1.3]], np.float32).tobytes()).decode()
    tensor = {"dtype": "DATA_TYPE_FP32", "shape": [1, 2], "data": raw}
    answer = gateway.call("POST", f"/v1/models/{name}:predict", {"inputs": {"tensor": tensor}}).json
    assert base64.b64decode(answer["prediction_tensor"]["data"])[4:] == b"versicolor"


def test_datasets_are_listed_and_deleted(gateway: GatewayProcess, name: str) -> None:
    digest = gateway.call("GET", f"/v1/trainingJobs/{fit(gateway, name)}").json["job"]["dataset"]
    assert isinstance(gateway.call("GET", "/v1/datasets?page_size=1").json["datasets"], list)
    answer = gateway.call("DELETE", f"/v1/datasets/{quote(digest, safe='')}")
    assert answer.status == 404  # the rows came with the Fit
    assert answer.json["message"].startswith(f"there is no dataset '{digest}'")


def test_the_status_says_what_is_empty_too(gateway: GatewayProcess) -> None:
    status = gateway.call("GET", "/v1/status").json
    assert status["triton"]["restart_count"] == 0
    assert status["training"]["queued_job_count"] == 0
    assert status["draining"] is False


def test_health_is_that_of_the_service(gateway: GatewayProcess) -> None:
    assert gateway.call("GET", "/healthz").json == {"status": "SERVING"}
    assert gateway.call("GET", "/healthz?service=fitserve.v1.PredictionService").json == {"status": "SERVING"}
    assert gateway.call("GET", "/healthz?service=nobody").status == 404


def test_a_watch_brings_each_line_at_once_and_ends_with_the_job(gateway: GatewayProcess, name: str) -> None:
    job = fit_for_ever(gateway, name)
    lines = gateway.lines(f"/v1/trainingJobs/{job}:watch")
    running = next(line for line in lines if line["result"]["steps"])  # only a training that runs has steps
    assert running["result"]["job"]["state"] == "JOB_STATE_RUNNING"
    assert gateway.call("POST", f"/v1/trainingJobs/{job}:cancel").json["job"]["state"] == "JOB_STATE_CANCELLED"
    *_, last = lines
    assert last["result"]["job"]["state"] == "JOB_STATE_CANCELLED"


def test_a_watch_has_no_deadline_unless_it_asks_for_one(
    gateway: GatewayProcess, start_gateway: StartGateway, name: str
) -> None:
    job = fit_for_ever(gateway, name)
    try:
        hurried = start_gateway(_service_of(gateway), GATEWAY_REQUEST_SECONDS="0.2")
        begin = time.monotonic()
        assert any(time.monotonic() - begin > 0.5 for _ in hurried.lines(f"/v1/trainingJobs/{job}:watch"))
        limited = gateway.call("GET", f"/v1/trainingJobs/{job}:watch", grpc_timeout="300m")
        first, *_, last = limited.body.splitlines()
        assert first.startswith(b'{"result":')
        assert b"DEADLINE_EXCEEDED" in last
        assert last.startswith(b'{"error":')
    finally:
        gateway.call("POST", f"/v1/trainingJobs/{job}:cancel")


def _service_of(gateway: GatewayProcess) -> str:
    """Returns the address of the service behind a gateway, from the gateway's log."""
    return gateway.log.read_text().split("service=")[1].split()[0]


def test_a_watcher_that_leaves_frees_its_call(start_service: StartService, start_gateway: StartGateway) -> None:
    gateway = start_gateway(start_service(MAX_CALLS="1").address)
    job = fit_for_ever(gateway, "long")
    lines = gateway.lines(f"/v1/trainingJobs/{job}:watch")
    next(lines)
    predict = partial(gateway.call, "POST", "/v1/models/nobody:predict", {"inputs": {"rows": [[1]]}})
    assert predict().json["details"][0]["reason"] == "TOO_MANY_CALLS"
    lines.close()  # type: ignore[attr-defined]  # a generator
    deadline = time.monotonic() + 10
    while predict().json["details"][0]["reason"] != "MODEL_NOT_FOUND":
        assert time.monotonic() < deadline


async def test_only_the_allowed_headers_reach_the_service(start_gateway: StartGateway) -> None:
    async with scripted_service() as (address, calls):
        gateway = await asyncio.to_thread(start_gateway, address)
        answer = await asyncio.to_thread(
            lambda: gateway.call(
                "GET",
                "/v1/status",
                authorization="Bearer key",
                x_api_key="another",
                x_request_id="r1",
                grpc_metadata_secret="1",
                grpc_metadata_authorization="Bearer forged",
                x_forwarded_for="1.2.3.4",
                cookie="c=1",
                grpc_timeout="5S",
            )
        )
        assert answer.status == 200
        (metadata,) = calls.metadata
        assert metadata.pop("user-agent").startswith("fitserve-gateway")
        assert metadata == {"authorization": "Bearer key", "x-api-key": "another", "x-request-id": "r1"}
        assert 0 < calls.seconds_left[0] <= 5


async def test_a_call_without_a_deadline_gets_the_default_one(start_gateway: StartGateway) -> None:
    async with scripted_service() as (address, calls):
        gateway = await asyncio.to_thread(start_gateway, address, GATEWAY_REQUEST_SECONDS="7")
        for path in ("/v1/status", "/v1/status"):
            assert (await asyncio.to_thread(gateway.call, "GET", path)).status == 200
        assert all(0 < seconds <= 7 for seconds in calls.seconds_left)
        await asyncio.to_thread(lambda: gateway.call("GET", "/v1/status", grpc_timeout="20S"))
        assert 7 < calls.seconds_left[-1] <= 20


async def test_answers_may_be_larger_than_grpcs_four_megabytes(start_gateway: StartGateway) -> None:
    async with scripted_service() as (address, _):
        gateway = await asyncio.to_thread(start_gateway, address)
        answer = await asyncio.to_thread(gateway.call, "POST", "/v1/models/iris:predict", {"version": 20_000_000})
        assert len(base64.b64decode(answer.json["prediction_tensor"]["data"])) == 20_000_000


def test_a_caller_who_sends_no_body_in_time_loses_the_call(
    gateway: GatewayProcess, start_gateway: StartGateway
) -> None:
    hurried = start_gateway(_service_of(gateway), GATEWAY_REQUEST_SECONDS="0.2")
    connection = hurried.connect()
    connection.putrequest("POST", "/v1/models/iris:load")
    connection.putheader("Content-Length", "10")
    connection.endheaders(b"{")
    answer = connection.getresponse()
    assert answer.status == 504
    assert b"GATEWAY_REQUEST_SECONDS" in answer.read()
    connection.close()


@pytest.mark.parametrize("body", [None, b"", b" \n", b"{}"])
def test_a_call_without_fields_needs_no_body(gateway: GatewayProcess, name: str, body: bytes | None) -> None:
    assert gateway.call("POST", f"/v1/models/{name}:load", body).json["message"].startswith("there is no model")


def test_many_callers_at_once_get_their_own_answers(gateway: GatewayProcess, name: str) -> None:
    states(gateway, fit(gateway, name, load=True))
    rows = list(itertools.islice(itertools.cycle(zip(ROWS, SPECIES, strict=True)), 200))

    def predict(row: list[float]) -> str:
        answer = gateway.call("POST", f"/v1/models/{name}:predict", {"inputs": {"rows": [row]}})
        return str(answer.json["predictions"][0])

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(predict, [row for row, _ in rows])) == [label for _, label in rows]
