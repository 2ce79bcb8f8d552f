"""Requests of the Open Inference Protocol to rows of features, and scores to its responses.

A model that Fit has trained has one FP32 input `features` and one FP32 output `scores`, so a request's bytes join the
batches of Predict as they came. Those of models of named tensors are read by `oip_named_tensors.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from tritonclient.grpc import service_pb2 as pb

from service.domain.entities import INPUT, OUTPUT, Choice, Floats, Label
from service.domain.errors import Reason, ServiceError, invalid
from service.domain.nearest import hint
from service.domain.predictor import Prediction
from service.rpc.tensors import array_of, sized
from service.rpc.validate import MODEL_NAME

DATATYPE = "FP32"
DTYPE = np.dtype("<f4")
VERSION = re.compile(r"[1-9][0-9]{0,8}")
"""A version's number; any other text is an alias, which begins with a letter."""

MAX_CLASS_TEXTS = 100_000
"""The most "score:index:label" texts of one response: writing them holds up all other calls."""

METHOD = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True)
class Rows:
    """The rows of one request: a view [rows, ...] of `data`."""

    features: Floats
    data: bytes


def version_of(text: str, field: str) -> Choice:
    """Returns a version, an alias, or None for the version that serves. Raises ServiceError INVALID_FIELD."""
    if not text:
        return None
    if VERSION.fullmatch(text):
        return int(text)
    if not MODEL_NAME.fullmatch(text):
        raise invalid(field, f"{text[:80]!r} is no version; send a whole number from 1 on, an alias, or nothing")
    return text


# -- requests --------------------------------------------------------------------------------------------------------


def values_to_read(request: pb.ModelInferRequest) -> int:
    """Returns how many values of a request are read one by one: those that did not come as bytes."""
    return sum(len(tensor.contents.fp32_contents) for tensor in request.inputs)


def rows_of(request: pb.ModelInferRequest) -> Rows:
    """Returns the rows of a request.

    Raises:
        ServiceError: INVALID_FIELD naming the part that does not fit; UNIMPLEMENTED for shared memory.
    """
    if len(request.inputs) != 1 or request.inputs[0].name != INPUT:
        names = [tensor.name[:80] for tensor in request.inputs]
        near = hint(names[0], [INPUT]) if names else ""
        raise invalid("inputs", f"the inputs are {names} and the model takes one, {INPUT!r}{near}")
    tensor = request.inputs[0]
    refuse_shared_memory(tensor.parameters, "inputs[0]")
    if tensor.datatype != DATATYPE:
        raise invalid("inputs[0].datatype", f"{tensor.datatype[:80]!r} was sent and the model takes {DATATYPE!r}")
    data, path = _data_of(request)
    features = array_of(data, DTYPE, tuple(tensor.shape), path, "inputs[0].shape")
    return Rows(features, data)  # type: ignore[arg-type]  # numpy's types do not follow the dtype


def _data_of(request: pb.ModelInferRequest) -> tuple[bytes, str]:
    """Returns the bytes of the one input, and where in the request they stand."""
    contents, raw = request.inputs[0].contents, request.raw_input_contents
    given = [field.name for field, _ in contents.ListFields()]
    if len(raw) > 1 or (raw and given):
        more = f" and inputs[0].contents.{given[0]}" if given else ""
        raise invalid("raw_input_contents", f"there are {len(raw)} entries{more} for one input; send its data once")
    if raw:
        return raw[0], "raw_input_contents[0]"
    if given != ["fp32_contents"]:
        problem = f"{' and '.join(given)} are set" if given else "there is no data"
        raise invalid("inputs[0].contents", f"{problem}; send raw_input_contents, or fp32_contents here")
    return np.array(contents.fp32_contents, DTYPE).tobytes(), "inputs[0].contents.fp32_contents"


def classes_wanted(request: pb.ModelInferRequest) -> int | None:
    """Returns how many classes of each row are asked for instead of the scores, or None.

    Raises:
        ServiceError: INVALID_FIELD naming an output that no model has, or a bad `classification`; UNIMPLEMENTED for
            shared memory.
    """
    count: int | None = None
    for index, output in enumerate(request.outputs):
        path = f"outputs[{index}]"
        if output.name != OUTPUT:
            raise invalid(f"{path}.name", f"there is no output {output.name[:80]!r}; the model has {OUTPUT!r}")
        refuse_shared_memory(output.parameters, path)
        if "classification" in output.parameters:
            count = output.parameters["classification"].int64_param
            if count < 1:
                raise invalid(f"{path}.parameters.classification", "it is not an int64_param of 1 or more")
    return count


def refuse_shared_memory(parameters: Mapping[str, pb.InferParameter], path: str) -> None:
    """Refuses a tensor that lies in shared memory. Raises ServiceError UNIMPLEMENTED."""
    if any(name.startswith("shared_memory") for name in parameters):
        raise ServiceError(
            Reason.UNIMPLEMENTED,
            f"{path}: shared memory is not served; send tensors in raw_input_contents and take them from "
            "raw_output_contents",
            {"method": METHOD},
        )


# -- responses -------------------------------------------------------------------------------------------------------


def response_of(request: pb.ModelInferRequest, prediction: Prediction, classes: int | None) -> pb.ModelInferResponse:
    """Returns the response to a request: the scores, or the best classes of each row.

    Raises:
        ServiceError: INVALID_FIELD if these would be too many texts.
    """
    scores = prediction.scores
    shape, datatype = scores.shape, DATATYPE
    if classes is None:
        data = scores.tobytes()
    else:
        shape, datatype = (len(scores), min(classes, scores.shape[1])), "BYTES"
        data = _best_classes(scores, shape[1], prediction.signature.classes)
    return pb.ModelInferResponse(
        model_name=prediction.model,
        model_version=str(prediction.version),
        id=request.id,
        outputs=[pb.ModelInferResponse.InferOutputTensor(name=OUTPUT, datatype=datatype, shape=shape)],
        raw_output_contents=[data],
    )


def _best_classes(scores: Floats, count: int, classes: tuple[Label, ...]) -> bytes:
    """Returns the highest scores of each row as texts "score:index:label", without the label for regression."""
    if len(scores) * count > MAX_CLASS_TEXTS:
        raise invalid(
            "outputs[0].parameters.classification",
            f"{len(scores)} rows with {count} classes each are more than {MAX_CLASS_TEXTS} texts; send fewer rows in a "
            "request, or ask for the scores themselves",
        )
    ends = [f":{index}:{_text(label)}" for index, label in enumerate(classes)]
    ends = ends or [f":{index}" for index in range(scores.shape[1])]
    best = np.argsort(-scores, axis=1, kind="stable")[:, :count].tolist()
    return b"".join(
        sized(f"{row[index]:f}{ends[index]}") for row, indices in zip(scores, best, strict=True) for index in indices
    )


def _text(label: Label) -> str:
    return str(label).lower() if isinstance(label, bool) else str(label)
