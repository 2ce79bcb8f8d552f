"""Every error is the same over REST as over gRPC: code, message, details."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

import grpc
import psutil
import pytest
import pytest_asyncio
from fitserve.v1 import (
    model_service_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2,
    training_service_pb2,
)
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2  # noqa: F401  (the details' types must be known)
from tritonclient.grpc import service_pb2 as oip
from tritonclient.grpc import service_pb2_grpc as oip_grpc

from service.domain.errors import Reason
from service.rpc.status import RULES
from tests.contract import wire
from tests.gateway.conftest import StartGateway
from tests.gateway.scripted_service import scripted_service
from tests.gateway_process import Answer, GatewayProcess, Json
from tests.service_process import ServiceProcess

HTTP_STATUS = {
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNKNOWN: 500,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DATA_LOSS: 500,
}
"""grpc-gateway's mapping."""


class Scripted(NamedTuple):
    """A service that refuses for any reason, as gRPC and as REST."""

    address: str
    gateway: GatewayProcess

    async def rest(self, method: str, path: str, **headers: str) -> Answer:
        return await asyncio.to_thread(self.gateway.call, method, path, **headers)


@pytest_asyncio.fixture
async def scripted(start_gateway: StartGateway) -> AsyncIterator[Scripted]:
    async with scripted_service() as (address, _):
        yield Scripted(address, await asyncio.to_thread(start_gateway, address))


def status_of(error: grpc.RpcError) -> Json:
    """Returns the status of a gRPC error in one form: the bytes of equal statuses differ in the order of metadata."""
    trailers = dict(error.trailing_metadata() or ())
    return json_format.MessageToDict(status_pb2.Status.FromString(trailers["grpc-status-details-bin"]))


def status_in(body: Json) -> Json:
    """Returns the status in a JSON body in the same form, if it is one."""
    return json_format.MessageToDict(json_format.ParseDict(body, status_pb2.Status()))


def check_retry(answer: Answer, reason: Reason) -> None:
    retry = RULES[reason].retry
    assert answer.headers["Retry-After"] == (None if retry is None else str(max(1, round(retry))))


async def test_every_reason_is_the_same_status_over_both(scripted: Scripted) -> None:
    async with grpc.aio.insecure_channel(scripted.address) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        for reason in Reason:
            with pytest.raises(grpc.aio.AioRpcError) as twin:
                await stub.GetModel(model_service_pb2.GetModelRequest(model=reason))
            answer = await scripted.rest("GET", f"/v1/models/{reason}")
            assert answer.status == HTTP_STATUS[twin.value.code()], reason
            assert answer.headers["Content-Type"] == "application/json"
            assert status_in(answer.json) == status_of(twin.value), reason
            check_retry(answer, reason)


async def test_every_reason_is_the_same_status_in_the_open_inference_protocol(scripted: Scripted) -> None:
    async with grpc.aio.insecure_channel(scripted.address) as channel:
        stub = oip_grpc.GRPCInferenceServiceStub(channel)
        for reason in Reason:
            with pytest.raises(grpc.aio.AioRpcError) as twin:
                await stub.ModelMetadata(oip.ModelMetadataRequest(name=reason))
            answer = await scripted.rest("GET", f"/v2/models/{reason}")
            assert answer.status == HTTP_STATUS[twin.value.code()], reason
            body = answer.json
            assert body.pop("error") == twin.value.details()
            assert status_in(body) == status_of(twin.value), reason
            check_retry(answer, reason)


async def test_what_is_not_ready_is_a_status_of_the_four_hundreds(scripted: Scripted) -> None:
    answer = await scripted.rest("GET", "/v2/health/ready")
    assert (answer.status, answer.json["error"]) == (400, "not ready")


async def test_a_deadline_that_passes_is_504_with_the_reason(scripted: Scripted) -> None:
    answer = await scripted.rest("GET", "/v1/status", x_request_id="slow", grpc_timeout="50m")
    assert answer.status == 504
    assert reason_of(answer) == "DEADLINE_EXCEEDED"


def reason_of(answer: Answer) -> str:
    status = {key: value for key, value in answer.json.items() if key != "error"}
    info = status_in(status)["details"][0]
    assert (info["@type"], info["domain"]) == ("type.googleapis.com/google.rpc.ErrorInfo", "fitserve")
    return str(info["reason"])


# -- errors of the real service ------------------------------------------------------------------------------------


class Twins(NamedTuple):
    """A call that is refused, over gRPC and over REST."""

    grpc: Callable[[wire.Stubs], object]
    method: str
    path: str
    body: Json = None


REFUSED = {
    "unknown model": Twins(
        lambda s: s.models.GetModel(model_service_pb2.GetModelRequest(model="nobody")), "GET", "/v1/models/nobody"
    ),
    "malformed name": Twins(
        lambda s: s.models.Load(model_service_pb2.LoadRequest(model="No Body")), "POST", "/v1/models/No%20Body:load"
    ),
    "version out of bounds": Twins(
        lambda s: s.models.Load(model_service_pb2.LoadRequest(model="nobody", version=-1)),
        "POST",
        "/v1/models/nobody:load",
        {"version": -1},
    ),
    "unknown version to remove": Twins(
        lambda s: s.models.Remove(model_service_pb2.RemoveRequest(model="nobody", version=3, force=True)),
        "DELETE",
        "/v1/models/nobody?version=3&force=true",
    ),
    "a Fit without data": Twins(
        lambda s: s.training.Fit(training_service_pb2.FitRequest(model="nobody")), "POST", "/v1/models/nobody:fit", {}
    ),
    "hyper-parameter out of bounds": Twins(
        lambda s: s.training.Fit(
            training_service_pb2.FitRequest(
                model="nobody",
                random_forest={"n_estimators": 0},
                inline={"inputs": wire.rows([1.0], [2.0]), "labels": wire.list_value(["a", "b"])},
            )
        ),
        "POST",
        "/v1/models/nobody:fit",
        {"random_forest": {"n_estimators": 0}, "inline": {"inputs": {"rows": [[1], [2]]}, "labels": ["a", "b"]}},
    ),
    "unknown job": Twins(
        lambda s: s.training.GetTrainingJob(training_service_pb2.GetTrainingJobRequest(job="3f2a")),
        "GET",
        "/v1/trainingJobs/3f2a",
    ),
    "unknown job to cancel": Twins(
        lambda s: s.training.CancelTrainingJob(training_service_pb2.CancelTrainingJobRequest(job="3f2a")),
        "POST",
        "/v1/trainingJobs/3f2a:cancel",
    ),
    "unknown job to watch": Twins(
        lambda s: list(s.training.WatchTrainingJob(training_service_pb2.WatchTrainingJobRequest(job="3f2a"))),
        "GET",
        "/v1/trainingJobs/3f2a:watch",
    ),
    "malformed page token": Twins(
        lambda s: s.training.ListTrainingJobs(training_service_pb2.ListTrainingJobsRequest(page_token="?")),
        "GET",
        "/v1/trainingJobs?page_token=%3F",
    ),
    "malformed digest": Twins(
        lambda s: s.training.DeleteDataset(training_service_pb2.DeleteDatasetRequest(dataset="sha256:00")),
        "DELETE",
        "/v1/datasets/sha256:00",
    ),
    "unknown model to predict": Twins(
        lambda s: s.predictions.Predict(prediction_service_pb2.PredictRequest(model="nobody", inputs=wire.rows([1.0]))),
        "POST",
        "/v1/models/nobody:predict",
        {"inputs": {"rows": [[1]]}},
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_call_is_the_same_status_over_both(
    service: ServiceProcess, gateway: GatewayProcess, case: str
) -> None:
    twins = REFUSED[case]
    with grpc.insecure_channel(service.address) as channel, pytest.raises(grpc.RpcError) as refused:
        twins.grpc(wire.stubs_of(channel))
    answer = gateway.call(twins.method, twins.path, twins.body)
    assert answer.status == HTTP_STATUS[refused.value.code()]
    assert status_in(answer.json) == status_of(refused.value)


# -- errors of the gateway itself ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("POST", "/v1/models/iris:predict", b'{"inptus": {}}', "inptus"),
        ("POST", "/v1/models/iris:predict", b'{"inputs": {"rwos": []}}', "rwos"),
        ("POST", "/v1/models/iris:load", b'{"version": "one"}', "version"),
        ("POST", "/v1/models/iris:load", b'{"evict": 1, "evict": 2}', "evict"),
        ("POST", "/v1/models/iris:fit", b'{"dataset": "", "inline": {}}', "inline"),
        ("POST", "/v1/models/iris:load?evict=true", None, "evict"),
        ("PUT", "/v1/models/iris/aliases/champion?version=1", b"{}", "version"),
        ("PUT", "/v1/models/iris/aliases/champion", b'{"version": 1, "force": true}', "force"),
        ("DELETE", "/v1/models/iris?forse=true", None, "forse"),
        ("DELETE", "/v1/models/iris?force=maybe", None, "force"),
        ("GET", "/v1/models?page_size=many", None, "page_size"),
    ],
)
def test_a_field_that_is_not_allowed_is_named(
    gateway: GatewayProcess, method: str, path: str, body: bytes | None, field: str
) -> None:
    answer = gateway.call(method, path, body)
    assert answer.status == 400
    assert reason_of(answer) == "INVALID_FIELD"
    assert [violation["field"] for violation in answer.json["details"][1]["field_violations"]] == [field]


@pytest.mark.parametrize("body", [b"{", b"[]", b"model=iris", b"{} {}", b'"\xff"'])
def test_a_body_that_is_no_json_of_the_call_is_undecodable(gateway: GatewayProcess, body: bytes) -> None:
    answer = gateway.call("POST", "/v1/models/iris:load", body)
    assert answer.status == 400
    assert reason_of(answer) == "UNDECODABLE_MESSAGE"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("GET", "/nothing", 404),
        ("GET", "/v2/nothing", 404),
        ("GET", "/docs/nothing.js", 404),
        ("PUT", "/v1/status", 405),
        ("POST", "/v1/datasets", 405),
        ("GET", "/v2/models/iris/infer", 405),
    ],
)
def test_what_is_not_served_is_unimplemented(gateway: GatewayProcess, method: str, path: str, status: int) -> None:
    answer = gateway.call(method, path)
    assert answer.status == status
    assert answer.json["code"] == grpc.StatusCode.UNIMPLEMENTED.value[0]
    assert reason_of(answer) == "UNIMPLEMENTED"


async def test_a_service_that_is_away_is_unavailable_until_it_comes(
    start_gateway: StartGateway, unused_tcp_port: int
) -> None:
    gateway = await asyncio.to_thread(start_gateway, f"127.0.0.1:{unused_tcp_port}")
    for path in ("/healthz", "/v1/status", "/v2"):
        away = await asyncio.to_thread(gateway.call, "GET", path)
        assert (away.status, reason_of(away)) == (503, "DRAINING")
        assert away.headers["Retry-After"] == "1"
        assert str(unused_tcp_port) not in away.body.decode()
    async with scripted_service(unused_tcp_port):
        deadline = time.monotonic() + 20
        while (await asyncio.to_thread(gateway.call, "GET", "/v1/status")).status != 200:
            assert time.monotonic() < deadline


def test_a_page_of_another_site_may_not_call(gateway: GatewayProcess) -> None:
    answer = gateway.call("POST", "/v1/models/iris:load", {}, sec_fetch_site="cross-site", origin="http://elsewhere")
    assert answer.status == 403
    assert reason_of(answer) == "PERMISSION_DENIED"


def test_a_body_over_the_limit_is_too_large(service: ServiceProcess, start_gateway: StartGateway) -> None:
    gateway = start_gateway(service.address, GATEWAY_MAX_BODY_BYTES="2048", GATEWAY_MAX_MESSAGE_BYTES="1024")
    largest = b'{"inputs": {"rows": [[1]]}}'.ljust(2048)
    assert reason_of(gateway.call("POST", "/v1/models/nobody:predict", largest)) == "MODEL_NOT_FOUND"
    too_large = gateway.call("POST", "/v1/models/nobody:predict", largest + b" ")
    assert (too_large.status, reason_of(too_large)) == (429, "MESSAGE_TOO_LARGE")
    assert "GATEWAY_MAX_BODY_BYTES" in too_large.json["message"]


def test_more_values_than_a_message_holds_are_refused_before_they_take_memory(
    service: ServiceProcess, start_gateway: StartGateway
) -> None:
    gateway = start_gateway(service.address)
    memory = psutil.Process(gateway.process.pid)
    body = b'{"inputs": {"rows": [[' + b"1," * 10_000_000 + b"1]]}}"
    answer = gateway.call("POST", "/v1/models/nobody:predict", body)
    assert (answer.status, reason_of(answer)) == (429, "MESSAGE_TOO_LARGE")
    assert memory.memory_info().rss < 200e6


def test_a_message_over_the_limit_is_refused_as_by_the_service(
    start_service: Callable[..., ServiceProcess], start_gateway: StartGateway
) -> None:
    service = start_service(MAX_MESSAGE_BYTES="1024")
    strict = start_gateway(service.address, GATEWAY_MAX_MESSAGE_BYTES="1024")
    lax = start_gateway(service.address)
    row = [1.0] * 93  # each takes 11 bytes
    request = prediction_service_pb2.PredictRequest(model="nobody", inputs=wire.rows(row))
    with grpc.insecure_channel(service.address) as channel, pytest.raises(grpc.RpcError) as refused:
        wire.stubs_of(channel).predictions.Predict(request)
    for gateway in (strict, lax):
        answer = gateway.call("POST", "/v1/models/nobody:predict", {"inputs": {"rows": [row]}})
        assert answer.status == 429
        assert status_in(answer.json) == status_of(refused.value)
