"""A FitRequest, checked, to the domain's FitOrder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from fitserve.v1 import options_pb2, training_job_pb2, training_service_pb2

from service.domain.entities import AlgorithmTraits, DataBlock, FitOrder, Task
from service.domain.errors import invalid
from service.rpc import inputs, validate

TASKS = {
    training_job_pb2.TASK_UNSPECIFIED: None,
    training_job_pb2.TASK_CLASSIFICATION: Task.CLASSIFICATION,
    training_job_pb2.TASK_REGRESSION: Task.REGRESSION,
}
MAX_REQUEST_ID = 128
MIN_TIME_LIMIT = 0.001
"""The shortest time_limit, in seconds."""
MAX_TIME_LIMIT = 1e7
"""The longest, some four months."""

_ALGORITHMS = training_service_pb2.FitRequest.DESCRIPTOR.oneofs_by_name["algorithm"]


def fit_order(request: training_service_pb2.FitRequest) -> FitOrder:
    """Returns the order that a request describes.

    Raises:
        ServiceError: INVALID_FIELD naming the field that does not fit.
    """
    validate.model_name(request.model)
    validate.bounds(request)
    validate.text(request.request_id, "request_id", MAX_REQUEST_ID)
    validate.text(request.target, "target")
    algorithm = _algorithm(request)
    inputs.check_weights(request.class_weights.values(), "class_weights")
    time_limit = _time_limit(request)
    return FitOrder(
        model=request.model,
        algorithm=algorithm,
        task=TASKS[request.task],
        request=_without_data(request),
        request_id=request.request_id,
        request_hash=_hash(request) if request.request_id else "",
        data=_data(request),
        target=request.target,
        cores=request.cores if request.HasField("cores") else 1,
        time_limit=time_limit,
        memory_limit_bytes=request.memory_limit_bytes if request.HasField("memory_limit_bytes") else None,
        queue=request.queue,
        new_version=request.existing == training_service_pb2.EXISTING_MODEL_NEW_VERSION,
        load=request.load,
        class_weights=bool(request.class_weights),
        targets=_targets(request),
        text_columns=_text_columns(request),
    )


def _algorithm(request: training_service_pb2.FitRequest) -> AlgorithmTraits:
    name = request.WhichOneof("algorithm")
    if name is None:
        known = ", ".join(field.name for field in _ALGORITHMS.fields)
        raise invalid("algorithm", f"none is set; set one of {known}")
    message = getattr(request, name)
    validate.bounds(message, name)
    traits = message.DESCRIPTOR.GetOptions().Extensions[options_pb2.traits]
    return AlgorithmTraits(
        name,
        traits.classification,
        traits.regression,
        traits.missing_values,
        traits.images,
        native_categories=traits.native_categories,
        sample_weights=traits.sample_weights,
        multiple_targets=traits.multiple_targets,
        texts=traits.texts,
    )


def _targets(request: training_service_pb2.FitRequest) -> tuple[str, ...]:
    """Returns the names of several columns to predict. Raises INVALID_FIELD if they are not several, or not alone."""
    names = tuple(request.targets)
    if names and request.target:
        raise invalid("targets", "target is set too; give one of them")
    if len(names) == 1:
        raise invalid("targets", "it names one column; give that in target")
    _check_column_names(names, "targets")
    return names


def _text_columns(request: training_service_pb2.FitRequest) -> tuple[str, ...]:
    names = tuple(request.text_columns)
    _check_column_names(names, "text_columns")
    return names


def _check_column_names(names: Sequence[str], field: str) -> None:
    """Raises INVALID_FIELD if one is no name of a column, or there twice."""
    seen: set[str] = set()
    for index, name in enumerate(names):
        validate.text(name, f"{field}[{index}]")
        if name in seen:
            raise invalid(f"{field}[{index}]", f"column {name!r} is named twice")
        seen.add(name)


def _time_limit(request: training_service_pb2.FitRequest) -> float | None:
    if not request.HasField("time_limit"):
        return None
    seconds = request.time_limit.seconds + request.time_limit.nanos / 1e9
    if seconds < MIN_TIME_LIMIT:
        raise invalid("time_limit", f"{seconds:g} s is too short; leave it out for no limit")
    if seconds > MAX_TIME_LIMIT:
        raise invalid(
            "time_limit", f"{seconds:g} s is too long; at most {MAX_TIME_LIMIT:g} s, or leave it out for no limit"
        )
    return seconds


def _data(request: training_service_pb2.FitRequest) -> DataBlock | str:
    form = request.WhichOneof("data")
    if form == "inline":
        return inputs.block_of_inline(request.inline)
    if form == "dataset":
        return validate.dataset_digest(request.dataset)
    raise invalid("inline", "there is no data; set inline, or dataset with the digest of an upload")


def _without_data(request: training_service_pb2.FitRequest) -> bytes:
    """Returns the request for the training process, which finds its data in a file.

    Empty `labels` stay where there were some, so that messages can name them.
    """
    copy = training_service_pb2.FitRequest()
    for field, value in request.ListFields():
        if field.name == "inline":
            if value.HasField("labels"):
                copy.inline.labels.SetInParent()
        elif field.message_type is not None or field.is_repeated:
            getattr(copy, field.name).MergeFrom(value)  # which maps and lists have too
        else:
            setattr(copy, field.name, value)
    return copy.SerializeToString()


def _hash(request: training_service_pb2.FitRequest) -> str:
    return hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()
