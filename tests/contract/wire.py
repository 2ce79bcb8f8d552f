"""The service as a caller without our client sees it: raw stubs, and errors read from the trailers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import grpc
from fitserve.v1 import (
    data_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2,
    prediction_service_pb2_grpc,
    server_service_pb2,
    server_service_pb2_grpc,
    training_service_pb2,
    training_service_pb2_grpc,
)
from google.protobuf import struct_pb2
from google.protobuf.descriptor import MethodDescriptor
from google.rpc import error_details_pb2, status_pb2
from tritonclient.grpc import service_pb2 as oip_pb2

Scalar = float | str | bool | None
Nested = Sequence["Scalar | Nested"]

METHODS: dict[str, MethodDescriptor] = {
    f"/{service.full_name}/{method.name}": method
    for file in (training_service_pb2, model_service_pb2, prediction_service_pb2, server_service_pb2, oip_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
"""All methods of the contract, and of Triton's, by their paths."""


@dataclass(frozen=True)
class Stubs:
    """Stubs of all services over one channel."""

    channel: grpc.Channel
    training: training_service_pb2_grpc.TrainingServiceStub
    models: model_service_pb2_grpc.ModelServiceStub
    predictions: prediction_service_pb2_grpc.PredictionServiceStub
    server: server_service_pb2_grpc.ServerServiceStub


def stubs_of(channel: grpc.Channel) -> Stubs:
    return Stubs(
        channel,
        training_service_pb2_grpc.TrainingServiceStub(channel),
        model_service_pb2_grpc.ModelServiceStub(channel),
        prediction_service_pb2_grpc.PredictionServiceStub(channel),
        server_service_pb2_grpc.ServerServiceStub(channel),
    )


class Refusal(NamedTuple):
    """An error as it came over the wire; reason and the rest are empty if it has no details."""

    code: grpc.StatusCode
    reason: str
    domain: str
    metadata: dict[str, str]
    fields: list[str]
    message: str


def error_of(call: Callable[[], object]) -> Refusal:
    """Makes a call that must fail and returns its error."""
    try:
        answer = call()
    except grpc.RpcError as error:
        trailers = dict(error.trailing_metadata() or ())
        return _refusal(error.code(), error.details(), trailers.get("grpc-status-details-bin", b""))
    raise AssertionError(f"the call was accepted: {answer}")


def _refusal(code: grpc.StatusCode, message: str, details: bytes) -> Refusal:
    info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    status = status_pb2.Status.FromString(details)
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(request)
    if details:
        assert (status.code, status.message) == (code.value[0], message)
    fields = [violation.field for violation in request.field_violations]
    return Refusal(code, info.reason, info.domain, dict(info.metadata), fields, message)


# -- inputs ----------------------------------------------------------------------------------------------------------


def list_value(values: Nested) -> struct_pb2.ListValue:
    message = struct_pb2.ListValue()
    message.extend(values)
    return message


def rows(*rows: Nested) -> data_pb2.Inputs:
    return data_pb2.Inputs(rows=[list_value(row) for row in rows])


def records(*records: dict[str, Scalar | Nested]) -> data_pb2.Inputs:
    inputs = data_pb2.Inputs()
    for record in records:
        inputs.records.add().update(record)
    return inputs


def column(name: str, values: Sequence[float] | Sequence[str], **more: Sequence[int]) -> data_pb2.Column:
    if any(isinstance(value, str) for value in values):
        return data_pb2.Column(name=name, strings=data_pb2.StringValues(values=values), **more)
    return data_pb2.Column(name=name, doubles=data_pb2.DoubleValues(values=values), **more)


def table(*columns: data_pb2.Column) -> data_pb2.Inputs:
    return data_pb2.Inputs(table=data_pb2.Table(columns=columns))


def tensor(shape: Sequence[int], data: bytes, dtype: int = data_pb2.DATA_TYPE_FP32) -> data_pb2.Inputs:
    return data_pb2.Inputs(tensor=data_pb2.Tensor(dtype=dtype, shape=shape, data=data))
