"""One table from the reason of an error to what goes over the wire: code, details, when to try again."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass

import grpc
from google.protobuf import duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from service.domain.entities import JobError
from service.domain.errors import Reason, ServiceError

log = logging.getLogger("fitserve.errors")

DOMAIN = "fitserve"
"""The domain of every ErrorInfo."""

Detail = Callable[[ServiceError], Message]


def _bad_request(error: ServiceError) -> Message:
    violation = error_details_pb2.BadRequest.FieldViolation(
        field=error.metadata.get("field", ""), description=error.message, reason=error.reason
    )
    message: Message = error_details_pb2.BadRequest(field_violations=[violation])
    return message


def _resource(kind: str, key: str) -> Detail:
    def detail(error: ServiceError) -> Message:
        name = error.metadata.get(key, "")
        message: Message = error_details_pb2.ResourceInfo(
            resource_type=kind, resource_name=name, description=error.message
        )
        return message

    return detail


def _precondition(error: ServiceError) -> Message:
    subject = error.metadata.get("model") or error.metadata.get("dataset") or error.metadata.get("job", "")
    violation = error_details_pb2.PreconditionFailure.Violation(
        type=error.reason, subject=subject, description=error.message
    )
    message: Message = error_details_pb2.PreconditionFailure(violations=[violation])
    return message


def _quota(subject: str, key: str) -> Detail:
    def detail(error: ServiceError) -> Message:
        name = error.metadata.get("setting") or error.metadata.get("quota", subject)  # for errors that several have
        description = f"{name}: {error.metadata[key]}" if key in error.metadata else error.message
        violation = error_details_pb2.QuotaFailure.Violation(subject=name, description=description)
        message: Message = error_details_pb2.QuotaFailure(violations=[violation])
        return message

    return detail


@dataclass(frozen=True)
class Rule:
    """How errors of one reason look on the wire.

    Attributes:
        code: The status code.
        detail: Makes the google.rpc message that fits the code, besides ErrorInfo.
        retry: Seconds after which the caller may try again, or None if that alone does not help.
    """

    code: grpc.StatusCode
    detail: Detail | None = None
    retry: float | None = None


_MODEL = _resource("fitserve.v1.Model", "model")
_DATASET = _resource("fitserve.v1.Dataset", "dataset")


def _uploaded(error: ServiceError) -> Message:
    return (_MODEL if "model" in error.metadata else _DATASET)(error)


RULES: dict[Reason, Rule] = {
    Reason.INVALID_FIELD: Rule(grpc.StatusCode.INVALID_ARGUMENT, _bad_request),
    Reason.UNDECODABLE_MESSAGE: Rule(grpc.StatusCode.INVALID_ARGUMENT, _bad_request),
    Reason.REQUEST_ID_REUSED: Rule(grpc.StatusCode.INVALID_ARGUMENT, _bad_request),
    Reason.UNAUTHENTICATED: Rule(grpc.StatusCode.UNAUTHENTICATED),
    Reason.PERMISSION_DENIED: Rule(grpc.StatusCode.PERMISSION_DENIED),
    Reason.MODEL_NOT_FOUND: Rule(grpc.StatusCode.NOT_FOUND, _MODEL),
    Reason.VERSION_NOT_FOUND: Rule(grpc.StatusCode.NOT_FOUND, _MODEL),
    Reason.JOB_NOT_FOUND: Rule(grpc.StatusCode.NOT_FOUND, _resource("fitserve.v1.TrainingJob", "job")),
    Reason.DATASET_NOT_FOUND: Rule(grpc.StatusCode.NOT_FOUND, _DATASET),
    Reason.MODEL_EXISTS: Rule(grpc.StatusCode.ALREADY_EXISTS, _MODEL),
    Reason.MODEL_NOT_LOADED: Rule(grpc.StatusCode.FAILED_PRECONDITION, _precondition),
    Reason.MODEL_LOADED: Rule(grpc.StatusCode.FAILED_PRECONDITION, _precondition),
    Reason.LOAD_FAILED: Rule(grpc.StatusCode.FAILED_PRECONDITION, _precondition),
    Reason.DATASET_IN_USE: Rule(grpc.StatusCode.FAILED_PRECONDITION, _precondition),
    Reason.OPERATION_IN_PROGRESS: Rule(grpc.StatusCode.ABORTED, _MODEL),
    Reason.NO_FREE_CORES: Rule(grpc.StatusCode.RESOURCE_EXHAUSTED, _quota("TRAINING_CORES", "total"), retry=5.0),
    Reason.TRAINING_QUEUE_FULL: Rule(grpc.StatusCode.RESOURCE_EXHAUSTED, _quota("TRAINING_QUEUE", "limit"), retry=30.0),
    Reason.PREDICTION_QUEUE_FULL: Rule(
        grpc.StatusCode.RESOURCE_EXHAUSTED, _quota("PREDICTION_QUEUE_ROWS", "limit"), retry=0.1
    ),
    Reason.TOO_MANY_LOADED_MODELS: Rule(grpc.StatusCode.RESOURCE_EXHAUSTED, _quota("MAX_LOADED_MODELS", "loaded")),
    Reason.DISK_FULL: Rule(grpc.StatusCode.RESOURCE_EXHAUSTED, _quota("disk", "")),
    Reason.TRAINER_OOM: Rule(grpc.StatusCode.RESOURCE_EXHAUSTED, _quota("memory", "")),
    Reason.MESSAGE_TOO_LARGE: Rule(grpc.StatusCode.RESOURCE_EXHAUSTED, _quota("MAX_MESSAGE_BYTES", "limit_bytes")),
    Reason.TOO_MANY_CALLS: Rule(grpc.StatusCode.RESOURCE_EXHAUSTED, _quota("MAX_CALLS", "limit"), retry=0.1),
    Reason.TRITON_UNAVAILABLE: Rule(grpc.StatusCode.UNAVAILABLE, retry=1.0),
    Reason.MODEL_LOADING: Rule(grpc.StatusCode.UNAVAILABLE, retry=0.5),
    Reason.DRAINING: Rule(grpc.StatusCode.UNAVAILABLE, retry=5.0),
    Reason.DEADLINE_EXCEEDED: Rule(grpc.StatusCode.DEADLINE_EXCEEDED),
    Reason.TIME_LIMIT_EXCEEDED: Rule(grpc.StatusCode.DEADLINE_EXCEEDED),
    Reason.ARTIFACT_DAMAGED: Rule(grpc.StatusCode.DATA_LOSS, _MODEL),
    Reason.DIGEST_MISMATCH: Rule(grpc.StatusCode.DATA_LOSS, _uploaded),
    Reason.UNIMPLEMENTED: Rule(grpc.StatusCode.UNIMPLEMENTED),
    Reason.TRAINING_FAILED: Rule(grpc.StatusCode.INTERNAL),
    Reason.TRAINER_DIED: Rule(grpc.StatusCode.INTERNAL),
    Reason.JOB_INTERRUPTED: Rule(grpc.StatusCode.UNAVAILABLE, retry=1.0),
    Reason.EXPORT_NOT_EQUAL: Rule(grpc.StatusCode.FAILED_PRECONDITION, _precondition),
    Reason.CANCELLED: Rule(grpc.StatusCode.CANCELLED),
    Reason.INTERNAL: Rule(grpc.StatusCode.INTERNAL),
    Reason.DATABASE_UNAVAILABLE: Rule(grpc.StatusCode.UNAVAILABLE, retry=1.0),
    Reason.ALIAS_NOT_FOUND: Rule(grpc.StatusCode.NOT_FOUND, _resource("fitserve.v1.ModelAlias", "alias")),
    Reason.VERSION_HAS_ALIAS: Rule(grpc.StatusCode.FAILED_PRECONDITION, _precondition),
    Reason.NOTHING_TO_ROLL_BACK: Rule(grpc.StatusCode.FAILED_PRECONDITION, _precondition),
    Reason.OPERATOR_MODEL: Rule(grpc.StatusCode.FAILED_PRECONDITION, _precondition),
}


MAX_MESSAGE_BYTES = 900
MAX_VALUE_BYTES = 450
"""How long texts in trailers may be. Message and field stand there several times, partly as %XX, and clients refuse
trailers of 8 KiB."""


def shortened(error: ServiceError) -> ServiceError:
    """Returns the error with its texts cut so that it fits into trailers, whatever names the caller made up."""
    metadata = {key: _cut(value, MAX_VALUE_BYTES) for key, value in error.metadata.items()}
    return ServiceError(error.reason, _cut(error.message, MAX_MESSAGE_BYTES), metadata, error.retry)


def _cut(text: str, limit: int) -> str:
    data = text.encode()
    return text if len(data) <= limit else data[: limit - 3].decode(errors="ignore") + "..."


def code_of(error: ServiceError) -> grpc.StatusCode:
    """Returns the status code of an error."""
    return RULES[error.reason].code


def status_of(error: ServiceError) -> status_pb2.Status:
    """Returns the whole status of an error, with ErrorInfo and the details that its reason calls for."""
    rule = RULES[error.reason]
    status = status_pb2.Status(code=rule.code.value[0], message=error.message)
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)]
    if rule.detail is not None:
        details.append(rule.detail(error))
    retry = rule.retry if error.retry is None else error.retry
    if retry is not None:
        seconds, rest = divmod(retry, 1)
        delay = duration_pb2.Duration(seconds=int(seconds), nanos=round(rest * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    for detail in details:
        status.details.add().Pack(detail)
    return status


def status_of_job_error(error: JobError) -> status_pb2.Status:
    """Returns the status of an error that a job has kept."""
    return status_of(ServiceError(Reason(error.reason), error.message, error.metadata))


def internal(where: str, error: Exception) -> ServiceError:
    """Logs an exception and returns the error that callers see of it: an incident id, no text of it."""
    incident = secrets.token_hex(4)
    log.error("incident %s in %s", incident, where, exc_info=error)
    return ServiceError(
        Reason.INTERNAL,
        f"the service failed; its log has the details under incident {incident}",
        {"incident": incident},
    )
