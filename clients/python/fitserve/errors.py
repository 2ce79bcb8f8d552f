"""What goes wrong, as exceptions: one class a status code, with the details that the service sent.

try:
    client.predict("irs", X)
except fitserve.errors.NotFound as error:
    print(error.reason, error.metadata["nearest"])  # MODEL_NOT_FOUND iris
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, cast

import grpc
from google.protobuf import any_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

if TYPE_CHECKING:
    from fitserve.resources import TrainingJob

_STATUS_KEY = "grpc-status-details-bin"


class FitServeError(Exception):
    """A call, or a batch of a stream, or a job, that the service or the transport could not answer well.

    Attributes:
        code: The gRPC status code.
        reason: The service's reason in capitals, such as MODEL_NOT_FOUND; empty for errors of the transport.
        message: What was wrong and how to mend it.
        metadata: The names and values behind the message, such as {"model": "irs", "nearest": "iris"}.
        field_violations: From the path of each bad field of the request to what is wrong with it.
        retry_after: After how many seconds a second try makes sense; None if the service did not say.
        details: All google.rpc detail messages; ones of unknown type stay google.protobuf.Any.
        status: The google.rpc.Status that all of this was read from.
    """

    def __init__(self, status: status_pb2.Status) -> None:
        """Reads a google.rpc.Status. Programs get these exceptions and have no need to make them."""
        super().__init__(status.message)
        self.status = status
        self.code = _status_code(status.code)
        self.message = status.message
        self.details = [_unpack(detail) for detail in status.details]
        self.reason = ""
        self.metadata: Mapping[str, str] = {}
        self.field_violations: Mapping[str, str] = {}
        self.retry_after: float | None = None
        for detail in self.details:
            self._read_detail(detail)

    def _read_detail(self, detail: Message) -> None:
        if isinstance(detail, error_details_pb2.ErrorInfo):
            self.reason, self.metadata = detail.reason, dict(detail.metadata)
        elif isinstance(detail, error_details_pb2.BadRequest):
            self.field_violations = {one.field: one.description for one in detail.field_violations}
        elif isinstance(detail, error_details_pb2.RetryInfo):
            self.retry_after = detail.retry_delay.seconds + detail.retry_delay.nanos / 1e9

    def __str__(self) -> str:
        """Returns for instance `[NOT_FOUND MODEL_NOT_FOUND] there is no model 'irs'`."""
        head = f"[{self.code.name} {self.reason}]" if self.reason else f"[{self.code.name}]"
        unsaid = [f"\n  {field}: {text}" for field, text in self.field_violations.items() if text not in self.message]
        return f"{head} {self.message}{''.join(unsaid)}"

    def __reduce__(self) -> tuple[object, ...]:
        """Keeps the exception whole through pickle, as on its way out of a worker process."""
        return _restore, (type(self), self.status.SerializeToString())


class InvalidArgument(FitServeError):
    """A field, shape, type, name or hyper-parameter of the request is wrong; see `field_violations`."""


class NotFound(FitServeError):
    """There is no such model, version, job or dataset."""


class AlreadyExists(FitServeError):
    """The model exists; fit with existing="new_version" to make its next version."""


class FailedPrecondition(FitServeError):
    """The state of the model does not allow the call, for instance because it is not loaded."""


class Aborted(FitServeError):
    """Another operation on the same model is under way."""


class ResourceExhausted(FitServeError):
    """A limit is reached: cores, queue, loaded models, disk, memory or the size of a message."""


class Unavailable(FitServeError):
    """The service, its Triton or the model is on its way; try again after `retry_after` seconds."""


class DeadlineExceeded(FitServeError):
    """The call took longer than its timeout, or the training longer than its time limit."""


class DataLoss(FitServeError):
    """Files or uploaded bytes are not what their digest says."""


class Unimplemented(FitServeError):
    """This version of the service does not have the method."""


class Internal(FitServeError):
    """A bug or a crash in the service; its log has the incident that `metadata` names."""


class Cancelled(FitServeError):
    """The call or the job was cancelled."""


class Unauthenticated(FitServeError):
    """The call has no key, or a wrong one; give it as metadata of the client."""


class PermissionDenied(FitServeError):
    """The key does not have the right that the call needs."""


class TrainingFailed(FitServeError):
    """A job that ended without a version. Its other fields are those of the job's own error.

    Attributes:
        job: The job in its final state.
    """

    def __init__(self, job: TrainingJob) -> None:
        """Takes a job in the state FAILED or CANCELLED."""
        cause = job.error.status if job.error else status_pb2.Status(code=grpc.StatusCode.UNKNOWN.value[0])
        super().__init__(cause)
        self.job = job

    def __str__(self) -> str:
        """Returns the error with the job before it."""
        return f"Job {self.job.id} of model {self.job.model} {self.job.state}: {super().__str__()}"

    def __reduce__(self) -> tuple[object, ...]:
        """Keeps the job through pickle."""
        return TrainingFailed, (self.job,)


_CLASSES: Mapping[grpc.StatusCode, type[FitServeError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.ABORTED: Aborted,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.DATA_LOSS: DataLoss,
    grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
    grpc.StatusCode.INTERNAL: Internal,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
}
_CODES: Mapping[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def from_status(status: status_pb2.Status) -> FitServeError:
    """Returns the exception for a google.rpc.Status, of the class that fits its code."""
    return _CLASSES.get(_status_code(status.code), FitServeError)(status)


def from_rpc_error(error: grpc.RpcError) -> FitServeError:
    """Returns the exception for the error of a call, with the details of its trailing metadata if there are
    any.
    """
    # Every error that a call raises is a grpc.Call too; RpcError itself declares no method.
    call = cast("grpc.Call", error)
    return from_call(call.code(), call.details(), call.trailing_metadata())


def from_call(
    code: grpc.StatusCode, details: str | None, metadata: Iterable[tuple[str, str | bytes]] | None
) -> FitServeError:
    """Returns the exception for what a call ended with, rich if its trailing metadata hold a google.rpc.Status."""
    plain = status_pb2.Status(code=code.value[0], message=details or "")
    return from_status(_rich_status(metadata or ()) or plain)


def cancelled() -> Cancelled:
    """Returns the error of a call that this program itself cancelled, for instance by closing the client."""
    return Cancelled(status_pb2.Status(code=grpc.StatusCode.CANCELLED.value[0], message="the call was cancelled"))


def _rich_status(metadata: Iterable[tuple[str, str | bytes]]) -> status_pb2.Status | None:
    for key, value in metadata:
        if key == _STATUS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None
    return None


def _status_code(number: int) -> grpc.StatusCode:
    return _CODES.get(number, grpc.StatusCode.UNKNOWN)


def _unpack(detail: any_pb2.Any) -> Message:
    try:
        descriptor = descriptor_pool.Default().FindMessageTypeByName(detail.TypeName())
        message = message_factory.GetMessageClass(descriptor)()
        detail.Unpack(message)
    except (KeyError, DecodeError):
        return detail
    return message


def _restore(kind: type[FitServeError], status: bytes) -> FitServeError:
    return kind(status_pb2.Status.FromString(status))
