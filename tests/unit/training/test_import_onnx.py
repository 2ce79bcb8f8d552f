from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from fitserve.v1 import model_pb2, training_job_pb2
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from tests.unit.training.importing import import_file, labels
from training.errors import FitError

CHANCE = np.random.default_rng(0)
X = CHANCE.normal(size=(20, 4)).astype(np.float32)
W = CHANCE.normal(size=(4, 3)).astype(np.float32)
REGRESSION = model_pb2.Signature(task=training_job_pb2.TASK_REGRESSION)
THREE = model_pb2.Signature(classes=labels("a", "b", "c"))
TWO = model_pb2.Signature(classes=labels("a", "b"))
Value = tuple[str, int, Sequence[int | str] | None]


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    grown = np.exp(logits - logits.max(axis=1, keepdims=True))
    return grown / grown.sum(axis=1, keepdims=True)


def value(one: Value) -> ValueInfoProto:
    name, kind, shape = one
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: Sequence[NodeProto],
    given: Sequence[Value] = (("x", TensorProto.FLOAT, ["n", 4]),),
    outputs: Sequence[Value | ValueInfoProto] = (("y", TensorProto.FLOAT, ["n", 3]),),
    opset: int = 17,
    **constants: NDArray[np.generic],
) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "given",
        [value(one) for one in given],
        [one if isinstance(one, ValueInfoProto) else value(one) for one in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def linear(classes: bool = True, **changes: object) -> ModelProto:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["z" if classes else "y"])]
    if classes:
        nodes.append(helper.make_node("Softmax", ["z"], ["y"], axis=1))
    return model(nodes, **{"w": W, **changes})  # type: ignore[arg-type]


def one_value(shape: Sequence[int | str]) -> ModelProto:
    return model(
        [helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=len(shape) - 1)],
        outputs=[("y", TensorProto.FLOAT, shape)],
        axes=np.array([1]),
    )


def test_a_tensor_of_probabilities_is_served_with_the_callers_labels(tmp_path: Path) -> None:
    version = import_file(tmp_path, "onnx", linear().SerializeToString(), THREE)
    np.testing.assert_allclose(version.scores(X), softmax(X @ W), atol=1e-6)
    assert version.manifest["signature"]["classes"] == ["a", "b", "c"]
    assert version.manifest["signature"]["shape"] == [4]
    assert version.manifest["parity"]["row_count"] == 1000


@pytest.mark.parametrize("shape", [["n", 1], ["n"]], ids=str)
def test_one_value_a_row_is_served_whether_it_comes_as_a_column_or_not(tmp_path: Path, shape: list[int | str]) -> None:
    version = import_file(tmp_path, "onnx", one_value(shape).SerializeToString(), REGRESSION)
    np.testing.assert_allclose(version.scores(X), X.sum(axis=1, keepdims=True), atol=1e-6)
    assert version.manifest["task"] == "regression"


def test_the_probability_of_the_second_of_two_classes_becomes_both(tmp_path: Path) -> None:
    given = model(
        [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Sigmoid", ["z"], ["y"])],
        outputs=[("y", TensorProto.FLOAT, ["n", 1])],
        w=W[:, :1],
    )
    second = 1 / (1 + np.exp(-(X @ W[:, :1])))
    version = import_file(tmp_path, "onnx", given.SerializeToString(), TWO)
    np.testing.assert_allclose(version.scores(X), np.hstack([1 - second, second]), atol=1e-6)


def test_double_precision_inside_is_kept(tmp_path: Path) -> None:
    doubles = TensorProto.DOUBLE
    given = model(
        [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Softmax", ["z"], ["y"], axis=1)],
        [("x", doubles, ["n", 4])],
        [("y", doubles, ["n", 3])],
        w=W.astype(np.float64),
    )
    version = import_file(tmp_path, "onnx", given.SerializeToString(), THREE)
    np.testing.assert_allclose(version.scores(X), softmax(X @ W), atol=1e-6)


@pytest.mark.parametrize("names", [("features", "scores"), ("scores", "features"), ("x", "features.imported")])
def test_any_names_inside_are_allowed(tmp_path: Path, names: tuple[str, str]) -> None:
    given, inner = names
    made = model(
        [helper.make_node("MatMul", [given, "w"], [inner]), helper.make_node("Softmax", [inner], ["y"], axis=1)],
        [(given, TensorProto.FLOAT, ["n", 4])],
        w=W,
    )
    np.testing.assert_allclose(
        import_file(tmp_path, "onnx", made.SerializeToString(), THREE).scores(X), softmax(X @ W), atol=1e-6
    )


def estimator(zip_map: bool, classes: list[int] | list[str]) -> ModelProto:
    """A classifier as sklearn-onnx writes it."""
    texts = isinstance(classes[0], str)
    name = "classlabels_strings" if texts else "classlabels_int64s"
    attributes = {"classlabels_strings" if texts else "classlabels_ints": classes}
    domain = "ai.onnx.ml"
    nodes = [
        helper.make_node(
            "LinearClassifier",
            ["x"],
            ["label", "raw"],
            domain=domain,
            coefficients=W.T.ravel().tolist(),
            intercepts=[0.0] * 3,
            post_transform="SOFTMAX",
            **attributes,
        )
    ]
    kind = TensorProto.STRING if texts else TensorProto.INT64
    outputs: list[Value | ValueInfoProto] = [("label", kind, ["n"])]
    if zip_map:
        nodes.append(helper.make_node("ZipMap", ["raw"], ["zipped"], domain=domain, **{name: classes}))
        entry = helper.make_map_type_proto(kind, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
        outputs.append(helper.make_value_info("zipped", helper.make_sequence_type_proto(entry)))
    else:
        outputs.append(("raw", TensorProto.FLOAT, ["n", 3]))
    return model(nodes, outputs=outputs)


@pytest.mark.parametrize("zip_map", [True, False])
@pytest.mark.parametrize("classes", [[3, 5, 7], ["a", "b", "c"]], ids=str)
def test_an_estimator_with_labels_and_probabilities_needs_no_signature(
    tmp_path: Path, zip_map: bool, classes: list[int] | list[str]
) -> None:
    version = import_file(tmp_path, "onnx", estimator(zip_map, classes).SerializeToString())
    np.testing.assert_allclose(version.scores(X), softmax(X @ W), atol=1e-6)
    assert version.manifest["signature"]["classes"] == classes


def test_a_newer_ir_than_triton_reads_is_lowered(tmp_path: Path) -> None:
    made = linear()
    made.ir_version = 12
    version = import_file(tmp_path, "onnx", made.SerializeToString(), THREE)
    assert onnx.load_model_from_string(version.model).ir_version == 11


def test_lengths_that_the_file_leaves_open_come_from_the_caller(tmp_path: Path) -> None:
    made = model(
        [helper.make_node("ReduceMax", ["x"], ["y"], axes=[1, 2], keepdims=0)],
        [("x", TensorProto.FLOAT, ["n", 2, "m"])],
        [("y", TensorProto.FLOAT, ["n"])],
    ).SerializeToString()
    signature = model_pb2.Signature(task=training_job_pb2.TASK_REGRESSION, shape=[2, 3])
    assert import_file(tmp_path, "onnx", made, signature).manifest["signature"]["shape"] == [2, 3]
    for shape in ([], [3, 3], [2]):
        with pytest.raises(FitError) as refused:
            import_file(tmp_path, "onnx", made, model_pb2.Signature(task=training_job_pb2.TASK_REGRESSION, shape=shape))
        assert refused.value.field == "description.signature.shape"


@pytest.mark.parametrize(
    ("made", "signature", "field"),
    [
        (linear(), None, "task"),
        (one_value(["n", 1]), None, "task"),
        (linear(), model_pb2.Signature(task=training_job_pb2.TASK_CLASSIFICATION), "classes"),
        (linear(), TWO, "classes"),
        (estimator(True, [1, 2, 3]), REGRESSION, "task"),
    ],
)
def test_what_neither_the_file_nor_the_caller_says_is_asked_for(
    tmp_path: Path, made: ModelProto, signature: model_pb2.Signature | None, field: str
) -> None:
    with pytest.raises(FitError) as refused:
        import_file(tmp_path, "onnx", made.SerializeToString(), signature)
    assert refused.value.field == f"description.signature.{field}"


def with_external_data(change: Callable[[ModelProto], TensorProto]) -> ModelProto:
    made = linear()
    tensor = change(made)
    tensor.CopyFrom(TensorProto(name=tensor.name, data_type=TensorProto.FLOAT, dims=[4, 3]))
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../../../../etc/passwd")
    return made


def in_a_branch(made: ModelProto) -> TensorProto:
    branch = GraphProto(name="branch", initializer=[TensorProto(name="hidden")])
    node = made.graph.node.add(op_type="If", input=["x"], output=["unused"])
    node.attribute.append(helper.make_attribute("then_branch", branch))
    return node.attribute[0].g.initializer[0]


def in_a_constant(made: ModelProto) -> TensorProto:
    node = made.graph.node.add(op_type="Constant", output=["unused"])
    node.attribute.append(helper.make_attribute("value", TensorProto(name="hidden")))
    return node.attribute[0].t


@pytest.mark.parametrize("change", [lambda made: made.graph.initializer[0], in_a_branch, in_a_constant])
def test_no_other_file_is_ever_read(tmp_path: Path, change: Callable[[ModelProto], TensorProto]) -> None:
    with pytest.raises(FitError, match="external data") as refused:
        import_file(tmp_path, "onnx", with_external_data(change).SerializeToString(), THREE)
    assert refused.value.field == "content"


@pytest.mark.parametrize(
    ("made", "word"),
    [
        (linear(opset=24), "opset"),
        (
            linear(given=[("x", TensorProto.FLOAT, [7, 4])], outputs=[("y", TensorProto.FLOAT, [7, 3])]),
            "exactly 7 rows",
        ),
        (linear(w=np.zeros((5, 3), np.float32)), "damaged"),
        (
            model([helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)], outputs=[("y", TensorProto.FLOAT, [])]),
            "3 rows",
        ),
        (model([helper.make_node("Mine", ["x"], ["y"], domain="mine")]), "damaged"),
    ],
)
def test_what_is_not_served_is_named(tmp_path: Path, made: ModelProto, word: str) -> None:
    with pytest.raises(FitError, match=word) as refused:
        import_file(tmp_path, "onnx", made.SerializeToString(), THREE)
    assert (refused.value.reason, refused.value.field) == ("INVALID_FIELD", "content")
    assert not (tmp_path / "version").exists()


def test_operators_of_unknown_domains_are_refused(tmp_path: Path) -> None:
    made = model([helper.make_node("Mine", ["x"], ["y"], domain="mine")])
    made.opset_import.add(domain="mine", version=1)
    with pytest.raises(FitError, match="mine"):
        import_file(tmp_path, "onnx", made.SerializeToString(), THREE)


def test_a_model_that_gives_other_scores_each_time_is_not_kept(tmp_path: Path) -> None:
    made = model(
        [helper.make_node("RandomNormalLike", ["x"], ["y"])], outputs=[("y", TensorProto.FLOAT, ["n", 4])]
    ).SerializeToString()
    with pytest.raises(FitError) as refused:
        import_file(tmp_path, "onnx", made, model_pb2.Signature(classes=labels("a", "b", "c", "d")))
    assert refused.value.reason == "EXPORT_NOT_EQUAL"
    assert not (tmp_path / "version").exists()


def node(kind: str, given: Sequence[str], made: str = "y", **attributes: object) -> NodeProto:
    return helper.make_node(kind, list(given), [made], **attributes)


@pytest.mark.parametrize(
    "made",
    [
        model([node("MatMul", "xw", "z"), node("Softmax", "z", axis=0)], w=W),
        model(
            [
                node("MatMul", "xw", "z"),
                node("ReduceSum", ["z", "axes"], "s", keepdims=1),
                node("Mul", ["s", "nothing"], "t"),
                node("Add", ["z", "t"]),
            ],
            w=W,
            axes=np.array([0]),
            nothing=np.float32(0),
        ),
    ],
    ids=["softmax over rows", "only when a row is infinite"],
)
def test_a_model_in_which_rows_change_each_other_is_not_kept(tmp_path: Path, made: ModelProto) -> None:
    with pytest.raises(FitError, match="others in their batch") as refused:
        import_file(tmp_path, "onnx", made.SerializeToString(), THREE)
    assert refused.value.reason == "EXPORT_NOT_EQUAL"
    assert not (tmp_path / "version").exists()


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"nodes_featureids": [0, 0, 4, 0, 0]},
        {"nodes_featureids": [0, 0, -1, 0, 0]},
        {"nodes_truenodeids": [1, 0, 2, 0, 0]},
        {"nodes_truenodeids": [1, 0, 0, 0, 0]},
        {"nodes_falsenodeids": [2, 0, 10**7, 0, 0]},
        {"nodes_falsenodeids": [2, 0, -1, 0, 0]},
        {"nodes_nodeids": [0, 1, 2, 3, 3]},
        {"nodes_values": [0.0]},
        {"target_nodeids": [1, 3, 77]},
        {"target_treeids": [0, 0, 9]},
        {"target_ids": [0, 10**7, 0]},
        {"target_ids": [0, -1, 0]},
        {"target_weights": [float("nan")] * 3},
    ],
    ids=str,
)
def test_trees_that_lead_out_of_their_nodes_are_refused(tmp_path: Path, change: dict[str, list[float]]) -> None:
    trees = {
        "n_targets": 1,
        "nodes_treeids": [0] * 5,
        "nodes_nodeids": [0, 1, 2, 3, 4],
        "nodes_featureids": [0, 0, 3, 0, 0],
        "nodes_values": [0.0] * 5,
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "BRANCH_LEQ", "LEAF", "LEAF"],
        "nodes_truenodeids": [1, 0, 3, 0, 0],
        "nodes_falsenodeids": [2, 0, 4, 0, 0],
        "target_treeids": [0] * 3,
        "target_nodeids": [1, 3, 4],
        "target_ids": [0] * 3,
        "target_weights": [1.0, 2.0, 3.0],
    }
    made = model(
        [helper.make_node("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", **{**trees, **change})],
        outputs=[("y", TensorProto.FLOAT, ["n", 1])],
    )
    if not change:
        assert import_file(tmp_path, "onnx", made.SerializeToString(), REGRESSION).manifest["task"] == "regression"
        return
    with pytest.raises(FitError) as refused:
        import_file(tmp_path, "onnx", made.SerializeToString(), REGRESSION)
    assert (refused.value.reason, refused.value.field) == ("INVALID_FIELD", "content")
