"""Requests built and replies read, without any I/O: what the sync and the async client share."""

from __future__ import annotations

import datetime
import difflib
import math
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, overload

import numpy as np
import numpy.typing as npt
from google.protobuf import struct_pb2
from google.protobuf.message import Message

from fitserve import _features, _tensors, errors, resources
from fitserve._features import Rows, TrainingData
from fitserve._tensors import Array
from fitserve.resources import Prediction
from fitserve.v1 import (
    data_pb2,
    dataset_pb2,
    model_service_pb2,
    prediction_service_pb2,
    training_job_pb2,
    training_service_pb2,
)

Task: TypeAlias = Literal["classification", "regression"]
Existing: TypeAlias = Literal["fail", "new_version"]
OnError: TypeAlias = Literal["raise", "yield"]
Chunk: TypeAlias = tuple[Rows, npt.ArrayLike | None] | tuple[Rows, npt.ArrayLike | None, npt.ArrayLike | None]
Source: TypeAlias = Iterator[Chunk] | AsyncIterator[Chunk]

INLINE_BYTES = 48_000_000
"""Training data larger than this does not travel inside the FitRequest but as an upload."""

CHUNK_BYTES = 3_000_000
"""The size of an upload's messages: below the 4 MB that every gRPC proxy lets through."""

_TASKS = {
    "classification": training_job_pb2.TASK_CLASSIFICATION,
    "regression": training_job_pb2.TASK_REGRESSION,
}
_EXISTING = {
    "fail": training_service_pb2.EXISTING_MODEL_FAIL,
    "new_version": training_service_pb2.EXISTING_MODEL_NEW_VERSION,
}


class PageRequest(Protocol):
    """A request for one page of a list."""

    page_token: str


class PageReply(Protocol):
    """One page of a list."""

    next_page_token: str


@dataclass(frozen=True)
class Fit:
    """What `fit` was asked for.

    Attributes:
        request: The request, complete but for data that must be uploaded first.
        upload: That data, or None.
    """

    request: training_service_pb2.FitRequest
    upload: TrainingData | None


def fit(
    model: str,
    rows: Rows | data_pb2.Inputs | None,
    targets: npt.ArrayLike | None,
    *,
    algorithm: str | Message,
    hyperparameters: Mapping[str, object],
    target: str | Sequence[str],
    dataset: str,
    task: Task | None,
    validation_fraction: float | None,
    seed: int | None,
    cores: int | None,
    time_limit: float | datetime.timedelta | None,
    memory_limit_bytes: int | None,
    queue: bool,
    existing: Existing,
    load: bool,
    request_id: str | None,
    sample_weight: npt.ArrayLike | None,
    class_weights: Mapping[str, float] | None,
    prefer_gpu: bool,
    text_columns: Sequence[str],
) -> Fit:
    """Builds a FitRequest.

    Raises:
        TypeError: There is no data or there are two kinds of it, or a hyper-parameter is unknown or of a
            wrong type.
        ValueError: The algorithm, the task or `existing` is unknown, or the data has a wrong shape.
    """
    request = training_service_pb2.FitRequest(
        model=model,
        target=target if isinstance(target, str) else "",
        targets=() if isinstance(target, str) else target,
        validation_fraction=validation_fraction,
        seed=seed,
        cores=cores,
        memory_limit_bytes=memory_limit_bytes,
        queue=queue,
        existing=_EXISTING[known("existing", existing, _EXISTING)],
        load=load,
        prefer_gpu=prefer_gpu,
        text_columns=text_columns,
        # With an identifier the call is idempotent: a retry after a broken connection starts no second job.
        request_id=request_id or uuid.uuid4().hex,
    )
    if dataset:
        request.dataset = dataset
    if task is not None:
        request.task = _TASKS[known("task", task, _TASKS)]
    if time_limit is not None:
        seconds = time_limit if isinstance(time_limit, datetime.timedelta) else datetime.timedelta(seconds=time_limit)
        request.time_limit.FromTimedelta(seconds)
    _set_algorithm(request, algorithm, hyperparameters)
    request.class_weights.update(class_weights or {})
    return Fit(request, _set_data(request, rows, targets, sample_weight))


def _set_data(
    request: training_service_pb2.FitRequest,
    rows: Rows | data_pb2.Inputs | None,
    targets: npt.ArrayLike | None,
    weights: npt.ArrayLike | None,
) -> TrainingData | None:
    """Puts the data into the request, or returns it if it is too large for that."""
    if (rows is None) == (not request.dataset):
        raise TypeError("fit() takes either X, or dataset=DIGEST of uploaded data")
    if rows is None:
        if targets is not None or weights is not None:
            raise TypeError("fit() takes y together with X; uploaded data has its own targets, or target=COLUMN")
        return None
    if (targets is None) == (not (request.target or request.targets)):
        raise TypeError("fit() takes either y, or target=COLUMN to name a column of X")
    if isinstance(rows, data_pb2.Inputs):
        column = None if targets is None else _features.column("", targets).message()
        inline = training_service_pb2.InlineDataset(inputs=rows, targets=column)
        inline.weights.extend([] if weights is None else np.asarray(weights, np.float64))
        request.inline.CopyFrom(inline)
        return None
    data = _features.training_data(rows, targets, weights)
    if data.size_bytes > INLINE_BYTES:
        return data
    request.inline.CopyFrom(data.inline())
    return None


def _set_algorithm(
    request: training_service_pb2.FitRequest, algorithm: str | Message, hyperparameters: Mapping[str, object]
) -> None:
    choices = {one.name: one for one in request.DESCRIPTOR.oneofs_by_name["algorithm"].fields}
    if isinstance(algorithm, Message):
        names = [name for name, one in choices.items() if one.message_type == algorithm.DESCRIPTOR]
        if not names:
            raise ValueError(f"{algorithm.DESCRIPTOR.name} is no algorithm; there are {', '.join(choices)}")
        if hyperparameters:
            raise TypeError(f"set {', '.join(hyperparameters)} in the message {algorithm.DESCRIPTOR.name}")
        getattr(request, names[0]).CopyFrom(algorithm)
        return
    message: Message = getattr(request, known("algorithm", algorithm, choices))
    # An algorithm with its defaults is an empty message, which still must be there.
    message.SetInParent()
    for name, value in hyperparameters.items():
        _set_hyperparameter(message, algorithm, name, value)


def _set_hyperparameter(message: Message, algorithm: str, name: str, value: object) -> None:
    known_fields = message.DESCRIPTOR.fields_by_name
    if name not in known_fields:
        raise TypeError(f"{algorithm} has no hyper-parameter {name!r}; {_nearest(name, known_fields)}")
    plain = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    # None stands for the default, as in scikit-learn.
    if plain is None:
        return
    try:
        if known_fields[name].is_repeated:
            getattr(message, name).extend(plain)
        else:
            setattr(message, name, plain)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{algorithm} takes no {value!r} as {name}: {error}") from error


def known(what: str, name: str, names: Iterable[str]) -> str:
    """Returns a name that is among the known ones.

    Raises:
        ValueError: It is not; the message names the nearest known one.
    """
    if name not in names:
        raise ValueError(f"there is no {what} {name!r}; {_nearest(name, names)}")
    return name


def _nearest(name: str, names: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(name, list(names), n=1)
    return f"did you mean {nearest[0]!r}?" if nearest else f"there are {', '.join(names)}"


@overload
def chunks(rows: Rows | Iterator[Chunk], targets: npt.ArrayLike | None) -> Iterable[Chunk]: ...


@overload
def chunks(rows: Rows | Source, targets: npt.ArrayLike | None) -> Iterable[Chunk] | AsyncIterable[Chunk]: ...


def chunks(rows: Rows | Source, targets: npt.ArrayLike | None) -> Iterable[Chunk] | AsyncIterable[Chunk]:
    """Returns what to upload as tuples of features, targets and weights: one, or those of an iterator.

    Raises:
        TypeError: There is an iterator and targets too.
    """
    if not isinstance(rows, Iterator | AsyncIterator):
        return [(rows, targets)]
    if targets is not None:
        raise TypeError("an iterator of chunks yields pairs (X, y); y beside it has no meaning")
    return rows


def read_chunk(chunk: Chunk) -> TrainingData:
    """Reads one pair of features and targets, or these and weights.

    Raises:
        TypeError, ValueError: It is no pair, or of a wrong type or shape.
    """
    if not isinstance(chunk, tuple) or len(chunk) not in (2, 3):
        raise TypeError(
            "an iterator of chunks yields pairs (X, y), or (X, None), or (X, y, sample_weight), "
            f"not {type(chunk).__name__}"
        )
    return _features.training_data(*chunk)


def upload_description(display_name: str) -> training_service_pb2.UploadDatasetRequest:
    """Builds the first message of an upload."""
    description = dataset_pb2.DatasetDescription(display_name=display_name, format=dataset_pb2.DATASET_FORMAT_CHUNKS)
    return training_service_pb2.UploadDatasetRequest(description=description)


def upload_parts(data: TrainingData, chunk_rows: int | None) -> Iterator[training_service_pb2.UploadDatasetRequest]:
    """Yields the messages that hold some data, each of `chunk_rows` rows or about CHUNK_BYTES."""
    for part in data.parts(chunk_rows, CHUNK_BYTES):
        targets = part.targets.message() if part.targets else None
        several = part.several.message().table if part.several else None
        message = dataset_pb2.DatasetChunk(
            inputs=part.features.message(), targets=targets, weights=part.weights, target_table=several
        )
        yield training_service_pb2.UploadDatasetRequest(chunk=message)


def inputs(rows: Rows | data_pb2.Inputs) -> data_pb2.Inputs:
    """Returns the rows to predict as a message; a ready message stays as it is."""
    return rows if isinstance(rows, data_pb2.Inputs) else _features.inputs(rows)


def predict_request(
    model: str, rows: Rows | data_pb2.Inputs, version: int | str | None, include_probabilities: bool
) -> prediction_service_pb2.PredictRequest:
    """Builds a PredictRequest."""
    number, alias = named(version)
    return prediction_service_pb2.PredictRequest(
        model=model, version=number, alias=alias, inputs=inputs(rows), include_probabilities=include_probabilities
    )


def rows_or_tensors(
    rows: Rows | data_pb2.Inputs | None, tensors: Mapping[str, npt.ArrayLike] | None
) -> Rows | data_pb2.Inputs:
    """Returns what a call is to predict.

    Raises:
        TypeError: There are rows and tensors, or neither, or a tensor is of a type that tensors do not have.
    """
    if tensors is not None and rows is None:
        return _features.tensors(tensors)
    if rows is None or tensors is not None:
        raise TypeError("predict() takes either X, or tensors={NAME: ARRAY} for a model of named tensors")
    return rows


def named(version: int | str | None) -> tuple[int | None, str]:
    """Returns a version as the two fields of a request that name one: its number, or its alias.

    Raises:
        ValueError: The alias is empty, which the service would take for none.
    """
    if version == "":
        raise ValueError("an alias has at least one character; None means the version that serves, or the latest")
    return (None, version) if isinstance(version, str) else (version, "")


def check_stream(max_in_flight: int, on_error: str) -> None:
    """Checks the options of a prediction stream.

    Raises:
        ValueError: There can never be a batch in flight, or `on_error` is unknown.
    """
    known("on_error", on_error, ("raise", "yield"))
    if max_in_flight < 1:
        raise ValueError(f"max_in_flight must be at least 1, not {max_in_flight}")


def stream_config(
    model: str, version: int | str | None, include_probabilities: bool
) -> prediction_service_pb2.PredictStreamRequest:
    """Builds the first message of a prediction stream."""
    number, alias = named(version)
    config = prediction_service_pb2.PredictStreamConfig(
        model=model, version=number, alias=alias, include_probabilities=include_probabilities
    )
    return prediction_service_pb2.PredictStreamRequest(config=config)


def stream_inputs(rows: Rows | data_pb2.Inputs) -> prediction_service_pb2.PredictStreamRequest:
    """Builds a message with a batch of a prediction stream."""
    return prediction_service_pb2.PredictStreamRequest(inputs=inputs(rows))


def read_batch(
    reply: prediction_service_pb2.PredictStreamResponse, on_error: OnError
) -> Prediction | errors.FitServeError:
    """Reads the answer to one batch of a stream.

    Raises:
        FitServeError: The batch was bad and `on_error` is "raise".
    """
    if reply.WhichOneof("result") == "response":
        return read_prediction(reply.response)
    error = errors.from_status(reply.error)
    error.add_note(f"This is the answer to batch {reply.index} of the stream.")
    if on_error == "raise":
        raise error
    return error


def read_prediction(reply: prediction_service_pb2.PredictResponse) -> Prediction:
    """Reads a PredictResponse of either form: tensors, or values for inputs typed by hand."""
    if reply.HasField("prediction_tensor"):
        predictions = _tensors.decode(reply.prediction_tensor)
    else:
        predictions = _label_array(resources.labels(reply.predictions))
    # Labels travel as JSON values, in which integers and numbers look alike; the predictions know their type.
    integers = predictions.dtype.kind == "i"
    classes = _label_array(resources.labels(reply.classes, integers), predictions) if reply.classes else None
    outputs = {name: _tensors.decode(tensor) for name, tensor in reply.outputs.items()}
    if outputs:
        predictions = _rows_of(outputs)
    return Prediction(
        predictions=predictions,
        probabilities=_probabilities(reply),
        classes=classes,
        model=reply.model,
        version=reply.version,
        outputs=outputs,
    )


def _rows_of(outputs: Mapping[str, Array]) -> Array:
    """Returns the outputs of a model of named tensors as one dict a row; none if they have no rows in common."""
    counts = {len(output) for output in outputs.values() if output.ndim}
    rows = np.empty(counts.pop() if len(counts) == 1 else 0, dtype=object)
    for row in range(len(rows)):
        values = {name: output[row].tolist() for name, output in outputs.items()}
        rows[row] = {
            name: value[0] if isinstance(value, list) and len(value) == 1 else value for name, value in values.items()
        }
    return rows


def _probabilities(reply: prediction_service_pb2.PredictResponse) -> Array | None:
    if reply.HasField("probability_tensor"):
        return _tensors.decode(reply.probability_tensor)
    if reply.probabilities:
        rows = [[_number(value) for value in row.values] for row in reply.probabilities]
        return np.array(rows, np.float32)
    return None


def _number(value: struct_pb2.Value) -> float:
    """Returns a number; null is one that JSON does not know."""
    return value.number_value if value.HasField("number_value") else math.nan


def _label_array(labels: list[object], like: Array | None = None) -> Array:
    if like is not None and like.dtype.kind in "ifb":
        return np.array(labels, dtype=like.dtype)
    if {type(None)} < {type(label) for label in labels} <= {type(None), int, float}:
        labels = [math.nan if label is None else label for label in labels]
    return np.array(labels) if labels else _tensors.text_array([])


def load_request(
    name: str,
    version: int | str | None,
    *,
    evict: bool,
    alongside: bool,
    instances: int | None,
    max_batch_rows: int | None,
    max_queue_rows: int | None,
) -> model_service_pb2.LoadRequest:
    """Builds a LoadRequest."""
    number, alias = named(version)
    return model_service_pb2.LoadRequest(
        model=name,
        version=number,
        alias=alias,
        evict=evict,
        alongside=alongside,
        instances=instances,
        max_batch_rows=max_batch_rows,
        max_queue_rows=max_queue_rows,
    )


def list_jobs_request(model: str | None, states: Iterable[str]) -> training_service_pb2.ListTrainingJobsRequest:
    """Builds the request for the first page of jobs.

    Raises:
        ValueError: There is no such state.
    """
    names = [name.removeprefix("JOB_STATE_") for name in training_job_pb2.JobState.keys()[1:]]
    numbers = [training_job_pb2.JobState.Value(f"JOB_STATE_{known('state', one, names)}") for one in states]
    return training_service_pb2.ListTrainingJobsRequest(model=model or "", states=numbers, page_size=1000)
