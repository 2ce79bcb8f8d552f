"""The configuration of a model in Triton."""

from __future__ import annotations

import dataclasses
import json

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import TYPE_FP64, TYPE_STRING, ModelConfig

from service.adapters.triton_config import TritonModelConfig
from service.domain.entities import Manifest, Signature, Task, ValueKind
from service.domain.loaded import max_batch_rows
from service.domain.named_tensors import TensorSpec, TensorType
from tests.unit.domain import fakes

IRIS = Signature(Task.REGRESSION, (4,), (), False, (), None)
IMAGES = Signature(Task.REGRESSION, (3, 224, 224), (), False, (), None)
SPECIES = Signature(Task.CLASSIFICATION, (4,), (), False, ("setosa", "virginica"), ValueKind.CATEGORY)


NUMBERS = TensorSpec("numbers", TensorType.FP64, (-1, 3, -1))
WORD = TensorSpec("word", TensorType.BYTES, (-1, 1))
ONE = TensorSpec("one", TensorType.BOOL, (1,))


def config_of(
    signature: Signature, backend: str = "onnxruntime", file: str = "model.onnx", prefer_gpu: bool = False
) -> TritonModelConfig:
    return TritonModelConfig.of(manifest_of(signature, backend, file, prefer_gpu))


def manifest_of(signature: Signature, backend: str, file: str, prefer_gpu: bool) -> Manifest:
    given = {"signature": signature, "backend": backend, "file": file, "prefer_gpu": prefer_gpu}
    return dataclasses.replace(fakes.manifest("iris"), **given)  # type: ignore[arg-type]


def test_the_text_is_what_triton_reads() -> None:
    assert config_of(IRIS).to_text().splitlines() == [
        'name: "iris"',
        "max_batch_size: 1024",
        "input {",
        '  name: "features"',
        "  data_type: TYPE_FP32",
        "  dims: 4",
        "}",
        "output {",
        '  name: "scores"',
        "  data_type: TYPE_FP32",
        "  dims: -1",
        "}",
        "instance_group {",
        "  count: 1",
        "  kind: KIND_CPU",
        "}",
        'default_model_filename: "model.onnx"',
        "dynamic_batching {",
        "}",
        "parameters {",
        '  key: "inter_op_thread_count"',
        "  value {",
        '    string_value: "1"',
        "  }",
        "}",
        "parameters {",
        '  key: "intra_op_thread_count"',
        "  value {",
        '    string_value: "1"',
        "  }",
        "}",
        'backend: "onnxruntime"',
    ]


def test_trees_for_fil_have_the_names_and_parameters_that_nvidias_backend_wants() -> None:
    message = text_format.Parse(config_of(SPECIES, "fil", "checkpoint.tl").to_text(), ModelConfig())
    assert [(tensor.name, list(tensor.dims)) for tensor in message.input] == [("input__0", [4])]
    assert [(tensor.name, list(tensor.dims)) for tensor in message.output] == [("output__0", [2])]
    assert {name: value.string_value for name, value in message.parameters.items()} == {
        "model_type": "treelite_checkpoint",
        "is_classifier": "true",
        "predict_proba": "true",
        "threshold": "0.5",
        "cpu_nthread": "1",
    }
    assert (message.backend, message.default_model_filename) == ("fil", "checkpoint.tl")


@pytest.mark.parametrize(
    ("file", "model_type"),
    [("xgboost.ubj", "xgboost_ubj"), ("xgboost.json", "xgboost_json"), ("model.txt", "lightgbm")],
)
def test_fil_is_told_the_format_of_the_file_and_that_it_is_no_classifier(file: str, model_type: str) -> None:
    message = text_format.Parse(config_of(IRIS, "fil", file).to_text(), ModelConfig())
    assert message.parameters["model_type"].string_value == model_type
    assert message.parameters["is_classifier"].string_value == "false"
    assert list(message.output[0].dims) == [1]


def test_a_model_that_prefers_a_gpu_is_started_on_each_gpu_and_on_the_processor_where_there_is_none() -> None:
    override = json.loads(config_of(IRIS, "fil", "checkpoint.tl", prefer_gpu=True).to_json([1], instances=2))
    assert override["instance_group"] == [{"count": 2}]  # KIND_AUTO, which is the zero of the enumeration
    assert "kind: KIND_CPU" not in config_of(IRIS, prefer_gpu=True).to_text()


@pytest.mark.parametrize("prefer_gpu", [False, True])
@pytest.mark.parametrize(
    ("signature", "backend", "file"),
    [
        (IMAGES, "onnxruntime", "model.onnx"),
        (SPECIES, "onnxruntime", "model.onnx"),
        (SPECIES, "fil", "checkpoint.tl"),
        (IRIS, "fil", "xgboost.ubj"),
        (SPECIES, "fitserve_native", "model.cbm"),
        (SPECIES, "fitserve_native", "model.skops"),
        (IMAGES, "pytorch", "model.pt"),
    ],
)
def test_the_text_reads_back_as_it_was(signature: Signature, backend: str, file: str, prefer_gpu: bool) -> None:
    config = config_of(signature, backend, file, prefer_gpu)
    assert TritonModelConfig.from_text(config.to_text()) == config
    assert config.shape == signature.shape


def test_a_load_serves_the_version_that_it_names_and_no_other() -> None:
    override = json.loads(config_of(IRIS).to_json([3]))
    assert override["version_policy"] == {"specific": {"versions": ["3"]}}
    assert override["name"] == "iris"
    assert override["backend"] == "onnxruntime"
    assert override["max_batch_size"] == 1024
    assert override["instance_group"] == [{"count": 1, "kind": "KIND_CPU"}]


def test_a_load_says_how_many_copies_there_are_of_all_versions() -> None:
    override = json.loads(config_of(IRIS).to_json([1, 3], instances=4))
    assert override["version_policy"] == {"specific": {"versions": ["1", "3"]}}
    assert override["instance_group"] == [{"count": 4, "kind": "KIND_CPU"}]


@pytest.mark.parametrize(
    ("row_bytes", "rows"),
    [(16, 1024), (16 << 10, 1024), (3 * 224 * 224 * 4, 27), (16 << 20, 1), (1 << 30, 1)],
)
def test_a_batch_holds_at_most_1024_rows_and_16_mib_but_one_row_always(row_bytes: int, rows: int) -> None:
    assert max_batch_rows(row_bytes) == rows


def test_a_wrong_field_is_refused() -> None:
    with pytest.raises(ValueError, match="not a Triton model configuration"):
        TritonModelConfig.from_text('name: "iris" max_batchsize: 3')


def test_settings_that_fitserve_does_not_write_are_refused() -> None:
    text = config_of(IRIS).to_text()
    with pytest.raises(ValueError, match="other settings"):
        TritonModelConfig.from_text(text + 'metric_tags { key: "a" value: "b" }')


def test_named_tensors_have_their_types_and_the_lengths_behind_the_rows() -> None:
    message = text_format.Parse(config_of(Signature.of_tensors((NUMBERS, WORD), (WORD,), 64)).to_text(), ModelConfig())
    assert [(one.name, one.data_type, list(one.dims)) for one in message.input] == [
        ("numbers", TYPE_FP64, [3, -1]),
        ("word", TYPE_STRING, [1]),
    ]
    assert [(one.name, list(one.dims)) for one in message.output] == [("word", [1])]
    assert (message.max_batch_size, message.HasField("dynamic_batching")) == (64, True)


def test_named_tensors_without_rows_keep_all_lengths_and_share_no_batch() -> None:
    message = text_format.Parse(config_of(Signature.of_tensors((NUMBERS,), (ONE,), 0)).to_text(), ModelConfig())
    assert (list(message.input[0].dims), list(message.output[0].dims)) == ([-1, 3, -1], [1])
    assert (message.max_batch_size, message.HasField("dynamic_batching")) == (0, False)


@pytest.mark.parametrize("rows", [0, 8])
def test_a_configuration_of_named_tensors_reads_back(rows: int) -> None:
    config = config_of(Signature.of_tensors((NUMBERS, WORD), (NUMBERS,), rows))
    assert TritonModelConfig.from_text(config.to_text()) == config
