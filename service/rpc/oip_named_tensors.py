"""Requests of the Open Inference Protocol to a model of named tensors, and its outputs to responses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tritonclient.grpc import service_pb2 as pb

from service.domain.entities import Signature
from service.domain.errors import invalid
from service.domain.named_tensors import MAX_TEXTS, Tensor, TensorBatch, TensorSpec, TensorType
from service.domain.nearest import hint
from service.domain.predictor import TensorPrediction
from service.rpc.oip_tensors import refuse_shared_memory
from service.rpc.tensor_inputs import NUMPY_TYPES, SHOWN, batch_of, check_count, check_data, check_inputs, check_shape
from service.rpc.tensors import bytes_tensor_data

_CONTENTS = {
    TensorType.BOOL: "bool_contents",
    TensorType.INT8: "int_contents",
    TensorType.INT16: "int_contents",
    TensorType.INT32: "int_contents",
    TensorType.INT64: "int64_contents",
    TensorType.UINT8: "uint_contents",
    TensorType.UINT16: "uint_contents",
    TensorType.UINT32: "uint_contents",
    TensorType.UINT64: "uint64_contents",
    TensorType.FP32: "fp32_contents",
    TensorType.FP64: "fp64_contents",
    TensorType.BYTES: "bytes_contents",
}
"""The field of `InferTensorContents` that holds the elements of each type; FP16 comes as bytes only."""


def batch_from(request: pb.ModelInferRequest, signature: Signature) -> TensorBatch:
    """Returns the inputs of a request.

    Raises:
        ServiceError: INVALID_FIELD naming the part that does not fit; UNIMPLEMENTED for shared memory.
    """
    names = [tensor.name for tensor in request.inputs]
    check_inputs(names, signature, "inputs")
    if len(set(names)) < len(names):
        raise invalid("inputs", "an input is there twice")
    raw = request.raw_input_contents
    if raw and len(raw) != len(names):
        raise invalid("raw_input_contents", f"there are {len(raw)} entries for {len(names)} inputs; send one for each")
    tensors = []
    for index, tensor in enumerate(request.inputs):
        path = f"inputs[{index}]"
        refuse_shared_memory(tensor.parameters, path)
        spec, shape = signature.inputs_by_name[tensor.name], tuple(tensor.shape)
        if tensor.datatype != spec.dtype:
            given = tensor.datatype[:SHOWN]
            raise invalid(f"{path}.datatype", f"{given!r} was sent and input {spec.name!r} takes {spec.dtype.value!r}")
        check_shape(shape, spec, f"{path}.shape")
        data = raw[index] if raw else _contents(tensor, spec, path)
        read = Tensor(spec.name, spec.dtype, shape, data)
        check_data(read, f"raw_input_contents[{index}]" if raw else f"{path}.contents")
        tensors.append(read)
    return batch_of(tensors, signature, "inputs")


def _contents(tensor: pb.ModelInferRequest.InferInputTensor, spec: TensorSpec, path: str) -> bytes:
    """Returns the elements of an input that did not come as bytes."""
    field = _CONTENTS.get(spec.dtype)
    given = [found.name for found, _ in tensor.contents.ListFields()]
    if field is None or (given and given != [field]):
        wanted = f", or {field} here" if field is not None else ""
        raise invalid(f"{path}.contents", f"send raw_input_contents{wanted}")
    values = getattr(tensor.contents, field)
    if spec.dtype is TensorType.BYTES:
        check_count(len(values), MAX_TEXTS, f"{path}.contents")
        return bytes_tensor_data(values)
    try:
        return np.array(values, NUMPY_TYPES[spec.dtype]).tobytes()
    except OverflowError as error:
        raise invalid(f"{path}.contents", f"a value is no {spec.dtype}") from error


def check_outputs(request: pb.ModelInferRequest, signature: Signature) -> Sequence[str]:
    """Returns the names of the outputs that a request asks for, all if it names none.

    Raises:
        ServiceError: INVALID_FIELD naming an output that the model does not have, or one that asks for classes.
    """
    known = [spec.name for spec in signature.outputs]
    for index, output in enumerate(request.outputs):
        path = f"outputs[{index}]"
        if output.name not in known:
            near = hint(output.name, known)
            raise invalid(f"{path}.name", f"there is no output {output.name[:SHOWN]!r}{near}; there are {known}")
        refuse_shared_memory(output.parameters, path)
        if "classification" in output.parameters:
            raise invalid(
                f"{path}.parameters.classification", "the model gives tensors without labels; ask for the tensor"
            )
    return [output.name for output in request.outputs] or known


def response_of(
    request: pb.ModelInferRequest, prediction: TensorPrediction, outputs: Sequence[str]
) -> pb.ModelInferResponse:
    """Returns the response to a request, with the outputs of these names."""
    found = {tensor.name: tensor for tensor in prediction.outputs[0].tensors}
    wanted = [found[name] for name in outputs]
    return pb.ModelInferResponse(
        model_name=prediction.model,
        model_version=str(prediction.version),
        id=request.id,
        outputs=[
            pb.ModelInferResponse.InferOutputTensor(name=one.name, datatype=one.dtype, shape=one.shape)
            for one in wanted
        ],
        raw_output_contents=[one.data for one in wanted],
    )
