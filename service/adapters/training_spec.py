"""Writes the spec file that a training process reads."""

from __future__ import annotations

import errno

from fitserve.v1 import data_pb2, model_pb2, training_job_pb2
from fitserve.v1.training_spec_pb2 import ImportSpec, TrainingSpec
from google.protobuf.struct_pb2 import Value

from service.domain.entities import Label, Signature, Task, ValueKind
from service.domain.errors import Reason, ServiceError
from service.domain.named_tensors import TensorSpec
from service.domain.ports import ConversionOrder, ProcessOrder, TrainingOrder

_TASKS = {
    Task.CLASSIFICATION: training_job_pb2.TASK_CLASSIFICATION,
    Task.REGRESSION: training_job_pb2.TASK_REGRESSION,
}
_COLUMN_KINDS = {
    ValueKind.NUMBER: model_pb2.COLUMN_KIND_NUMBER,
    ValueKind.INTEGER: model_pb2.COLUMN_KIND_INTEGER,
    ValueKind.BOOLEAN: model_pb2.COLUMN_KIND_BOOLEAN,
    ValueKind.CATEGORY: model_pb2.COLUMN_KIND_CATEGORY,
    ValueKind.TEXT: model_pb2.COLUMN_KIND_TEXT,
}
_PREDICTION_TYPES = {
    ValueKind.NUMBER: data_pb2.DATA_TYPE_FP64,
    ValueKind.INTEGER: data_pb2.DATA_TYPE_INT64,
    ValueKind.BOOLEAN: data_pb2.DATA_TYPE_BOOL,
    ValueKind.CATEGORY: data_pb2.DATA_TYPE_BYTES,
    None: data_pb2.DATA_TYPE_FP64,
}


def write_spec(order: ProcessOrder) -> None:
    """Writes the spec of an order to `order.spec`.

    Raises:
        ServiceError: DISK_FULL.
        OSError: The file cannot be written for another reason.
    """
    message = import_message(order) if isinstance(order, ConversionOrder) else spec_message(order)
    content = message.SerializeToString()
    try:
        # Nothing reads it after a crash, since a crash ends the job: it need not be synced.
        order.spec.write_bytes(content)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            full = "the disk is full; remove models or datasets and try again"
            raise ServiceError(Reason.DISK_FULL, full) from error
        raise


def spec_message(order: TrainingOrder) -> TrainingSpec:
    """Returns an order as the message that the training process reads."""
    spec = TrainingSpec(
        job=order.job,
        version=order.version,
        dataset_uri=str(order.dataset),
        dataset_digest=order.dataset_digest,
        cores=order.cores,
        output_uri=str(order.output),
        signature=None if order.signature is None else _signature_message(order.signature),
    )
    spec.request.ParseFromString(order.request)
    spec.request.task = _TASKS[Task(order.task)]
    spec.request.target = order.target
    if order.memory_limit_bytes is not None:
        spec.request.memory_limit_bytes = order.memory_limit_bytes
    return spec


def import_message(order: ConversionOrder) -> ImportSpec:
    """Returns an order as the message that the process reads which imports a model."""
    spec = ImportSpec(
        job=order.job,
        version=order.version,
        file_uri=str(order.file),
        file_digest=order.file_digest,
        output_uri=str(order.output),
        signature=None if order.signature is None else _signature_message(order.signature),
        memory_limit_bytes=order.memory_limit_bytes,
    )
    spec.description.ParseFromString(order.description)
    return spec


def _signature_message(signature: Signature) -> model_pb2.Signature:
    return model_pb2.Signature(
        task=_TASKS[signature.task] if signature.task else training_job_pb2.TASK_UNSPECIFIED,
        shape=signature.shape,
        columns=[
            model_pb2.ColumnSpec(name=column.name, kind=_COLUMN_KINDS[column.kind]) for column in signature.columns
        ],
        missing_values=signature.missing_values,
        classes=[_label_value(label) for label in signature.classes],
        prediction_dtype=_PREDICTION_TYPES[signature.label_kind],
        inputs=[_tensor_message(spec) for spec in signature.inputs if signature.takes_tensors],
        outputs=[_tensor_message(spec) for spec in signature.outputs if signature.takes_tensors],
        targets=signature.targets,
    )


def _tensor_message(spec: TensorSpec) -> model_pb2.TensorSpec:
    return model_pb2.TensorSpec(
        name=spec.name, dtype=data_pb2.DataType.Value(f"DATA_TYPE_{spec.dtype}"), shape=spec.shape
    )


def _label_value(label: Label) -> Value:
    if isinstance(label, bool):
        return Value(bool_value=label)
    if isinstance(label, int) and abs(label) > 2**53:  # which a double would round
        return Value(string_value=str(label))
    if isinstance(label, str):
        return Value(string_value=label)
    return Value(number_value=label)
