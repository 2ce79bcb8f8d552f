"""Errors of the service and of the transport as exceptions."""

from __future__ import annotations

import pickle
import socket
import threading

import fitserve
import grpc
import pytest
from fitserve import errors
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from tests.unit.client.fake_service import FakeService, abort, rich_status

NO_MODEL = rich_status(
    grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", 'There is no model "irs".', model="irs", nearest="iris"
)


def test_an_error_of_the_service_carries_its_reason_and_metadata(service: FakeService, client: fitserve.Client) -> None:
    service.handlers["GetModel"] = lambda request, context: abort(context, NO_MODEL)
    with pytest.raises(errors.NotFound) as caught:
        client.model("irs")
    error = caught.value
    assert str(error) == '[NOT_FOUND MODEL_NOT_FOUND] There is no model "irs".'
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    assert error.metadata == {"model": "irs", "nearest": "iris"}
    assert error.retry_after is None
    assert [type(detail) for detail in error.details] == [error_details_pb2.ErrorInfo]


def test_field_violations_are_read_and_told() -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(field="cores", description="must be at least 1")
    status = rich_status(
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_FIELD",
        "The request has a bad field.",
        error_details_pb2.BadRequest(field_violations=[violation]),
    )
    error = errors.from_status(status)
    assert isinstance(error, errors.InvalidArgument)
    assert error.field_violations == {"cores": "must be at least 1"}
    assert str(error) == "[INVALID_ARGUMENT INVALID_FIELD] The request has a bad field.\n  cores: must be at least 1"


def test_the_time_to_try_again_is_read() -> None:
    retry = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=1, nanos=500_000_000))
    status = rich_status(grpc.StatusCode.RESOURCE_EXHAUSTED, "NO_FREE_CORES", "No core is free.", retry)
    error = errors.from_status(status)
    assert isinstance(error, errors.ResourceExhausted)
    assert error.retry_after == 1.5


def test_a_detail_of_unknown_type_stays_packed() -> None:
    detail = any_pb2.Any(type_url="type.googleapis.com/of.a.later.Version", value=b"?")
    error = errors.from_status(status_pb2.Status(code=13, message="m", details=[detail]))
    assert error.details == [detail]


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_every_code_has_an_exception(code: grpc.StatusCode) -> None:
    error = errors.from_status(status_pb2.Status(code=code.value[0], message="m"))
    assert error.code is code
    name = "".join(part.capitalize() for part in code.name.split("_"))
    assert type(error).__name__ == (name if hasattr(errors, name) else "FitServeError")


def test_an_exception_of_a_worker_process_arrives_whole() -> None:
    error = pickle.loads(pickle.dumps(errors.from_status(NO_MODEL)))
    assert isinstance(error, errors.NotFound)
    assert error.metadata["nearest"] == "iris"


def test_a_service_that_is_not_there_is_unavailable() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with (
            fitserve.Client(f"127.0.0.1:{unused.getsockname()[1]}") as client,
            pytest.raises(errors.Unavailable) as caught,
        ):
            client.status()
    assert caught.value.reason == ""


def test_a_call_that_takes_too_long_ends(service: FakeService, client: fitserve.Client) -> None:
    def wait_for_the_end(request: object, context: grpc.ServicerContext) -> object:
        ended = threading.Event()
        context.add_callback(ended.set)
        ended.wait(10)
        return None

    service.handlers["GetStatus"] = wait_for_the_end
    with pytest.raises(errors.DeadlineExceeded):
        client.status(timeout=0.05)


def test_an_exception_in_the_service_is_still_one_of_ours(service: FakeService, client: fitserve.Client) -> None:
    service.handlers["GetStatus"] = lambda request, context: 1 / 0
    with pytest.raises(fitserve.FitServeError) as caught:
        client.status()
    assert caught.value.code is grpc.StatusCode.UNKNOWN
