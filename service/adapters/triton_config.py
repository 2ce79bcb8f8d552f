"""The configuration of a model in Triton: a dataclass, and its forms config.pbtxt and JSON.

Both forms are made through Triton's own message, so a wrong field or type fails here and not in Triton.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import (
    TYPE_FP32,
    ModelConfig,
    ModelDynamicBatching,
    ModelInput,
    ModelInstanceGroup,
    ModelOutput,
    ModelParameter,
    ModelVersionPolicy,
)

from service.domain.entities import INPUT, OUTPUT, Signature
from service.domain.loaded import max_batch_rows

MODEL_FILE = "model.onnx"

# NVIDIA's backend would start a thread for each core and model, and the models share the cores.
_PARAMETERS = {"intra_op_thread_count": "1", "inter_op_thread_count": "1"}


@dataclass(frozen=True)
class TritonModelConfig:
    """The configuration of a model with one input `features` and one output `scores`, both FP32.

    It holds for all versions of the model: they share the shape of the features, and
    the number of scores is open.

    Attributes:
        name: The model's name.
        backend: The backend that runs the file, such as "onnxruntime".
        shape: The shape of one row of features.
        max_batch_size: The largest number of rows of one inference.
    """

    name: str
    backend: str
    shape: tuple[int, ...]
    max_batch_size: int

    @classmethod
    def of(cls, name: str, backend: str, signature: Signature) -> TritonModelConfig:
        """Returns the configuration of a model with a signature."""
        return cls(name, backend, signature.shape, max_batch_rows(signature.row_bytes))

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
        shape = tuple(message.input[0].dims) if message.input else ()
        config = cls(message.name, message.backend, shape, message.max_batch_size)
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
        return ModelConfig(
            name=self.name,
            backend=self.backend,
            default_model_filename=MODEL_FILE,
            max_batch_size=self.max_batch_size,
            input=[ModelInput(name=INPUT, data_type=TYPE_FP32, dims=self.shape)],
            output=[ModelOutput(name=OUTPUT, data_type=TYPE_FP32, dims=[-1])],
            dynamic_batching=ModelDynamicBatching(),
            instance_group=[ModelInstanceGroup(kind=ModelInstanceGroup.KIND_CPU, count=1)],
            parameters={name: ModelParameter(string_value=value) for name, value in _PARAMETERS.items()},
        )
