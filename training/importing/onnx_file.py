"""Reads ONNX files, and gives their models the input and the output that every model of FitServe has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, ValueInfoProto, helper, numpy_helper

from training.data import Floats
from training.errors import invalid_field
from training.export import graph
from training.export.sessions import session_of
from training.importing import found, independence, onnx_graph, onnx_tensors
from training.importing.found import Found
from training.importing.labels import MOST_CLASSES
from training.importing.onnx_graph import Scores
from training.importing.spec import MOST_FEATURES, SIGNATURE, Spec, Wanted
from training.importing.tensors import FoundTensors
from training.spec import Task

# What the onnxruntime of NVIDIA's Triton 26.09 reads for sure; the embedded one reads more.
MOST_IR = 11
LEAST_IR = 4
MOST_OPSETS = {"": 23, "ai.onnx.ml": 5, "com.microsoft": 1}

_WHAT = "an ONNX model"
_PROBES = 3


@dataclass(frozen=True)
class _Original:
    """A model as it came, reduced to its scores.

    Attributes:
        input: Its one input.
        shape: The shape of one row.
        scores: Its scores.
    """

    model: onnx.ModelProto
    input: ValueInfoProto
    shape: tuple[int, ...]
    scores: Scores

    def outcome(self, features: Floats) -> NDArray[np.float64]:
        """Returns what it predicts, with the shape that it has there."""
        double = self.input.type.tensor_type.elem_type == TensorProto.DOUBLE
        rows = features.astype(np.float64) if double else features
        session = session_of(self.model.SerializeToString())
        return np.asarray(session.run([self.scores.name], {self.input.name: rows})[0], np.float64)


@dataclass(frozen=True)
class _OnnxFile:
    """A model that was read: what is served, and what it predicted before."""

    served: onnx.ModelProto
    before: Callable[[Floats], NDArray[np.float64]]

    def predict(self, features: Floats) -> NDArray[np.float64]:
        """Returns the predictions of the model as it came."""
        return self.before(features)

    def export(self) -> onnx.ModelProto:
        """Returns what is served."""
        return self.served


def read(spec: Spec) -> Found | FoundTensors:
    """Returns the model in the file of `spec`.

    Raises:
        FitError: INVALID_FIELD; EXPORT_NOT_EQUAL.
    """
    with found.reading(_WHAT):
        model = onnx.load_model_from_string(spec.file.read_bytes())
        _check(model)
    if onnx_tensors.are_wanted(model, spec.wanted):
        return onnx_tensors.read(model, spec)
    return _read_scores(model, spec)


def _read_scores(model: onnx.ModelProto, spec: Spec) -> Found:
    """Returns a model of one input of features and one output of scores."""
    original = _reduced(model, spec.wanted)
    with found.reading("an ONNX model that onnxruntime can run"):
        outcome = original.outcome(found.random_rows(original.shape)[:_PROBES])
    count = _count(outcome)
    task = _task(original.scores, spec.wanted, count)
    pair = task == "classification" and count == 1  # the probability of the second of two classes

    def predict(features: Floats) -> NDArray[np.float64]:
        scores = original.outcome(features).reshape(len(features), count)
        return np.concatenate([1.0 - scores, scores], axis=1) if pair else scores

    with found.reading(_WHAT):
        rows = found.random_rows(original.shape)
        independence.check(predict, rows)
        rows = rows[np.isfinite(predict(rows)).all(axis=1)]
        served = _served(original, count, pair)
    return Found(
        trained=_OnnxFile(served, predict),
        task=task,
        shape=original.shape,
        score_count=2 if pair else count,
        columns=(),
        missing_values=False,
        labels=original.scores.labels,
        rows=rows,
        libraries=(),
    )


def _check(model: onnx.ModelProto) -> None:
    """Refuses what is no valid model, what Triton could not read, and what other files belong to."""
    for opset in model.opset_import:
        domain = "" if opset.domain == "ai.onnx" else opset.domain
        if domain not in MOST_OPSETS:
            raise found.refused(f"the operators of the domain {domain[:80]!r} are not served; export without them")
        if opset.version > MOST_OPSETS[domain]:
            raise found.refused(
                f"it needs version {opset.version} of the operators {domain or 'ai.onnx'!r}, and Triton has "
                f"{MOST_OPSETS[domain]}; export it for that opset"
            )
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in onnx_graph.tensors(model)):
        raise found.refused("parts of it lie in other files (external data); save the model as one file")
    if model.training_info:
        raise found.refused("it has a part for training; export it for inference")
    onnx_graph.drop_default_inputs(model.graph)
    model.ir_version = max(LEAST_IR, min(model.ir_version, MOST_IR))
    onnx.checker.check_model(model, full_check=True)


def _reduced(model: onnx.ModelProto, wanted: Wanted) -> _Original:
    """Returns the model with its scores as the only output."""
    features = model.graph.input[0]
    shape = _shape(features, wanted)
    with found.reading(_WHAT):
        inferred = onnx.shape_inference.infer_shapes(model)
    scores = onnx_graph.scores_of(inferred)
    del model.graph.output[:]
    model.graph.output.add(name=scores.name).type.tensor_type.elem_type = scores.type
    return _Original(model, features, shape, scores)


def _shape(features: ValueInfoProto, wanted: Wanted) -> tuple[int, ...]:
    """Returns the shape of one row: the file's, completed by the caller's."""
    tensor = features.type.tensor_type
    lengths = [dim.dim_value for dim in tensor.shape.dim]
    if tensor.HasField("shape") and len(lengths) < 2:
        raise found.refused(f"its input has {len(lengths)} dimensions; export it for rows, [rows, columns] or more")
    if lengths and lengths[0] > 0:
        raise found.refused(
            f"its input takes exactly {lengths[0]} rows; export it with a first dimension of any length (dynamic axes), or "
            f"name its outputs in {SIGNATURE}.outputs to have it served for tensors of exactly that shape"
        )
    known = lengths[1:] or [0] * len(wanted.shape)
    if wanted.shape and (
        len(wanted.shape) != len(known) or any(a not in (0, b) for a, b in zip(known, wanted.shape, strict=True))
    ):
        raise invalid_field(
            f"{SIGNATURE}.shape",
            f"it is {list(wanted.shape)} and the file's input has {['?', *(n or '?' for n in known)]}",
        )
    shape = wanted.shape or tuple(known)
    if not shape or any(length < 1 for length in shape):
        raise invalid_field(f"{SIGNATURE}.shape", "the file does not say how long a row is; give the shape of one row")
    if np.prod([float(length) for length in shape]) > MOST_FEATURES:
        raise found.refused(f"a row has more than {MOST_FEATURES} values, which no batch takes")
    return shape


def _count(outcome: NDArray[np.float64]) -> int:
    """Returns the number of scores of a row."""
    if outcome.shape[:1] != (_PROBES,) or outcome.size % _PROBES or not outcome.size:
        raise found.refused(
            f"for {_PROBES} rows it gives scores of the shape {list(outcome.shape)}; export it so that the first dimension "
            "is that of the rows"
        )
    count = outcome.size // _PROBES
    if count > MOST_CLASSES:
        raise found.refused(f"it gives {count} scores a row, and {MOST_CLASSES} are the most")
    return count


def _task(scores: Scores, wanted: Wanted, count: int) -> Task:
    task: Task | None = "classification" if scores.labelled else wanted.task
    if task is None:
        raise invalid_field(
            f"{SIGNATURE}.task",
            "the file does not say whether its output is a value or the probabilities of classes; set "
            "TASK_REGRESSION, or give classes; or name it in signature.outputs to get the tensor as it is",
        )
    if task == "regression" and count > 1:
        raise found.refused(
            f"it gives {count} values a row; regression gives one: leave the task out and name the output in "
            f"{SIGNATURE}.outputs to get the tensor as it is"
        )
    return task


def _served(original: _Original, count: int, pair: bool) -> onnx.ModelProto:
    """Returns the model from `features` to `scores`."""
    model = onnx.ModelProto()
    model.CopyFrom(original.model)
    new = onnx_graph.set_aside(model.graph, (graph.FEATURES, graph.SCORES))
    inner, outer = (
        new.get(original.input.name, original.input.name),
        new.get(original.scores.name, original.scores.name),
    )
    to = original.input.type.tensor_type.elem_type
    before = [helper.make_node("Cast", [graph.FEATURES], [inner], to=to)]
    last = "fitserve.second" if pair else graph.SCORES
    after = [
        helper.make_node("Cast", [outer], ["fitserve.floats"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["fitserve.floats", "fitserve.shape"], [last]),
    ]
    constants = {"fitserve.shape": np.array([-1, count])}
    if pair:
        after += [
            helper.make_node("Sub", ["fitserve.one", last], ["fitserve.first"]),
            helper.make_node("Concat", ["fitserve.first", last], [graph.SCORES], axis=1),
        ]
        constants["fitserve.one"] = graph.ONE
    _wrap(model.graph, before, after, constants)
    _declare(model.graph, original.shape, 2 if pair else count)
    onnx_graph.need_operators(model)
    return model


def _wrap(
    changed: onnx.GraphProto,
    before: Sequence[onnx.NodeProto],
    after: Sequence[onnx.NodeProto],
    constants: dict[str, NDArray[np.generic]],
) -> None:
    for place, node in enumerate(before):
        changed.node.insert(place, node)
    changed.node.extend(after)
    changed.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())


def _declare(changed: onnx.GraphProto, shape: Sequence[int], count: int) -> None:
    del changed.input[:], changed.output[:], changed.value_info[:]
    changed.input.append(helper.make_tensor_value_info(graph.FEATURES, TensorProto.FLOAT, ["batch", *shape]))
    changed.output.append(helper.make_tensor_value_info(graph.SCORES, TensorProto.FLOAT, ["batch", count]))
