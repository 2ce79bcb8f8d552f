"""ONNX models that are served as they are: any number of inputs and outputs, by their names, of almost any type.

What the file leaves open is found out by running the model on values made for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, ValueInfoProto, helper, numpy_helper

from training.algorithms.base import NativeFile
from training.errors import FitError, Reason, invalid_field
from training.export import graph
from training.export.ladder import Exported
from training.export.sessions import session_of
from training.importing import found, onnx_graph, tensor_samples, tensors
from training.importing.spec import MOST_FEATURES, SIGNATURE, NamedTensor, Spec, Wanted
from training.importing.tensor_samples import Dims, Sample
from training.importing.tensors import FoundTensors
from training.parity import TOLERANCE, Proof

MOST_TENSORS = 1000
_LONGEST_NAME = 256
_WHAT = "an ONNX model that onnxruntime can run"
_TYPES = {
    "tensor(bool)": ("BOOL", TensorProto.BOOL),
    "tensor(uint8)": ("UINT8", TensorProto.UINT8),
    "tensor(uint16)": ("UINT16", TensorProto.UINT16),
    "tensor(uint32)": ("UINT32", TensorProto.UINT32),
    "tensor(uint64)": ("UINT64", TensorProto.UINT64),
    "tensor(int8)": ("INT8", TensorProto.INT8),
    "tensor(int16)": ("INT16", TensorProto.INT16),
    "tensor(int32)": ("INT32", TensorProto.INT32),
    "tensor(int64)": ("INT64", TensorProto.INT64),
    "tensor(float16)": ("FP16", TensorProto.FLOAT16),
    "tensor(float)": ("FP32", TensorProto.FLOAT),
    "tensor(double)": ("FP64", TensorProto.DOUBLE),
    "tensor(string)": ("BYTES", TensorProto.STRING),
}
"""The types that Triton and onnxruntime have, by their names there."""


@dataclass(frozen=True)
class _Tensor:
    """An input or an output of a graph.

    Attributes:
        dtype: The type of its elements in the words of the Open Inference Protocol.
        type: The same as ONNX has it.
        dims: The length of each dimension; None if even their number is open, as that of some outputs.
    """

    name: str
    dtype: str
    type: int
    dims: Dims | None

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths, -1 for open ones."""
        return tuple(length if isinstance(length, int) else -1 for length in self.dims or ())

    def served(self, rows: bool) -> _Tensor:
        """Returns it with a dimension besides that of the rows, which Triton asks for."""
        dims = self.dims or ()
        if rows:
            return replace(self, dims=("batch", *(dims[1:] or (1,))))
        return replace(self, dims=dims or (1,))


def are_wanted(model: onnx.ModelProto, wanted: Wanted) -> bool:
    """Whether a model's tensors are served by their names: the caller names some, or they are no features and scores.

    One input of real numbers and one output of them, perhaps with one of labels, are; with more than two dimensions only if
    the caller says what the output is.
    """
    if wanted.inputs or wanted.outputs:
        return True
    reals = [output for output in onnx_graph.outputs_of(model) if onnx_graph.is_real(output)]
    if len(reals) != 1 or len(model.graph.input) != 1 or not onnx_graph.is_real(model.graph.input[0]):
        return True
    silent = wanted.task is None and not wanted.shape and len(model.graph.output) == 1
    return silent and any(len(one.type.tensor_type.shape.dim) > 2 for one in (model.graph.input[0], reals[0]))


def read(model: onnx.ModelProto, spec: Spec) -> FoundTensors:
    """Returns what a model that was checked takes and gives by name, with the file that is served.

    Raises:
        FitError: INVALID_FIELD; EXPORT_NOT_EQUAL, it does not compute the same twice.
    """
    tensors.check_said(spec.wanted, *([one.name for one in part] for part in (model.graph.input, model.graph.output)))
    onnx_graph.replace_zip_maps(model)
    _choose_outputs(model, spec.wanted.outputs)
    with found.reading(_WHAT):
        session = session_of(model.SerializeToString())
        inputs, outputs = _tensors_of(session, model)
    inputs = _completed(inputs, spec.wanted.inputs)
    _check(inputs, outputs)
    sample = tensor_samples.sample(session, [_to_make(tensor, model) for tensor in inputs])
    outputs = [_seen(tensor, array.ndim) for tensor, array in zip(outputs, sample.outputs, strict=True)]
    _check_outputs(outputs, spec.wanted.outputs)
    rows = sample.rows and all(tensor.shape[:1] == (-1,) for tensor in (*inputs, *outputs))
    with found.reading(_WHAT):
        served = _served(model, inputs, outputs, rows)
        exported, last = _proved(served, sample)
    given, made = (_named(part) for part in last)
    tensors.check_kept(given, made, spec.kept)
    return FoundTensors(given, made, rows, exported)


def _choose_outputs(model: onnx.ModelProto, wanted: Sequence[NamedTensor]) -> None:
    """Leaves those outputs that the caller names, all if none."""
    known = {output.name: output for output in model.graph.output}
    for index, one in enumerate(wanted):
        if one.name not in known:
            raise _unknown("outputs", index, one.name, known)
    if wanted:
        del model.graph.output[:]
        model.graph.output.extend(known[one.name] for one in wanted)


# Any: onnxruntime has no types.
def _tensors_of(session: Any, model: onnx.ModelProto) -> tuple[list[_Tensor], list[_Tensor]]:
    """Returns the inputs and the outputs of a model as onnxruntime sees them."""
    scalars = {
        value.name
        for value in (*model.graph.input, *model.graph.output)
        if value.type.tensor_type.HasField("shape") and not value.type.tensor_type.shape.dim
    }

    def tensor(node: Any) -> _Tensor:
        if node.type not in _TYPES:
            raise found.refused(
                f"{node.name[:80]!r} is a {node.type[:80]}, which is not served; export it with tensors of "
                f"{', '.join(name for name, _ in _TYPES.values())}"
            )
        dims = tuple(length or None for length in node.shape)
        return _Tensor(node.name, *_TYPES[node.type], dims if dims or node.name in scalars else None)

    return [tensor(node) for node in session.get_inputs()], [tensor(node) for node in session.get_outputs()]


def _completed(inputs: Sequence[_Tensor], wanted: Sequence[NamedTensor]) -> list[_Tensor]:
    """Returns the inputs with the lengths that the caller gives."""
    by_name = {tensor.name: tensor for tensor in inputs}
    lengths: dict[str, int] = {}
    for index, said in enumerate(wanted):
        if said.name not in by_name:
            raise _unknown("inputs", index, said.name, by_name)
        tensor = by_name[said.name]
        _check_said(said, tensor, f"{SIGNATURE}.inputs[{index}]")
        if said.shape:
            pairs = list(zip(tensor.dims or (), said.shape, strict=True))
            lengths |= {symbol: length for symbol, length in pairs if isinstance(symbol, str) and length > 0}
            by_name[said.name] = replace(tensor, dims=tuple(old if new < 0 else new for old, new in pairs))
    return [
        replace(tensor, dims=tuple(lengths.get(one, one) if isinstance(one, str) else one for one in tensor.dims or ()))
        for tensor in by_name.values()
    ]


def _check(inputs: Sequence[_Tensor], outputs: Sequence[_Tensor]) -> None:
    """Refuses tensors that no request could bring or name."""
    if not inputs or not outputs:
        raise found.refused(
            f"it has no {'outputs' if inputs else 'inputs'}; export it with all that it takes and gives"
        )
    if len(inputs) + len(outputs) > MOST_TENSORS:
        raise found.refused(f"it has more than {MOST_TENSORS} inputs and outputs; join some")
    for tensor in (*inputs, *outputs):
        if not tensor.name or len(tensor.name) > _LONGEST_NAME or "\0" in tensor.name:
            raise found.refused(
                f"a tensor has a name of {len(tensor.name)} characters; names have 1 to {_LONGEST_NAME}"
            )
    if sum(math.prod(abs(length) for length in tensor.shape) for tensor in inputs) > MOST_FEATURES:
        raise found.refused(f"its inputs have more than {MOST_FEATURES} values, which no request brings")


def _check_said(said: NamedTensor, tensor: _Tensor, field: str) -> None:
    """Refuses what the caller says of a tensor if it differs from the file."""
    if said.dtype not in ("", tensor.dtype):
        raise invalid_field(f"{field}.dtype", f"it is {said.dtype}, and {tensor.dtype} in the file; leave it out")
    if said.shape and tensor.dims is not None:
        fits = len(said.shape) == len(tensor.dims) and all(
            new < 0 or not isinstance(old, int) or new == old for new, old in zip(said.shape, tensor.dims, strict=True)
        )
        if not fits:
            raise invalid_field(f"{field}.shape", f"it is {list(said.shape)}, and {list(tensor.shape)} in the file")


def _check_outputs(outputs: Sequence[_Tensor], wanted: Sequence[NamedTensor]) -> None:
    for index, (said, tensor) in enumerate(zip(wanted, outputs, strict=False)):
        _check_said(said, tensor, f"{SIGNATURE}.outputs[{index}]")


def _to_make(tensor: _Tensor, model: onnx.ModelProto) -> tensor_samples.Input:
    dtype = helper.tensor_dtype_to_np_dtype(tensor.type)
    known = onnx_graph.compared_values(model.graph, tensor.name, texts=tensor.dtype == "BYTES")
    return tensor_samples.Input(tensor.name, dtype, tensor.dims or (), known)


def _seen(tensor: _Tensor, rank: int) -> _Tensor:
    """Returns an output with as many dimensions as it had, if the file does not say how many they are."""
    return tensor if tensor.dims is not None else replace(tensor, dims=(None,) * rank)


def _served(
    model: onnx.ModelProto, inputs: Sequence[_Tensor], outputs: Sequence[_Tensor], rows: bool
) -> onnx.ModelProto:
    """Returns the model with the shapes that were found.

    Triton wants a dimension besides that of the rows: what has none gets one of length 1.
    """
    served = onnx.ModelProto()
    served.CopyFrom(model)
    short = [tensor for tensor in (*inputs, *outputs) if len(tensor.dims or ()) == rows]
    inner = onnx_graph.set_aside(served.graph, [tensor.name for tensor in short])
    for tensor in short:
        name = f"fitserve.shape.{tensor.name}"
        if tensor in inputs:
            node = helper.make_node("Reshape", [tensor.name, name], [inner[tensor.name]])
            served.graph.node.insert(0, node)
        else:
            served.graph.node.append(helper.make_node("Reshape", [inner[tensor.name], name], [tensor.name]))
        lengths = ([-1] if rows else []) if tensor in inputs else ([-1, 1] if rows else [1])
        served.graph.initializer.append(numpy_helper.from_array(np.array(lengths, np.int64), name))
    del served.graph.input[:], served.graph.output[:], served.graph.value_info[:]
    served.graph.input.extend(_declared(tensor, rows) for tensor in inputs)
    served.graph.output.extend(_declared(tensor, rows) for tensor in outputs)
    return served


def _declared(tensor: _Tensor, rows: bool) -> ValueInfoProto:
    return helper.make_tensor_value_info(tensor.name, tensor.type, tensor.served(rows).dims)


def _proved(served: onnx.ModelProto, sample: Sample) -> tuple[Exported, tuple[Sequence[_Tensor], Sequence[_Tensor]]]:
    """Returns the served file with its proof, and its tensors.

    Raises:
        FitError: EXPORT_NOT_EQUAL.
    """
    content = graph.serialize(served, found.CONTENT)
    session = session_of(content)
    inputs, outputs = _tensors_of(session, served)
    given = {
        tensor.name: array if array.ndim == len(tensor.dims or ()) else array[..., None]
        for tensor in inputs
        for array in (sample.inputs[tensor.name],)
    }
    made = [array.reshape(one.shape) for array, one in zip(session.run(None, given), sample.outputs, strict=True)]
    proof = Proof(tensor_samples.difference(made, sample.outputs), TOLERANCE, sample.row_count)
    if not proof.holds:
        raise FitError(
            Reason.EXPORT_NOT_EQUAL,
            "it computes other values each time, so that nothing can be proved of it, and was not kept; export it without "
            "operations that draw random numbers",
        )
    return Exported("onnxruntime", NativeFile("model.onnx", content), ("onnx", "onnxruntime"), proof), (inputs, outputs)


def _named(tensors_of_file: Iterable[_Tensor]) -> tuple[NamedTensor, ...]:
    return tuple(NamedTensor(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors_of_file)


def _unknown(kind: str, index: int, name: str, known: Iterable[str]) -> FitError:
    shown = [one[:80] for one in known][:20]
    return invalid_field(f"{SIGNATURE}.{kind}[{index}].name", f"the file has no {name[:80]!r} among its {kind} {shown}")
