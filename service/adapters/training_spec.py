"""Writes the spec file that a training process reads."""

from __future__ import annotations

import errno

from fitserve.v1 import model_pb2, training_job_pb2
from fitserve.v1.training_spec_pb2 import ImportSpec, TrainingSpec

from service.contract_values import COLUMN_KINDS, LABEL_DTYPES, TASKS, tensor_spec, value_of_label
from service.domain.entities import Signature, Task
from service.domain.errors import Reason, ServiceError
from service.domain.ports import ConversionOrder, ProcessOrder, TrainingOrder


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
    spec.request.task = TASKS[Task(order.task)]
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
        task=TASKS[signature.task] if signature.task else training_job_pb2.TASK_UNSPECIFIED,
        shape=signature.shape,
        columns=[
            model_pb2.ColumnSpec(name=column.name, kind=COLUMN_KINDS[column.kind]) for column in signature.columns
        ],
        missing_values=signature.missing_values,
        classes=[value_of_label(label) for label in signature.classes],
        prediction_dtype=LABEL_DTYPES[signature.label_kind],
        inputs=[tensor_spec(spec) for spec in signature.inputs if signature.takes_tensors],
        outputs=[tensor_spec(spec) for spec in signature.outputs if signature.takes_tensors],
        targets=signature.targets,
    )
