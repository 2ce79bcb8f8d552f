"""The configuration of a model in Triton: a dataclass, and its forms config.pbtxt and JSON.

Both forms are made through Triton's own message, so a wrong field or type fails here and not in Triton.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import (
    TYPE_FP32,
    DataType,
    ModelConfig,
    ModelDynamicBatching,
    ModelInput,
    ModelInstanceGroup,
    ModelOutput,
    ModelParameter,
    ModelVersionPolicy,
)

from service.domain.entities import INPUT, OUTPUT, Manifest
from service.domain.loaded import max_batch_rows
from service.domain.named_tensors import TensorSpec, TensorType

BACKENDS: Mapping[str, str] = {
    "model.onnx": "onnxruntime",
    "checkpoint.tl": "fil",
    "xgboost.ubj": "fil",
    "xgboost.json": "fil",
    "model.txt": "fil",
    "model.cbm": "fitserve_native",
    "model.skops": "fitserve_native",
    "model.pt": "pytorch",
}
"""The backend that runs a model file, by the file's name."""

_FIL_TYPES = {
    "checkpoint.tl": "treelite_checkpoint",
    "xgboost.ubj": "xgboost_ubj",
    "xgboost.json": "xgboost_json",
    "model.txt": "lightgbm",
}

# NVIDIA's backend would start a thread for each core and model, and the models share the cores.
_ONNX_PARAMETERS = {"intra_op_thread_count": "1", "inter_op_thread_count": "1"}
_TORCH_PARAMETERS = {"INFERENCE_MODE": "true", "INTER_OP_THREAD_COUNT": "1", "INTRA_OP_THREAD_COUNT": "1"}
_FIL_THREADS = {"cpu_nthread": "1"}

TENSOR_TYPES = {f"TYPE_{'STRING' if dtype is TensorType.BYTES else dtype}": dtype for dtype in TensorType}
"""The types of elements by their names in a configuration."""

_TYPE_NUMBERS = {dtype: DataType.Value(name) for name, dtype in TENSOR_TYPES.items()}

# These backends take no other names.
_TENSORS = {"fil": ("input__0", "output__0"), "pytorch": ("INPUT__0", "OUTPUT__0")}


def tensor_names(backend: str) -> tuple[str, str]:
    """Returns the names of the input and the output of a backend's models."""
    return _TENSORS.get(backend, (INPUT, OUTPUT))


@dataclass(frozen=True)
class TritonModelConfig:
    """The configuration of a model with one input of features and one output of scores, both FP32, or of named tensors.

    It holds for all versions of the model that are loaded at one time: they share the shape of the features, and the number
    of scores is open but for FIL.

    Attributes:
        name: The model's name.
        backend: The backend that runs the file, such as "onnxruntime".
        shape: The shape of one row of features.
        max_batch_size: The largest number of rows of one inference.
        file: The name of the model file.
        fil_scores: The number of scores of one row for FIL, which has to know it; 0 for other backends.
        classifies: Whether the scores are probabilities of classes, which FIL has to know too; else False.
        gpu: Whether each GPU of Triton has a copy; if there is none, the processor.
        inputs: The tensors that a model takes by name; empty for features and scores.
        outputs: The tensors that such a model gives.
    """

    name: str
    backend: str
    shape: tuple[int, ...]
    max_batch_size: int
    file: str = "model.onnx"
    fil_scores: int = 0
    classifies: bool = False
    gpu: bool = False
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()

    @classmethod
    def of(cls, manifest: Manifest) -> TritonModelConfig:
        """Returns the configuration for a version."""
        signature, fil = manifest.signature, manifest.backend == "fil"
        return cls(
            name=manifest.model,
            backend=manifest.backend,
            shape=() if signature.inputs else (int(np.prod(signature.shape)),) if fil else signature.shape,
            max_batch_size=(signature.max_batch_size if signature.inputs else max_batch_rows(signature.row_bytes)),
            file=manifest.file,
            fil_scores=manifest.score_count if fil else 0,
            classifies=fil and bool(signature.classes),
            gpu=manifest.prefer_gpu,
            inputs=signature.inputs,
            outputs=signature.outputs,
        )

    @classmethod
    def from_text(cls, text: str) -> TritonModelConfig:
        """Reads the text of a config.pbtxt.

        Raises:
            ValueError: It is no model configuration, or has settings that this class does not write.
        """
        message = ModelConfig()
        try:
            text_format.Parse(text, message)
        except text_format.ParseError as error:
            raise ValueError(f"not a Triton model configuration: {error}") from error
        plain = [tensor.name for tensor in (*message.input, *message.output)] == [*tensor_names(message.backend)]
        config = cls(
            name=message.name,
            backend=message.backend,
            shape=tuple(message.input[0].dims) if plain else (),
            max_batch_size=message.max_batch_size,
            file=message.default_model_filename,
            fil_scores=message.output[0].dims[0] if message.backend == "fil" and message.output else 0,
            classifies="predict_proba" in message.parameters,
            gpu=any(group.kind == ModelInstanceGroup.KIND_AUTO for group in message.instance_group),
            inputs=() if plain else _specs(message.input, message.max_batch_size > 0),
            outputs=() if plain else _specs(message.output, message.max_batch_size > 0),
        )
        if config._message() != message:
            raise ValueError(f"the configuration of '{config.name}' has other settings than FitServe writes")
        return config

    def to_text(self) -> str:
        """Returns the text of config.pbtxt. It says nothing of versions: each load names the one it wants."""
        text: str = text_format.MessageToString(self._message())
        return text

    def to_json(self, versions: Sequence[int], instances: int = 1) -> str:
        """Returns the configuration as JSON that serves exactly these versions: the `config` override of a load.

        Triton leaves versions alone that it serves already, and starts or ends copies of them without a gap.

        Args:
            instances: How many copies of each version work in parallel.
        """
        message = self._message()
        message.version_policy.CopyFrom(ModelVersionPolicy(specific=ModelVersionPolicy.Specific(versions=versions)))
        message.instance_group[0].count = instances
        return json_format.MessageToJson(message, preserving_proto_field_name=True, indent=None)

    def _message(self) -> ModelConfig:
        kind = ModelInstanceGroup.KIND_AUTO if self.gpu else ModelInstanceGroup.KIND_CPU
        return ModelConfig(
            name=self.name,
            backend=self.backend,
            default_model_filename=self.file,
            max_batch_size=self.max_batch_size,
            input=self._inputs(),
            output=self._outputs(),
            dynamic_batching=ModelDynamicBatching() if self.max_batch_size else None,
            instance_group=[ModelInstanceGroup(kind=kind, count=1)],
            parameters={name: ModelParameter(string_value=value) for name, value in self._parameters().items()},
        )

    def _inputs(self) -> list[ModelInput]:
        if self.inputs:
            return [ModelInput(**self._tensor(spec)) for spec in self.inputs]
        return [ModelInput(name=tensor_names(self.backend)[0], data_type=TYPE_FP32, dims=self.shape)]

    def _outputs(self) -> list[ModelOutput]:
        if self.outputs:
            return [ModelOutput(**self._tensor(spec)) for spec in self.outputs]
        return [ModelOutput(name=tensor_names(self.backend)[1], data_type=TYPE_FP32, dims=[self.fil_scores or -1])]

    def _tensor(self, spec: TensorSpec) -> dict[str, Any]:  # Any: fields of different types
        dims = spec.shape[1:] if self.max_batch_size else spec.shape
        return {"name": spec.name, "data_type": _TYPE_NUMBERS[spec.dtype], "dims": dims}

    def _parameters(self) -> Mapping[str, str]:
        if self.backend == "onnxruntime":
            return _ONNX_PARAMETERS
        if self.backend == "pytorch":
            return _TORCH_PARAMETERS
        if self.backend != "fil":
            return {}
        model_type = {"model_type": _FIL_TYPES.get(self.file, "")} | _FIL_THREADS
        if not self.classifies:
            return model_type | {"is_classifier": "false"}
        return model_type | {"is_classifier": "true", "predict_proba": "true", "threshold": "0.5"}


def _specs(tensors: Iterable[ModelInput | ModelOutput], has_rows: bool) -> tuple[TensorSpec, ...]:
    """Returns the tensors of a configuration. Raises ValueError; one has a type that FitServe does not write."""
    types = {number: dtype for dtype, number in _TYPE_NUMBERS.items()}
    if any(tensor.data_type not in types for tensor in tensors):
        raise ValueError("a tensor has a type that FitServe does not serve")
    rows = (-1,) if has_rows else ()
    return tuple(TensorSpec(tensor.name, types[tensor.data_type], (*rows, *tensor.dims)) for tensor in tensors)
