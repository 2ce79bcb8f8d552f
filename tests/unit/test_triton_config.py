"""The configuration of a model in Triton."""

from __future__ import annotations

import json

import pytest

from service.adapters.triton_config import TritonModelConfig
from service.domain.entities import Signature, Task
from service.domain.loaded import max_batch_rows

IRIS = Signature(Task.REGRESSION, (4,), (), False, (), None)
IMAGES = Signature(Task.REGRESSION, (3, 224, 224), (), False, (), None)


def test_the_text_is_what_triton_reads() -> None:
    assert TritonModelConfig.of("iris", "onnxruntime", IRIS).to_text().splitlines() == [
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


def test_the_text_reads_back_as_it_was() -> None:
    config = TritonModelConfig.of("images", "onnxruntime", IMAGES)
    assert TritonModelConfig.from_text(config.to_text()) == config
    assert config.shape == (3, 224, 224)


def test_a_load_serves_the_version_that_it_names_and_no_other() -> None:
    override = json.loads(TritonModelConfig.of("iris", "onnxruntime", IRIS).to_json([3]))
    assert override["version_policy"] == {"specific": {"versions": ["3"]}}
    assert override["name"] == "iris"
    assert override["backend"] == "onnxruntime"
    assert override["max_batch_size"] == 1024
    assert override["instance_group"] == [{"count": 1, "kind": "KIND_CPU"}]


def test_a_load_says_how_many_copies_there_are_of_all_versions() -> None:
    override = json.loads(TritonModelConfig.of("iris", "onnxruntime", IRIS).to_json([1, 3], instances=4))
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
    text = TritonModelConfig.of("iris", "onnxruntime", IRIS).to_text()
    with pytest.raises(ValueError, match="other settings"):
        TritonModelConfig.from_text(text + 'metric_tags { key: "a" value: "b" }')
