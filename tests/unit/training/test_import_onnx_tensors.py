"""ONNX files whose tensors are served by their names: what is found in them, and what is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from fitserve.v1 import data_pb2, model_pb2, training_job_pb2
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from tests.unit.training.importing import Version, import_file, labels
from tests.unit.training.test_import_onnx import W, estimator, linear, model, value
from training.errors import FitError
from training.export.sessions import session_of

FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
ML = "ai.onnx.ml"
Spec = model_pb2.TensorSpec
Shapes = list[tuple[str, str, list[int]]]


def mixed() -> ModelProto:
    """Numbers and integers in; their sum, and that of the integers of each row."""
    nodes = [
        helper.make_node("Cast", ["i"], ["f"], to=FLOAT),
        helper.make_node("Add", ["x", "f"], ["y"]),
        helper.make_node("ReduceSum", ["i", "axes"], ["s"], keepdims=0),
    ]
    given = [("x", FLOAT, ["n", 4]), ("i", INT64, ["n", 4])]
    return model(nodes, given, [("y", FLOAT, ["n", 4]), ("s", INT64, ["n"])], axes=np.array([1]))


def relu(shape: Sequence[int | str]) -> ModelProto:
    return model([helper.make_node("Relu", ["x"], ["y"])], [("x", FLOAT, shape)], [("y", FLOAT, shape)])


def identity(kind: int) -> ModelProto:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    return model(nodes, [("x", kind, ["n", 2, 2])], [("y", kind, ["n", 2, 2])])


def outputs(*names: str) -> model_pb2.Signature:
    return model_pb2.Signature(outputs=[Spec(name=name) for name in names])


def imported(
    directory: Path, made: ModelProto, said: model_pb2.Signature | None = None, kept: model_pb2.Signature | None = None
) -> Version:
    return import_file(directory, "onnx", made.SerializeToString(), said, kept)


def shapes(version: Version, kind: str) -> Shapes:
    return [(one["name"], one["dtype"], one["shape"]) for one in version.manifest["signature"][kind]]


def refusal(
    directory: Path, made: ModelProto, said: model_pb2.Signature | None = None, kept: model_pb2.Signature | None = None
) -> FitError:
    with pytest.raises(FitError) as refused:
        imported(directory, made, said, kept)
    assert not (directory / "version").exists()
    return refused.value


def test_inputs_and_outputs_are_read_from_the_graph(tmp_path: Path) -> None:
    version = imported(tmp_path, mixed())
    assert shapes(version, "inputs") == [("x", "FP32", [-1, 4]), ("i", "INT64", [-1, 4])]
    assert shapes(version, "outputs") == [("y", "FP32", [-1, 4]), ("s", "INT64", [-1, 1])]
    assert version.manifest["signature"]["rows"]
    assert (version.manifest["task"], version.manifest["backend"]) == (None, "onnxruntime")
    assert version.manifest["parity"] == {"max_difference": 0.0, "tolerance": 1e-5, "row_count": 4}


def test_what_is_served_computes_what_the_file_does(tmp_path: Path) -> None:
    x, i = np.ones((2, 4), np.float32), np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    y, s = session_of(imported(tmp_path, mixed()).model).run(None, {"x": x, "i": i})
    assert y.tolist() == (x + i).tolist()
    assert s.tolist() == [[10], [26]]


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (TensorProto.BOOL, "BOOL"),
        (TensorProto.UINT8, "UINT8"),
        (TensorProto.UINT16, "UINT16"),
        (TensorProto.UINT32, "UINT32"),
        (TensorProto.UINT64, "UINT64"),
        (TensorProto.INT8, "INT8"),
        (TensorProto.INT16, "INT16"),
        (TensorProto.INT32, "INT32"),
        (TensorProto.INT64, "INT64"),
        (TensorProto.FLOAT16, "FP16"),
        (TensorProto.FLOAT, "FP32"),
        (TensorProto.DOUBLE, "FP64"),
        (TensorProto.STRING, "BYTES"),
    ],
)
def test_every_type_that_triton_has_is_served(tmp_path: Path, kind: int, dtype: str) -> None:
    version = imported(tmp_path, identity(kind))
    assert shapes(version, "inputs") == [("x", dtype, [-1, 2, 2])]
    assert shapes(version, "outputs") == [("y", dtype, [-1, 2, 2])]


def test_a_type_that_triton_does_not_have_is_refused(tmp_path: Path) -> None:
    error = refusal(tmp_path, identity(TensorProto.BFLOAT16))
    assert error.field == "content"
    assert "bfloat16" in error.message


def test_values_that_the_graph_knows_are_used_for_the_proof(tmp_path: Path) -> None:
    encode = helper.make_node("OneHotEncoder", ["t"], ["y"], domain=ML, cats_strings=["red", "green"], zeros=0)
    made = model([encode], [("t", STRING, ["n", 1])], [("y", FLOAT, ["n", 1, 2])])
    assert shapes(imported(tmp_path, made), "outputs") == [("y", "FP32", [-1, 1, 2])]


def test_dictionaries_of_sklearn_onnx_come_as_the_tensor_that_they_are_made_of(tmp_path: Path) -> None:
    made = estimator(True, ["a", "b", "c"])
    made.graph.input.append(value(("more", INT64, ["n", 1])))
    version = imported(tmp_path, made)
    assert shapes(version, "outputs") == [("label", "BYTES", [-1, 1]), ("zipped", "FP32", [-1, 3])]


# -- rows ------------------------------------------------------------------------------------------------------------


def test_a_fixed_first_dimension_means_a_model_without_rows(tmp_path: Path) -> None:
    version = imported(tmp_path, relu([1, 3, 8, 8]))
    assert shapes(version, "inputs") == [("x", "FP32", [1, 3, 8, 8])]
    assert not version.manifest["signature"]["rows"]


def test_rows_that_change_each_others_answers_are_never_joined(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "mean"], ["y"]),
    ]
    made = model(nodes, [("x", FLOAT, ["n", 2, 2])], [("y", FLOAT, ["n", 2, 2])])
    assert not imported(tmp_path, made).manifest["signature"]["rows"]


def test_scalars_get_a_dimension(tmp_path: Path) -> None:
    nodes = [helper.make_node("Mul", ["x", "by"], ["y"]), helper.make_node("ReduceSum", ["x"], ["all"], keepdims=0)]
    made = model(nodes, [("x", FLOAT, ["n", 4]), ("by", FLOAT, [])], [("y", FLOAT, ["n", 4]), ("all", FLOAT, [])])
    version = imported(tmp_path, made)
    assert shapes(version, "inputs")[1] == ("by", "FP32", [1])
    assert shapes(version, "outputs")[1] == ("all", "FP32", [1])
    given: dict[str, NDArray[np.float32]] = {"x": np.ones((2, 4), np.float32), "by": np.array([3], np.float32)}
    y, total = session_of(version.model).run(None, given)
    assert (y.max(), total.tolist()) == (3, [8])


# -- what the caller says --------------------------------------------------------------------------------------------


def test_naming_an_output_serves_a_model_of_scores_as_it_is(tmp_path: Path) -> None:
    version = imported(tmp_path, linear(), outputs("y"))
    assert shapes(version, "outputs") == [("y", "FP32", [-1, 3])]
    assert version.manifest["signature"]["classes"] == []


def test_only_the_outputs_that_are_named_are_served(tmp_path: Path) -> None:
    version = imported(tmp_path, mixed(), outputs("s"))
    assert [one[0] for one in shapes(version, "outputs")] == ["s"]


def test_lengths_that_the_file_leaves_open_stay_so_unless_the_caller_gives_them(tmp_path: Path) -> None:
    made = model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [("x", FLOAT, ["n", "words", 4])],
        [("y", FLOAT, ["n", "words", 3])],
        w=W,
    )
    (tmp_path / "open").mkdir()
    assert shapes(imported(tmp_path / "open", made), "outputs") == [("y", "FP32", [-1, -1, 3])]
    said = model_pb2.Signature(inputs=[Spec(name="x", shape=[-1, 5, 4])])
    version = imported(tmp_path, made, said)
    assert shapes(version, "inputs") == [("x", "FP32", [-1, 5, 4])]
    assert shapes(version, "outputs") == [("y", "FP32", [-1, 5, 3])]


@pytest.mark.parametrize(
    ("said", "field"),
    [
        (outputs("z"), "outputs[0].name"),
        (model_pb2.Signature(inputs=[Spec(name="z")]), "inputs[0].name"),
        (model_pb2.Signature(inputs=[Spec(name="x", dtype=data_pb2.DATA_TYPE_INT8)]), "inputs[0].dtype"),
        (model_pb2.Signature(inputs=[Spec(name="x", shape=[-1, 5])]), "inputs[0].shape"),
        (model_pb2.Signature(inputs=[Spec(name="x", shape=[-1, 4, 1])]), "inputs[0].shape"),
        (model_pb2.Signature(inputs=[Spec(name="x", shape=[-1, 0])]), "inputs[0].shape"),
        (model_pb2.Signature(inputs=[Spec(name="x"), Spec(name="x")]), "inputs"),
        (model_pb2.Signature(outputs=[Spec(name="y", shape=[-1, 5])]), "outputs[0].shape"),
        (model_pb2.Signature(classes=labels("a", "b")), "classes"),
        (model_pb2.Signature(task=training_job_pb2.TASK_REGRESSION), "task"),
        (model_pb2.Signature(missing_values=True), "missing_values"),
        (model_pb2.Signature(shape=[4]), "shape"),
    ],
)
def test_what_the_caller_says_must_fit_the_file(tmp_path: Path, said: model_pb2.Signature, field: str) -> None:
    assert refusal(tmp_path, mixed(), said).field == f"description.signature.{field}"


def test_other_formats_have_no_names(tmp_path: Path) -> None:
    with pytest.raises(FitError, match="only files of ONNX") as refused:
        import_file(tmp_path, "lightgbm", _lightgbm(), outputs("y"))
    assert refused.value.field == "description.signature.outputs"


def _lightgbm() -> bytes:
    import lightgbm

    options = {"verbosity": -1, "num_threads": 1}
    rows = np.arange(80.0).reshape(40, 2)
    return lightgbm.train(options, lightgbm.Dataset(rows, rows[:, 0]), 2).model_to_string().encode()  # type: ignore[no-any-return]


# -- versions --------------------------------------------------------------------------------------------------------


def test_a_new_version_takes_and_gives_the_same_tensors(tmp_path: Path) -> None:
    kept = model_pb2.Signature(
        inputs=[
            Spec(name="i", dtype=data_pb2.DATA_TYPE_INT64, shape=[-1, 4]),
            Spec(name="x", dtype=data_pb2.DATA_TYPE_FP32, shape=[-1, 4]),
        ],
        outputs=[
            Spec(name="y", dtype=data_pb2.DATA_TYPE_FP32, shape=[-1, 4]),
            Spec(name="s", dtype=data_pb2.DATA_TYPE_INT64, shape=[-1, 1]),
        ],
    )
    imported(tmp_path, mixed(), kept=kept)
    kept.inputs[0].shape[1] = 5
    (tmp_path / "other").mkdir()
    assert "i INT64 [-1, 5]" in refusal(tmp_path / "other", mixed(), kept=kept).message


def test_rows_of_features_and_named_tensors_are_no_versions_of_one_model(tmp_path: Path) -> None:
    rows = model_pb2.Signature(shape=[4], task=training_job_pb2.TASK_REGRESSION)
    assert "no named tensors" in refusal(tmp_path, mixed(), kept=rows).message
    named = model_pb2.Signature(inputs=[Spec(name="x", shape=[-1, 4])], outputs=[Spec(name="y", shape=[-1, 3])])
    three = model_pb2.Signature(classes=labels("a", "b", "c"))
    assert "rows of features" in refusal(tmp_path, linear(), three, kept=named).message


def test_a_model_that_takes_nothing_that_was_tried_asks_for_shapes(tmp_path: Path) -> None:
    nodes = [helper.make_node("Reshape", ["x", "to"], ["y"])]
    made = model(nodes, [("x", FLOAT, ["n", "m"])], [("y", FLOAT, ["n", 5, 7])], to=np.array([-1, 5, 7]))
    error = refusal(tmp_path, made)
    assert error.field == "description.signature.inputs"
    (tmp_path / "said").mkdir()
    said = model_pb2.Signature(inputs=[Spec(name="x", shape=[-1, 35])])
    assert shapes(imported(tmp_path / "said", made, said), "outputs") == [("y", "FP32", [-1, 5, 7])]
