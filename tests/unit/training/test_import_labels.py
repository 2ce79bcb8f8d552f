"""The labels of imported classes: which are taken, and that a new version keeps those of the versions before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xgboost
from fitserve.v1 import data_pb2, model_pb2, model_service_pb2
from google.protobuf.struct_pb2 import Value
from onnx import TensorProto, helper, numpy_helper
from sklearn.linear_model import LinearRegression, LogisticRegression

from service.adapters.training_spec import import_message
from service.domain.entities import Label, Signature, Task, ValueKind
from service.domain.ports import ConversionOrder
from tests.unit.training.importing import import_file, labels
from training.errors import FitError

X = np.random.default_rng(0).normal(size=(50, 3))
Y = (X[:, 0] > 0).astype(int)
CLASSIFICATION = model_pb2.Signature(task="TASK_CLASSIFICATION")


def onnx_file() -> bytes:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "given",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(np.ones((3, 2), np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def xgboost_file() -> bytes:
    model = xgboost.XGBClassifier(n_estimators=2, n_jobs=1).fit(X, Y)
    return bytes(model.get_booster().save_raw("ubj"))


def skops_file(estimator: object) -> bytes:
    import skops.io

    return skops.io.dumps(estimator)


def kept(kind: ValueKind | None, *classes: Label, **changes: object) -> model_pb2.Signature:
    """Returns the signature of the versions before as the service writes it."""
    task = Task.CLASSIFICATION if classes else Task.REGRESSION
    signature = Signature(task=task, shape=(3,), columns=(), missing_values=False, classes=classes, label_kind=kind)
    for name, value in changes.items():
        object.__setattr__(signature, name, value)
    order = ConversionOrder(
        job="import-1",
        model="irises",
        version=2,
        description=model_service_pb2.ImportDescription().SerializeToString(),
        file=Path("file"),
        file_digest="",
        memory_limit_bytes=2**30,
        spec=Path("spec"),
        output=Path("version"),
        signature=signature,
    )
    return import_message(order).signature


@pytest.mark.parametrize(
    ("given", "dtype", "place"),
    [
        (["a", "b" * 257], None, "[1]"),
        (["a\0b", "c"], None, "[0]"),
        ([0.0, 1e300], None, "[1]"),
        ([0.0, 2.0**63], None, "[1]"),
        ([1.5, 2.0], "INT64", "[0]"),
        (["1 ", "1"], "INT64", "[0]"),
        ([True, False], "INT64", "[0]"),
        (["1", "99999999999999999999"], "INT64", "[1]"),
        (["1", "9223372036854775808"], "INT64", "[1]"),
        ([2.0, 1.0], "BYTES", "[0]"),
        (["a", 1.0], None, ""),
    ],
)
def test_labels_that_no_prediction_could_hold_are_refused_by_name(
    tmp_path: Path, given: list[str | float | bool], dtype: str | None, place: str
) -> None:
    said = model_pb2.Signature(classes=labels(*given), prediction_dtype=dtype and f"DATA_TYPE_{dtype}")
    with pytest.raises(FitError) as refused:
        import_file(tmp_path, "onnx", onnx_file(), said)
    assert (refused.value.reason, refused.value.field) == ("INVALID_FIELD", f"description.signature.classes{place}")


def test_a_type_that_labels_never_have_is_refused(tmp_path: Path) -> None:
    said = model_pb2.Signature(classes=labels("a", "b"), prediction_dtype=data_pb2.DATA_TYPE_FP32)
    with pytest.raises(FitError) as refused:
        import_file(tmp_path, "onnx", onnx_file(), said)
    assert refused.value.field == "description.signature.prediction_dtype"


def test_labels_in_the_file_are_bounded_too(tmp_path: Path) -> None:
    model = LogisticRegression().fit(X, np.array(["a", "b" * 300])[Y])
    with pytest.raises(FitError, match="300 characters"):
        import_file(tmp_path, "skops", skops_file(model))


def test_integers_of_any_size_come_as_texts_of_their_digits(tmp_path: Path) -> None:
    given = [Value(string_value="9007199254740993"), Value(number_value=1)]
    said = model_pb2.Signature(classes=given, prediction_dtype=data_pb2.DATA_TYPE_INT64)
    signature = import_file(tmp_path, "onnx", onnx_file(), said).manifest["signature"]
    assert (signature["classes"], signature["label_kind"]) == ([9007199254740993, 1], "integer")


@pytest.mark.parametrize(
    ("kind", "classes"),
    [
        (ValueKind.INTEGER, (9007199254740993, 1)),
        (ValueKind.INTEGER, (-9007199254740995, 9007199254740993)),
        (ValueKind.NUMBER, (1.0, 2.0)),
        (ValueKind.BOOLEAN, (False, True)),
        (ValueKind.CATEGORY, ("1", "2" * 1000)),
    ],
)
@pytest.mark.parametrize("format", ["onnx", "xgboost"])
def test_a_new_version_answers_with_the_labels_of_the_versions_before(
    tmp_path: Path, format: str, kind: ValueKind, classes: tuple[Label, ...]
) -> None:
    content, said = (onnx_file(), CLASSIFICATION) if format == "onnx" else (xgboost_file(), None)
    signature = import_file(tmp_path, format, content, said, kept(kind, *classes)).manifest["signature"]
    assert (signature["classes"], signature["label_kind"]) == (list(classes), kind)
    assert [type(label) for label in signature["classes"]] == [type(label) for label in classes]


def test_a_file_with_other_labels_than_the_versions_before_is_asked_about(tmp_path: Path) -> None:
    before = kept(ValueKind.CATEGORY, "no", "yes")
    content = skops_file(LogisticRegression().fit(X, np.array(["cat", "dog"])[Y]))
    with pytest.raises(FitError, match="dog") as refused:
        import_file(tmp_path, "skops", content, kept=before)
    assert refused.value.field == "description.signature.classes"
    said = model_pb2.Signature(classes=labels("cat", "dog"))
    assert import_file(tmp_path, "skops", content, said, before).manifest["signature"]["classes"] == ["cat", "dog"]


def test_one_value_does_not_follow_several(tmp_path: Path) -> None:
    content = skops_file(LinearRegression().fit(X, X[:, 0]))
    with pytest.raises(FitError, match="one value a row") as refused:
        import_file(tmp_path, "skops", content, kept=kept(None, targets=("width", "length")))
    assert refused.value.field == "content"
    assert import_file(tmp_path, "skops", content, kept=kept(None)).manifest["task"] == "regression"
