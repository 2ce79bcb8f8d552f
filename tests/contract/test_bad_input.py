"""No request, however wrong, gets an answer other than an error that names what is wrong; and none starts a training."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterator

import grpc
import numpy as np
import pytest
from fitserve.v1 import (
    algorithm_pb2,
    data_pb2,
    dataset_pb2,
    model_service_pb2,
    options_pb2,
    prediction_service_pb2,
    server_service_pb2,
    training_service_pb2,
)
from google.protobuf import duration_pb2
from google.protobuf.descriptor import FieldDescriptor
from sklearn.datasets import load_iris

from tests.contract.wire import (
    METHODS,
    Refusal,
    Stubs,
    column,
    error_of,
    list_value,
    records,
    rows,
    stubs_of,
    table,
    tensor,
)
from tests.service_process import ServiceProcess

Inputs = data_pb2.Inputs
FitRequest = training_service_pb2.FitRequest
InlineDataset = training_service_pb2.InlineDataset

MODEL = "refused"
"""The model that no Fit of this file makes."""

A, B = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0), (1.0, 0.0, 1.0, 0.0, 1.0, 0.0)
GOOD = np.array([A, B], "<f4").T
LABELS = ("a", "b") * 3
NAN, INF, LARGE = math.nan, math.inf, 1e39


def assert_names(refusal: Refusal, field: str) -> None:
    """Asserts that a call was refused because of a field, or of a part of it."""
    assert refusal.code == grpc.StatusCode.INVALID_ARGUMENT, refusal
    assert (refusal.reason, refusal.domain) == ("INVALID_FIELD", "fitserve"), refusal
    assert len(refusal.fields) == 1, refusal
    assert refusal.fields[0].startswith(field), refusal
    assert refusal.metadata["field"] == refusal.fields[0]
    assert refusal.message.startswith(refusal.fields[0].removesuffix("..."))  # a very long one is cut


# -- Fit -------------------------------------------------------------------------------------------------------------


def with_cell(value: object) -> dict[str, Inputs]:
    """Returns six rows with the value in the third one, in each form that can hold it."""
    a = [*A[:2], value, *A[3:]]
    forms = {
        "rows": rows(*zip(a, B, strict=True)),
        "records": records(*({"a": x, "b": y} for x, y in zip(a, B, strict=True))),
    }
    if isinstance(value, float):
        matrix = np.array([a, B], "<f8").T
        forms["tensor"] = tensor(matrix.shape, matrix.tobytes(), data_pb2.DATA_TYPE_FP64)
        forms["table"] = table(column("a", a), column("b", B))
    return forms


ROWS = with_cell(2.0)["rows"]
TABLE = table(column("a", A), column("b", B), column("label", LABELS))
IMAGES = tensor([6, 1, 4, 4], np.arange(96, dtype="<f4").tobytes())
FP32 = data_pb2.DATA_TYPE_FP32


def six(dtype: int) -> Inputs:
    return tensor(GOOD.shape, GOOD.tobytes(), dtype)


BAD_INPUTS: dict[str, tuple[Inputs, str]] = {
    "nothing": (Inputs(), "inline.inputs"),
    "two forms at once": (Inputs(rows=ROWS.rows, table=TABLE.table), "inline.inputs"),
    "three forms at once": (Inputs(rows=ROWS.rows, table=TABLE.table, tensor=IMAGES.tensor), "inline.inputs"),
    "named tensors": (Inputs(tensors={"x": IMAGES.tensor}), "inline.inputs.tensors"),
    "ragged rows": (rows(*[[1, 2]] * 5, [1]), "inline.inputs.rows[5]"),
    "nested ragged rows": (rows(*[[[1, 2], [3, 4]]] * 5, [[1, 2], [3]]), "inline.inputs.rows[5][1]"),
    "rows nested unevenly": (rows(*[[1, 2]] * 5, [1, [2]]), "inline.inputs.rows[5][1]"),
    "rows of objects": (rows(*[[1, {"a": 1}]] * 6), "inline.inputs.rows[0][1]"),
    "rows without columns": (rows(*[[]] * 6), "inline.inputs"),
    "records with a key missing": (records(*[{"a": 1, "b": 2}] * 5, {"a": 1}), "inline.inputs.records[5]"),
    "records with a key too many": (records(*[{"a": 1}] * 5, {"a": 1, "b": 2}), "inline.inputs.records[5]"),
    "empty records": (records(*[{}] * 6), "inline.inputs.records[0]"),
    "records with an empty key": (records(*[{"": x, "b": 1} for x in A]), "inline.inputs.records[0]"),
    "records with a long key": (records(*[{"a" * 257: x} for x in A]), "inline.inputs.records[0]"),
    "records of lists": (records(*[{"a": [x]} for x in A]), "inline.inputs.records"),
    "records of lists and nulls": (records(*[{"a": [1]}, {"a": None}] * 3), "inline.inputs.records"),
    "a table without columns": (Inputs(table=data_pb2.Table()), "inline.inputs.table.columns"),
    "a table without rows": (table(column("a", []), column("b", [])), "inline.inputs"),
    "a column without values": (table(data_pb2.Column(name="a")), "inline.inputs.table.columns[0]"),
    "a column without a name": (table(column("", A), column("b", B)), "inline.inputs.table.columns[0].name"),
    "a column with a long name": (table(column("a", A), column("b" * 257, B)), "inline.inputs.table.columns[1].name"),
    "two columns of one name": (table(column("a", A), column("a", B)), "inline.inputs.table.columns[1].name"),
    "columns of different lengths": (table(column("a", A), column("b", B[:5])), "inline.inputs.table.columns[1]"),
    "a missing row that is not there": (table(column("a", A, missing=[6])), "inline.inputs.table.columns[0].missing"),
    "a negative missing row": (table(column("a", A, missing=[-1])), "inline.inputs.table.columns[0].missing"),
    "no rows": (tensor([0, 2], b""), "inline.inputs"),
    "no columns": (tensor([6, 0], b""), "inline.inputs"),
    "no shape": (tensor([], b"\0" * 4), "inline.inputs.tensor.shape"),
    "one dimension": (tensor([6], b"\0" * 24), "inline.inputs.tensor.shape"),
    "nine dimensions": (tensor([6, *[1] * 8], b"\0" * 24), "inline.inputs.tensor.shape"),
    "a million dimensions": (tensor([1] * 1_000_000, b"\0" * 4), "inline.inputs.tensor.shape"),
    "a byte too few": (tensor([6, 2], GOOD.tobytes()[:-1]), "inline.inputs.tensor.data"),
    "a byte too many": (tensor([6, 2], GOOD.tobytes() + b"\0"), "inline.inputs.tensor.data"),
    "a negative length": (tensor([-6, 2], GOOD.tobytes()), "inline.inputs.tensor.shape"),
    "two negative lengths": (tensor([-6, -2], GOOD.tobytes()), "inline.inputs.tensor.shape"),
    "a shape that overflows": (tensor([2**40, 2**40], GOOD.tobytes()), "inline.inputs.tensor"),
    "a shape that overflows to its bytes": (tensor([2**32, 2**32], b""), "inline.inputs.tensor"),
    "a shape that overflows but for a 0": (tensor([2**40, 2**40, 0], b""), "inline.inputs"),
    "2^62 rows of nothing": (tensor([2**62, 0], b""), "inline.inputs"),
    "0 rows of 2^62": (tensor([0, 2**62], b""), "inline.inputs"),
    "no dtype": (six(data_pb2.DATA_TYPE_UNSPECIFIED), "inline.inputs.tensor.dtype"),
    "bytes": (six(data_pb2.DATA_TYPE_BYTES), "inline.inputs.tensor.dtype"),
    "an unknown dtype": (six(99), "inline.inputs.tensor.dtype"),
    "a negative dtype": (six(-1), "inline.inputs.tensor.dtype"),
    "images": (IMAGES, "inline.inputs"),
    "too many columns of a tensor": (tensor([6, 100_001], bytes(2_400_024)), "inline.inputs.tensor.shape"),
    "too many columns of rows": (rows(*[[0] * 100_001] * 6), "inline.inputs.rows"),
    "too large images": (
        tensor([1, 1, 2048, 2049], bytes(4_196_352), data_pb2.DATA_TYPE_UINT8),
        "inline.inputs.tensor",
    ),
    "too many columns of a table": (
        table(*(column(str(number), A) for number in range(10_001))),
        "inline.inputs.table.columns",
    ),
    "too many keys in records": (records(*[{str(number): 1 for number in range(10_001)}] * 6), "inline.inputs.records"),
    "a name with a NUL": (table(column("a\0", A), column("b", B)), "inline.inputs.table.columns[0].name"),
    "a key with a NUL": (records(*[{"a\0": x, "b": 1} for x in A]), "inline.inputs.records[0]"),
    **{f"a text in {form}": (inputs, f"inline.inputs.{form}") for form, inputs in with_cell("x").items()},
    "null in rows": (with_cell(None)["rows"], "inline.inputs"),
    **{f"NaN in {form}": (with_cell(NAN)[form], "inline.inputs") for form in ("rows", "tensor")},
    **{f"infinity in {form}": (inputs, "inline.inputs") for form, inputs in with_cell(INF).items()},
    **{f"-infinity in {form}": (inputs, "inline.inputs") for form, inputs in with_cell(-INF).items()},
    **{f"too large for float32 in {form}": (inputs, "inline.inputs") for form, inputs in with_cell(LARGE).items()},
}

BAD_TARGETS: dict[str, tuple[InlineDataset, str]] = {
    "none": (InlineDataset(), "inline.targets"),
    "targets and labels": (InlineDataset(targets=column("", LABELS), labels=list_value(LABELS)), "inline.labels"),
    "targets without values": (InlineDataset(targets=data_pb2.Column()), "inline.targets"),
    "too few targets": (InlineDataset(targets=column("", LABELS[:5])), "inline.targets"),
    "too many targets": (InlineDataset(targets=column("", LABELS * 2)), "inline.targets"),
    "too few labels": (InlineDataset(labels=list_value(LABELS[:5])), "inline.labels"),
    "too many labels": (InlineDataset(labels=list_value(LABELS * 2)), "inline.labels"),
    "no labels": (InlineDataset(labels=list_value([])), "inline.labels"),
    "texts and numbers": (InlineDataset(labels=list_value([*LABELS[:5], 1])), "inline.labels[5]"),
    "numbers and truth values": (InlineDataset(labels=list_value([1, 0, 1, 0, 1, True])), "inline.labels[5]"),
    "a null first, then mixed": (InlineDataset(labels=list_value([None, 0, 1, 0, 1, "a"])), "inline.labels[5]"),
    "a null among texts": (InlineDataset(labels=list_value([*LABELS[:5], None])), "inline.labels"),
    "a null among numbers": (InlineDataset(labels=list_value([0, 1, 0, 1, 0, None])), "inline.labels"),
    "nulls only": (InlineDataset(labels=list_value([None] * 6)), "inline.labels"),
    "lists": (InlineDataset(labels=list_value([[1]] * 6)), "inline.labels[0]"),
    "NaN": (InlineDataset(targets=column("", [NAN, *A[1:]])), "inline.targets"),
    "infinity": (InlineDataset(targets=column("", [INF, *A[1:]])), "inline.targets"),
    "one class of texts": (InlineDataset(targets=column("", ["a"] * 6)), "inline.targets"),
    "one class of labels": (InlineDataset(labels=list_value([1] * 6)), "inline.labels"),
    "as many classes as rows": (InlineDataset(labels=list_value(list("abcdef"))), "inline.labels"),
}


def fit(inline: InlineDataset | None = None, **fields: object) -> FitRequest:
    """Returns a Fit that is good but for what is given; an algorithm is given by its name."""
    if not any(field.name in fields for field in FitRequest.DESCRIPTOR.oneofs_by_name["algorithm"].fields):
        fields["logistic_regression"] = algorithm_pb2.LogisticRegression()
    good = InlineDataset(inputs=ROWS, targets=column("", LABELS))
    return FitRequest(**{"model": MODEL, "inline": inline or good} | fields)


def numbers(inputs: Inputs) -> InlineDataset:
    return InlineDataset(inputs=inputs, targets=column("", A))


def without(field: str) -> FitRequest:
    request = fit()
    request.ClearField(field)
    return request


def seconds(value: float) -> duration_pb2.Duration:
    return duration_pb2.Duration(seconds=int(value), nanos=round(value % 1 * 1e9))


TEXTS = InlineDataset(inputs=ROWS, targets=column("", LABELS))
FOREST, XGBOOST, CNN = algorithm_pb2.RandomForest(), algorithm_pb2.Xgboost(), algorithm_pb2.TorchCnn()

BAD_FITS: dict[str, tuple[FitRequest, str]] = {
    "no algorithm": (without("logistic_regression"), "algorithm"),
    "no data": (without("inline"), "inline"),
    "images for random_forest": (fit(numbers(IMAGES), random_forest=FOREST), "inline.inputs"),
    "a matrix for torch_cnn": (fit(numbers(ROWS), torch_cnn=CNN), "inline.inputs"),
    "regression with logistic_regression": (fit(numbers(ROWS), task="TASK_REGRESSION"), "task"),
    "regression with texts": (fit(TEXTS, random_forest=FOREST, task="TASK_REGRESSION"), "inline.targets"),
    "an infinity for xgboost": (
        fit(InlineDataset(inputs=with_cell(INF)["rows"], targets=column("", LABELS)), xgboost=XGBOOST),
        "inline.inputs",
    ),
    "one row for a regression": (
        fit(InlineDataset(inputs=rows([1, 2]), labels=list_value([1.5])), random_forest=FOREST),
        "inline.",
    ),
    "an unknown task": (fit(task=99), "task"),
    "a negative task": (fit(task=-1), "task"),
    "an unknown existing": (fit(existing=99), "existing"),
    "more cores than there are": (fit(cores=3), "cores"),
    "a negative time limit": (fit(time_limit=seconds(-1)), "time_limit"),
    "a time limit of 0": (fit(time_limit=seconds(0)), "time_limit"),
    "a time limit of years": (fit(time_limit=seconds(1e8)), "time_limit"),
    "a time limit of a microsecond": (fit(time_limit=seconds(1e-6)), "time_limit"),
    "too little memory": (fit(memory_limit_bytes=2**20 - 1), "memory_limit_bytes"),
    "a long request_id": (fit(request_id="r" * 129), "request_id"),
    "a request_id with a NUL": (fit(request_id="r\0"), "request_id"),
    "a target with a NUL": (fit(InlineDataset(inputs=TABLE), target="label\0"), "target"),
    "a target of one class": (
        fit(InlineDataset(inputs=table(column("a", A), column("label", ["x"] * 6))), target="label"),
        "inline.inputs (column 'label')",
    ),
    "a digest that is none": (FitRequest(model=MODEL, dataset="abc", xgboost=XGBOOST), "dataset"),
    "a digest in capitals": (FitRequest(model=MODEL, dataset="sha256:" + "A" * 64, xgboost=XGBOOST), "dataset"),
    "a digest with a path": (FitRequest(model=MODEL, dataset="sha256:../" + "a" * 61, xgboost=XGBOOST), "dataset"),
    "an empty digest": (FitRequest(model=MODEL, dataset="", xgboost=XGBOOST), "dataset"),
    "an unknown target": (fit(InlineDataset(inputs=TABLE), target="lable"), "target"),
    "a target of rows": (fit(InlineDataset(inputs=ROWS), target="a"), "target"),
    "a target plus targets": (fit(InlineDataset(inputs=TABLE, targets=column("", LABELS)), target="label"), "target"),
    "a target and nothing else": (fit(InlineDataset(inputs=table(column("a", LABELS))), target="a"), "inline.inputs"),
}


def bad_values(field: FieldDescriptor) -> Iterator[tuple[str, object]]:
    """Yields values just outside of a field's bounds, each with what is wrong with it."""
    bounds = field.GetOptions().Extensions[options_pb2.bounds]
    whole = field.cpp_type not in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT)
    number = int if whole else float
    if bounds.HasField("min"):
        yield "below min", number(bounds.min) - 1
    if bounds.HasField("max"):
        yield "above max", int(bounds.max) + 1 if whole else math.nextafter(bounds.max, INF)
    if bounds.HasField("above"):
        yield "equal to above", number(bounds.above)
    if bounds.HasField("below"):
        yield "equal to below", number(bounds.below)
    if bounds.one_of:
        yield "none of", "nonsense"
        yield "empty", ""
    elif not whole:
        yield from (("NaN", NAN), ("infinity", INF), ("-infinity", -INF))
    if bounds.HasField("max_items"):
        item: object = "x" if field.cpp_type == FieldDescriptor.CPPTYPE_STRING else number(bounds.min)
        yield "too many", [item] * (bounds.max_items + 1)


def fits_out_of_bounds() -> Iterator[tuple[str, FitRequest, str]]:
    for field in FitRequest.DESCRIPTOR.fields:
        if field.containing_oneof is not None and field.containing_oneof.name == "algorithm":
            for parameter in field.message_type.fields:
                for what, value in bad_values(parameter):
                    request = fit(**{field.name: {}})
                    put(getattr(request, field.name), parameter, value)
                    place = f"{field.name}.{parameter.name}"
                    yield f"{place} {what}", request, place
        else:
            for what, value in bad_values(field):
                yield f"{field.name} {what}", fit(**{field.name: value}), field.name


def put(message: object, field: FieldDescriptor, value: object) -> None:
    if field.is_repeated:
        getattr(message, field.name).extend(value if isinstance(value, list) else [value])
    else:
        setattr(message, field.name, value)


def all_bad_fits() -> Iterator[tuple[str, FitRequest, str]]:
    for what, (inputs, field) in BAD_INPUTS.items():
        yield f"inputs: {what}", fit(InlineDataset(inputs=inputs, targets=column("", LABELS))), field
    for what, (inline, field) in BAD_TARGETS.items():
        whole = InlineDataset(inputs=ROWS)
        whole.MergeFrom(inline)
        yield f"targets: {what}", fit(whole), field
    for what, (request, field) in BAD_FITS.items():
        yield what, request, field
    yield from fits_out_of_bounds()


FITS = [pytest.param(request, field, id=what) for what, request, field in all_bad_fits()]


@pytest.mark.parametrize(("request_", "field"), FITS)
def test_a_bad_fit_is_refused_and_names_its_field(stubs: Stubs, request_: FitRequest, field: str) -> None:
    assert_names(error_of(lambda: stubs.training.Fit(request_)), field)


def test_after_all_bad_fits_no_training_was_started_and_the_service_answers(stubs: Stubs) -> None:
    for _, request, field in all_bad_fits():
        assert_names(error_of(lambda request=request: stubs.training.Fit(request)), field)
    asked = training_service_pb2.ListTrainingJobsRequest(model=MODEL)
    assert not stubs.training.ListTrainingJobs(asked).jobs
    status = stubs.server.GetStatus(server_service_pb2.GetStatusRequest(), timeout=5)
    assert MODEL not in [process.model for process in status.training.active_processes]
    assert status.triton.ready
    unknown = error_of(lambda: stubs.models.GetModel(model_service_pb2.GetModelRequest(model=MODEL)))
    assert unknown.reason == "MODEL_NOT_FOUND"


def test_a_misspelt_target_is_told_the_nearest_column(stubs: Stubs) -> None:
    refusal = error_of(lambda: stubs.training.Fit(BAD_FITS["an unknown target"][0]))
    assert "'label'" in refusal.message


def test_an_error_about_very_long_names_still_arrives_whole(stubs: Stubs) -> None:
    wide = table(*(column(f"{'column' * 20}{number}", A) for number in range(500)))
    request = fit(InlineDataset(inputs=wide), target="é" * 100_000)
    assert_names(error_of(lambda: stubs.training.Fit(request)), "target")
    key = records({"a": 1}, {"a": 1, "字" * 100_000: 1})
    request = fit(InlineDataset(inputs=key, labels=list_value([0, 1])))
    assert_names(error_of(lambda: stubs.training.Fit(request)), "inline.inputs.records[1]")
    named = table(column("字" * 256, [INF, *A[1:]]), column("a", A))
    request = fit(InlineDataset(inputs=named, targets=column("", LABELS)))
    assert_names(error_of(lambda: stubs.training.Fit(request)), "inline.inputs")


@pytest.mark.parametrize("form", ["tensor", "table", "rows", "records"])
def test_nan_is_accepted_by_xgboost(stubs: Stubs, name: str, form: str) -> None:
    inline = InlineDataset(inputs=with_cell(NAN)[form], targets=column("", LABELS))
    job = stubs.training.Fit(fit(inline, model=name, xgboost=XGBOOST, queue=True)).job
    cancelled = stubs.training.CancelTrainingJob(training_service_pb2.CancelTrainingJobRequest(job=job.id)).job
    assert cancelled.id == job.id


# -- Predict ---------------------------------------------------------------------------------------------------------

COLUMNS = ("sepal length", "sepal width", "petal length", "petal width")


def train(stubs: Stubs, model: str, inline: InlineDataset) -> str:
    job = stubs.training.Fit(fit(inline, model=model, queue=True, load=True)).job.id
    *_, last = stubs.training.WatchTrainingJob(training_service_pb2.WatchTrainingJobRequest(job=job), timeout=60)
    assert last.job.state == 3, last
    return model


@pytest.fixture(scope="module")
def named(stubs: Stubs) -> str:
    """A loaded model that knows the names of its columns."""
    x, y = load_iris(return_X_y=True)
    columns = table(*(column(name, x[:, index]) for index, name in enumerate(COLUMNS)))
    return train(stubs, "bad-input-named", InlineDataset(inputs=columns, labels=list_value(y.tolist())))


@pytest.fixture(scope="module")
def nameless(stubs: Stubs) -> str:
    """A loaded model that was trained on a tensor."""
    x, y = load_iris(return_X_y=True)
    inputs = tensor(x.shape, x.astype("<f4").tobytes())
    return train(stubs, "bad-input-nameless", InlineDataset(inputs=inputs, labels=list_value(y.tolist())))


ROW = (5.1, 3.5, 1.4, 0.2)
RECORD = dict(zip(COLUMNS, ROW, strict=True))


def floats(values: object) -> Inputs:
    array = np.array(values, "<f4")
    return tensor(array.shape, array.tobytes())


def some_columns(names: tuple[str, ...], values: tuple[float, ...] = (1.0, 2.0)) -> Inputs:
    return table(*(column(name, values) for name in names))


FOUR = np.array([ROW], "<f4").tobytes()
BAD_ROWS: dict[str, tuple[Inputs, str]] = {
    "nothing": (Inputs(), "inputs"),
    "two forms": (Inputs(rows=rows(ROW).rows, tensor=floats([ROW]).tensor), "inputs"),
    "named tensors": (Inputs(tensors={"x": floats([ROW]).tensor}), "inputs.tensors"),
    "fewer columns": (rows(ROW[:3]), "inputs"),
    "more columns": (rows([*ROW, 1]), "inputs"),
    "a tensor of fewer columns": (floats([ROW[:3]]), "inputs"),
    "a tensor of more columns": (floats([[*ROW, 1]]), "inputs"),
    "an image": (floats([[[ROW]]]), "inputs"),
    "one dimension": (floats(ROW), "inputs.tensor.shape"),
    "nine dimensions": (tensor([1] * 8 + [4], FOUR), "inputs.tensor.shape"),
    "no rows": (tensor([0, 4], b""), "inputs"),
    "ragged rows": (rows(ROW, ROW[:3]), "inputs.rows[1]"),
    "deep rows": (rows(ROW, [[[[[[[[[[1]]]]]]]]]]), "inputs.rows[1]"),
    "only deep rows": (rows([[[[[[[[[[1]]]]]]]]]]), "inputs"),
    "a text": (rows([*ROW[:3], "x"]), "inputs.rows[0][3]"),
    "null": (rows([*ROW[:3], None]), "inputs"),
    "NaN": (rows([*ROW[:3], NAN]), "inputs"),
    "infinity": (rows([*ROW[:3], INF]), "inputs"),
    "too large for float32": (rows([*ROW[:3], LARGE]), "inputs"),
    "NaN in a tensor": (floats([[*ROW[:3], NAN]]), "inputs"),
    "infinity in a tensor": (floats([[*ROW[:3], -INF]]), "inputs"),
    "no dtype": (tensor([1, 4], FOUR, data_pb2.DATA_TYPE_UNSPECIFIED), "inputs.tensor.dtype"),
    "bytes": (tensor([1, 4], FOUR, data_pb2.DATA_TYPE_BYTES), "inputs.tensor.dtype"),
    "an unknown dtype": (tensor([1, 4], FOUR, 99), "inputs.tensor.dtype"),
    "a negative dtype": (tensor([1, 4], FOUR, -1), "inputs.tensor.dtype"),
    "another dtype than the bytes": (tensor([1, 4], FOUR, data_pb2.DATA_TYPE_FP64), "inputs.tensor.data"),
    "a negative length": (tensor([-1, -4], FOUR), "inputs.tensor.shape"),
    "a shape that overflows": (tensor([2**40, 2**40], FOUR), "inputs.tensor"),
    "a shape that overflows but for a 0": (tensor([2**40, 2**40, 0], b""), "inputs"),
    "2^62 rows of nothing": (tensor([2**62, 0], b""), "inputs"),
}
BAD_NAMED_ROWS: dict[str, tuple[Inputs, str, str]] = {
    "a misspelt key": (records({**RECORD, "sepal lenght": 1}), "inputs.records[0]", "'sepal length'"),
    "a missing key": (records({name: 1 for name in COLUMNS[1:]}), "inputs.records[0]", "'sepal length' is missing"),
    "an extra key": (records(RECORD, {**RECORD, "zebra": 1}), "inputs.records[1]", "'zebra' is not known"),
    "a text": (records({**RECORD, "petal width": "x"}), "inputs.records[0].petal width", "the text 'x'"),
    "a null": (records({**RECORD, "petal width": None}), "inputs", "nan"),
    "a list": (records({**RECORD, "petal width": [1]}), "inputs.records[0]", ""),
    "lists everywhere": (records({name: [1] for name in COLUMNS}), "inputs", ""),
    "an empty record": (records({}), "inputs.records[0]", "is missing"),
    "a misspelt column": (some_columns((*COLUMNS, "petal widht")), "inputs.table", "'petal width'"),
    "a missing column": (some_columns(COLUMNS[:3]), "inputs.table", "'petal width' is missing"),
    "two columns of one name": (some_columns((*COLUMNS, "petal width")), "inputs.table.columns[4].name", "two"),
    "no columns": (Inputs(table=data_pb2.Table()), "inputs.table.columns", "no columns"),
    "columns without rows": (some_columns(COLUMNS, ()), "inputs", "no rows"),
    "a column of texts": (
        table(*(column(name, [1.0]) for name in COLUMNS[:3]), column(COLUMNS[3], ["x"])),
        "inputs.table.columns[3]",
        "row 0 of column 'petal width' is the text 'x'",
    ),
    "an infinite column": (some_columns(COLUMNS, (1.0, INF)), "inputs", "inf"),
}


def predict(stubs: Stubs, model: str, inputs: Inputs, **more: int) -> Refusal:
    request = prediction_service_pb2.PredictRequest(model=model, inputs=inputs, **more)
    return error_of(lambda: stubs.predictions.Predict(request))


@pytest.mark.parametrize(("inputs", "field"), BAD_ROWS.values(), ids=BAD_ROWS)
@pytest.mark.parametrize("kind", ["named", "nameless"])
def test_rows_that_do_not_fit_a_model_are_refused(
    stubs: Stubs, request: pytest.FixtureRequest, kind: str, inputs: Inputs, field: str
) -> None:
    assert_names(predict(stubs, request.getfixturevalue(kind), inputs), field)


@pytest.mark.parametrize(("inputs", "field", "hint"), BAD_NAMED_ROWS.values(), ids=BAD_NAMED_ROWS)
def test_named_rows_that_do_not_fit_are_told_why(
    stubs: Stubs, named: str, inputs: Inputs, field: str, hint: str
) -> None:
    refusal = predict(stubs, named, inputs)
    assert_names(refusal, field)
    assert hint in refusal.message


@pytest.mark.parametrize("inputs", [records(RECORD), some_columns(COLUMNS)], ids=["records", "table"])
def test_a_model_without_column_names_takes_no_named_rows(stubs: Stubs, nameless: str, inputs: Inputs) -> None:
    assert_names(predict(stubs, nameless, inputs), "inputs.")


@pytest.mark.parametrize("version", [0, -1])
def test_a_version_below_one_is_refused(stubs: Stubs, version: int) -> None:
    assert_names(predict(stubs, "absent", rows(ROW), version=version), "version")
    for call in (
        lambda: stubs.models.Load(model_service_pb2.LoadRequest(model="absent", version=version)),
        lambda: stubs.models.Remove(model_service_pb2.RemoveRequest(model="absent", version=version)),
    ):
        assert_names(error_of(call), "version")


# -- names, pages, uploads -------------------------------------------------------------------------------------------

BAD_NAMES = ["../x", "a b", "A", "", "1a", "a" * 300, "a" * 64, "x/../y", "modèle", "字" * 300, "x\0", "x\n", "."]
BY_NAME: dict[str, Callable[[Stubs, str], object]] = {
    "Fit": lambda stubs, name: stubs.training.Fit(fit(model=name)),
    "GetModel": lambda stubs, name: stubs.models.GetModel(model_service_pb2.GetModelRequest(model=name)),
    "Load": lambda stubs, name: stubs.models.Load(model_service_pb2.LoadRequest(model=name)),
    "Unload": lambda stubs, name: stubs.models.Unload(model_service_pb2.UnloadRequest(model=name)),
    "Remove": lambda stubs, name: stubs.models.Remove(model_service_pb2.RemoveRequest(model=name)),
    "Predict": lambda stubs, name: stubs.predictions.Predict(prediction_service_pb2.PredictRequest(model=name)),
    "ListTrainingJobs": lambda stubs, name: stubs.training.ListTrainingJobs(
        training_service_pb2.ListTrainingJobsRequest(model=name)
    ),
}


@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda name: repr(name[:12]))
@pytest.mark.parametrize("method", BY_NAME)
def test_a_name_that_no_model_can_have_is_refused_before_anyone_looks_for_it(
    stubs: Stubs, method: str, name: str
) -> None:
    if method == "ListTrainingJobs" and not name:
        pytest.skip("an empty name asks for the jobs of all models")
    assert_names(error_of(lambda: BY_NAME[method](stubs, name)), "model")


def config(**fields: object) -> prediction_service_pb2.PredictStreamRequest:
    return prediction_service_pb2.PredictStreamRequest(config=prediction_service_pb2.PredictStreamConfig(**fields))


@pytest.mark.parametrize(
    ("first", "field"),
    [
        ([], "config"),
        ([prediction_service_pb2.PredictStreamRequest(inputs=rows(ROW))], "config"),
        ([config(model="absent", version=0)], "config.version"),
        *(([config(model=name)], "config.model") for name in BAD_NAMES),
    ],
)
def test_a_stream_of_predictions_with_a_bad_start_is_refused(stubs: Stubs, first: list, field: str) -> None:
    assert_names(error_of(lambda: list(stubs.predictions.PredictStream(iter(first)))), field)


def token(*place: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


BAD_TOKENS = {
    "garbage": "garbage",
    "no base64": "é" * 10,
    "no json": base64.urlsafe_b64encode(b"\xff\xfe").decode(),
    "numbers": token(1, 2),
    "too many parts": token("a", "b", "c"),
    "half a character, as a name": token("\ud800"),
    "half a character, as a job": token("2020-01-01T00:00:00+00:00", "\ud800"),
    "no time": token("yesterday", "x"),
    "a name with a NUL": token("a\0"),
    "a job with a NUL": token("2020-01-01T00:00:00+00:00", "a\0"),
    "an object": base64.urlsafe_b64encode(b"{}").decode(),
    "very deep": base64.urlsafe_b64encode(b"[" * 100_000).decode(),
}
PAGES: dict[str, Callable[..., Callable[[Stubs], object]]] = {
    "ListModels": lambda **page: lambda stubs: stubs.models.ListModels(model_service_pb2.ListModelsRequest(**page)),
    "ListDatasets": lambda **page: (
        lambda stubs: stubs.training.ListDatasets(training_service_pb2.ListDatasetsRequest(**page))
    ),
    "ListTrainingJobs": lambda **page: (
        lambda stubs: stubs.training.ListTrainingJobs(training_service_pb2.ListTrainingJobsRequest(**page))
    ),
}


@pytest.mark.parametrize("text", BAD_TOKENS.values(), ids=BAD_TOKENS)
@pytest.mark.parametrize("method", PAGES)
def test_a_page_token_that_is_none_is_refused(stubs: Stubs, method: str, text: str) -> None:
    assert_names(error_of(lambda: PAGES[method](page_token=text)(stubs)), "page_token")


@pytest.mark.parametrize("method", PAGES)
def test_a_negative_page_size_is_refused(stubs: Stubs, method: str) -> None:
    assert_names(error_of(lambda: PAGES[method](page_size=-1)(stubs)), "page_size")


@pytest.mark.parametrize("state", [0, -1, 99])
def test_an_unknown_state_of_jobs_is_refused(stubs: Stubs, state: int) -> None:
    asked = training_service_pb2.ListTrainingJobsRequest(states=[state])
    assert_names(error_of(lambda: stubs.training.ListTrainingJobs(asked)), "states")


@pytest.mark.parametrize("job", ["", "j" * 257, "j\0"])
def test_an_id_that_no_job_can_have_is_refused(stubs: Stubs, job: str) -> None:
    pb = training_service_pb2
    for call in (
        lambda: stubs.training.GetTrainingJob(pb.GetTrainingJobRequest(job=job)),
        lambda: stubs.training.CancelTrainingJob(pb.CancelTrainingJobRequest(job=job)),
        lambda: list(stubs.training.WatchTrainingJob(pb.WatchTrainingJobRequest(job=job))),
    ):
        assert_names(error_of(call), "job")


def description(**fields: object) -> training_service_pb2.UploadDatasetRequest:
    return training_service_pb2.UploadDatasetRequest(description=dataset_pb2.DatasetDescription(**fields))


def chunk(inputs: Inputs, **more: object) -> training_service_pb2.UploadDatasetRequest:
    return training_service_pb2.UploadDatasetRequest(chunk=dataset_pb2.DatasetChunk(inputs=inputs, **more))


BAD_UPLOADS: dict[str, tuple[list[training_service_pb2.UploadDatasetRequest], str]] = {
    "nothing": ([], "description"),
    "no description": ([chunk(floats([ROW]))], "description"),
    "an empty message": ([training_service_pb2.UploadDatasetRequest()], "description"),
    "an unknown format": ([description(format=99)], "description.format"),
    "a bad digest": ([description(digest="sha256:x")], "description.digest"),
    "a long name": ([description(display_name="x" * 257)], "description.display_name"),
    "a name with a NUL": ([description(display_name="x\0")], "description.display_name"),
    "two descriptions": ([description(), description()], "chunk"),
    "rows": ([description(), chunk(rows(ROW))], "chunk.inputs"),
    "an empty chunk": ([description(), chunk(Inputs())], "chunk.inputs"),
    "too few targets": ([description(), chunk(floats([ROW]), targets=column("", [1.0, 2.0]))], "chunk.targets"),
    "no chunks": ([description()], "chunk"),
    "another width": ([description(), chunk(floats([ROW])), chunk(floats([ROW[:3]]))], "chunk"),
}


@pytest.mark.parametrize(("messages", "field"), BAD_UPLOADS.values(), ids=BAD_UPLOADS)
def test_a_bad_upload_is_refused(stubs: Stubs, messages: list, field: str) -> None:
    assert_names(error_of(lambda: stubs.training.UploadDataset(iter(messages))), field)


# -- the wire --------------------------------------------------------------------------------------------------------

LONE = [path for path, method in METHODS.items() if not method.client_streaming] + ["/grpc.health.v1.Health/Check"]
STREAMED = [path for path, method in METHODS.items() if method.client_streaming]


@pytest.mark.parametrize("path", LONE)
@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x0a\x05a", b"\x0a\x02\xff\xff"], ids=repr)
def test_bytes_that_are_no_message_are_refused(stubs: Stubs, path: str, data: bytes) -> None:
    if data[1] == 2 and not (path in METHODS and METHODS[path].input_type.fields_by_number.get(1)):
        pytest.skip("a message without a field 1 keeps it as unknown")
    if data[1] == 2 and METHODS[path].input_type.fields_by_number[1].type != FieldDescriptor.TYPE_STRING:
        pytest.skip("only texts must be UTF-8")
    refusal = error_of(lambda: list(stubs.channel.unary_stream(path)(data, timeout=10)))
    assert refusal.code == grpc.StatusCode.INVALID_ARGUMENT
    assert (refusal.reason, refusal.domain) == ("UNDECODABLE_MESSAGE", "fitserve")
    assert refusal.metadata == {"method": path}


@pytest.mark.parametrize("path", STREAMED)
def test_bytes_that_are_no_message_are_refused_in_a_stream(stubs: Stubs, path: str) -> None:
    refusal = error_of(lambda: list(stubs.channel.stream_stream(path)(iter([b"\xff\xff\xff"]), timeout=10)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "UNDECODABLE_MESSAGE")


@pytest.mark.parametrize("path", LONE)
def test_a_call_without_a_message_is_refused(stubs: Stubs, path: str) -> None:
    refusal = error_of(lambda: list(stubs.channel.stream_stream(path)(iter(()), timeout=10)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "UNDECODABLE_MESSAGE")
    assert "no message" in refusal.message


def test_a_message_that_is_too_large_is_refused_with_the_limit(
    start_service: Callable[..., ServiceProcess],
) -> None:
    small = start_service(MAX_MESSAGE_BYTES="100000")
    with grpc.insecure_channel(small.address) as channel:
        stubs = stubs_of(channel)
        for size in (100_001, 1_000_000):
            request = model_service_pb2.GetModelRequest(model="x" * size)
            refusal = error_of(lambda request=request: stubs.models.GetModel(request))
            assert refusal.code == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert (refusal.reason, refusal.metadata) == ("MESSAGE_TOO_LARGE", {"limit_bytes": "100000"})
        request = model_service_pb2.GetModelRequest(model="x" * 3_000_000)
        assert error_of(lambda: stubs.models.GetModel(request)).code == grpc.StatusCode.RESOURCE_EXHAUSTED
        largest = model_service_pb2.GetModelRequest(model="x" * (100_000 - 4))
        assert largest.ByteSize() == 100_000
        assert_names(error_of(lambda: stubs.models.GetModel(largest)), "model")
        stubs.server.GetStatus(server_service_pb2.GetStatusRequest(), timeout=5)


@pytest.mark.parametrize("path", ["/fitserve.v1.TrainingService/Nothing", "/nothing.at.All/Fit", "/x"])
def test_an_unknown_method_is_unimplemented(stubs: Stubs, path: str) -> None:
    assert error_of(lambda: stubs.channel.unary_unary(path)(b"")).code == grpc.StatusCode.UNIMPLEMENTED


def test_refused_requests_leave_their_memory(start_service: Callable[..., ServiceProcess]) -> None:
    service = start_service()
    request = fit(InlineDataset(inputs=tensor([1, 2, 3], bytes(4_000_000))))
    with grpc.insecure_channel(service.address) as channel:
        stubs = stubs_of(channel)
        for _ in range(100):
            assert_names(error_of(lambda: stubs.training.Fit(request)), "inline.inputs.tensor.data")
    assert service.family()[0].memory_info().rss < 300e6
