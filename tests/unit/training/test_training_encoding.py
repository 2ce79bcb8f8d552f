"""Categories and gaps of named columns, on their way to a family and in the graph of its model."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from fitserve.v1 import options_pb2, training_service_pb2
from google.protobuf import json_format
from numpy.typing import NDArray

from tests.unit.training.served import served_scores
from tests.unit.training.test_training_families import SMALL
from training import algorithms, encoding, parity
from training.algorithms.base import Problem
from training.data import FeatureColumn, Rows, Schema, split
from training.encoding import UNKNOWN, Encoder
from training.errors import FitError, Reason
from training.export import graph, ladder, sessions
from training.export.ladder import Exported
from training.progress import Progress
from training.spec import Task

NAN = float("nan")
LENGTH = FeatureColumn("length", "number")
COLOR = FeatureColumn("color", "category", ["red", "blue", "green"])
ONE_HOT = options_pb2.AlgorithmTraits()
NATIVE = options_pb2.AlgorithmTraits(missing_values=True, native_categories=True)


def rows(*values: list[float]) -> Rows:
    return Rows(np.array(values, np.float32), np.zeros(len(values), np.int64))


def learned(train: Rows, validation: Rows, traits: options_pb2.AlgorithmTraits, missing_values: bool = True) -> Encoder:
    schema = Schema([0, 1], "integer", [LENGTH, COLOR], missing_values)
    return Encoder.of(encoding.learn_columns(schema, train, validation, "inline.inputs"), traits, train)


def graph_of(encoder: Encoder, width: int) -> bytes:
    """Returns a model that gives back what the encoder gives it."""
    nodes = [onnx.helper.make_node("Identity", [graph.FEATURES], [graph.SCORES])]
    model = graph.model(nodes, {}, (width,), width)
    encoder.put_before(model)
    onnx.checker.check_model(model)
    return graph.serialize(model, "identity")


def test_categories_are_those_of_the_rows_trained_on_in_the_order_of_their_texts() -> None:
    train, validation = rows([1, 0], [2, 2], [3, NAN]), rows([4, 1], [5, 0])
    encoder = learned(train, validation, ONE_HOT)
    assert encoder.columns[1].categories == ("green", "red")
    np.testing.assert_array_equal(train.features[:, 1], [1, 0, NAN])
    np.testing.assert_array_equal(validation.features[:, 1], [UNKNOWN, 1])
    assert [column.missing_values for column in encoder.columns] == [False, True]


@pytest.mark.parametrize(
    ("color", "indicators"), [(0, [1, 0, 0]), (1, [0, 1, 0]), (NAN, [0, 0, 1]), (UNKNOWN, [0, 0, 0]), (7, [0, 0, 0])]
)
def test_a_category_becomes_indicators_of_which_an_unknown_one_has_none(color: float, indicators: list[float]) -> None:
    encoder = learned(rows([1, 0], [2, 1], [3, NAN]), rows([1, 0]), ONE_HOT)
    encoded = encoder.apply(np.array([[9, color]], np.float32))
    np.testing.assert_array_equal(encoded, [[9, *indicators]])
    np.testing.assert_array_equal(
        sessions.onnx_scores(graph_of(encoder, 4), np.array([[9, color]], np.float32)), encoded
    )


def test_a_missing_category_that_was_never_seen_is_none_of_them() -> None:
    encoder = learned(rows([1, 0], [2, 1]), rows([NAN, NAN]), ONE_HOT)
    assert encoder.apply(np.array([[9, NAN]], np.float32)).tolist() == [[9, 0, 0]]


@pytest.mark.parametrize("color", [0.0, 1.0, NAN, UNKNOWN, 7.0])
def test_a_family_that_splits_by_categories_gets_codes_and_an_unknown_one_is_missing(color: float) -> None:
    encoder = learned(rows([1, 0], [2, 1], [3, NAN]), rows([1, 0]), NATIVE)
    given = np.array([[NAN, color], [-np.inf, 0], [1e38, 1]], np.float32)
    known = color if color in (0, 1) else NAN
    encoded = encoder.apply(given)
    np.testing.assert_array_equal(encoded[0], np.array([NAN, known], np.float32))
    np.testing.assert_array_equal(encoded[1:], given[1:])
    np.testing.assert_array_equal(sessions.onnx_scores(graph_of(encoder, 2), given), encoded)
    assert [(column.place, column.name, column.count) for column in encoder.categories] == [(1, "color", 2)]


@pytest.mark.parametrize(
    ("lengths", "median"), [([1, 2, 9, NAN], 2), ([1, 2, NAN, NAN], 1.5), ([NAN, NAN, NAN, NAN], 0)]
)
def test_the_median_of_the_rows_trained_on_stands_for_a_missing_number(lengths: list[float], median: float) -> None:
    train = rows(*([length, 0] for length in lengths))
    encoder = learned(train, rows([100, 0]), ONE_HOT)
    assert encoder.apply(np.array([[NAN, 0]], np.float32))[0, 0] == median
    assert encoder.describe()[0] == {
        "name": "length",
        "kind": "number",
        "missing_values": True,
        "fill": median,
    }


def test_a_matrix_without_names_stays_as_it_is() -> None:
    train = rows([1, 0], [2, NAN])
    schema = encoding.learn_columns(Schema([0, 1], "integer", [], True), train, train, "inline.inputs")
    encoder = Encoder.of(schema, ONE_HOT, train)
    family = algorithms.build(
        "xgboost", training_service_pb2.FitRequest().xgboost, Problem("classification", (2,), 2, 0, 1)
    )
    assert encoder.wrap(family) is family
    assert encoder.shape(train) == (2,)


def test_texts_too_long_to_be_categories_are_refused() -> None:
    texts = [str(number) * 200_000 for number in range(30)]
    schema = Schema([0, 1], "integer", [FeatureColumn("essay", "category", texts)], False)
    train = rows(*([code] for code in range(30)))
    with pytest.raises(FitError, match="free text") as refused:
        encoding.learn_columns(schema, train, rows([0]), "dataset")
    assert (refused.value.reason, refused.value.field) == (Reason.INVALID_FIELD, "dataset")


def table(categories: int, task: Task) -> tuple[Rows, Schema]:
    """Returns 600 rows of two columns of categories and two of numbers, with gaps, and a target that all of them decide."""
    random = np.random.default_rng(0)
    codes = random.integers(0, categories, 600)
    features = np.stack(
        [random.normal(size=600), codes, random.integers(0, 3, 600), random.integers(0, 50, 600)], axis=1
    )
    weights = random.normal(size=categories)
    value = features[:, 0] + 2 * weights[codes] + (features[:, 2] == 1) + 0.02 * features[:, 3]
    features[random.random(features.shape) < 0.1] = NAN
    columns = [
        LENGTH,
        FeatureColumn("town", "category", [f"town {number}" for number in range(categories)]),
        COLOR,
        FeatureColumn("age", "integer"),
    ]
    targets = value if task == "regression" else np.digitize(value, np.quantile(value, [0.3, 0.6]))
    return Rows(features.astype(np.float32), targets), Schema([], "integer", columns, True)


def fitted(name: str, given: Mapping[str, object], task: Task, categories: int) -> tuple[Exported, Rows]:
    """Returns the exported model and the rows held out."""
    all_rows, schema = table(categories, task)
    train, validation = split(all_rows, task == "classification", 0.3, 0)
    schema = encoding.learn_columns(schema, train, validation, "inline.inputs")
    request = json_format.ParseDict({name: dict(given)}, training_service_pb2.FitRequest())
    message = getattr(request, name)
    encoder = Encoder.of(schema, message.DESCRIPTOR.GetOptions().Extensions[options_pb2.traits], train)
    classes = 3 if task == "classification" else 0
    problem = Problem(task, encoder.shape(train), classes, 0, 1, categories=encoder.categories)
    learner = encoder.wrap(algorithms.build(name, message, problem))
    learner.fit(train, validation, Progress(os.open(os.devnull, os.O_WRONLY)))
    expected = parity.expect(learner, task, validation.features, True, 0, schema.category_places)
    return ladder.climb(learner, problem, name, expected), validation


@pytest.mark.parametrize("categories", [2, 40])
@pytest.mark.parametrize("name", [name for name in SMALL if name != "torch_cnn"])
def test_every_family_learns_from_categories_and_is_exported_equal(name: str, categories: int) -> None:
    exported, validation = fitted(name, SMALL[name], "classification", categories)
    assert exported.backend == ("fitserve_native" if name == "catboost" else "onnxruntime")
    if exported.backend == "onnxruntime":
        onnx.checker.check_model(onnx.load_from_string(exported.file.content))
    assert exported.proof.row_count == 3 * len(validation)
    town = served_scores(exported, towns(validation.features, categories), 3)
    assert np.abs(np.diff(town, axis=0)).max() > 0.01  # it listens to the town


def towns(features: NDArray[np.float32], categories: int) -> NDArray[np.float32]:
    """Returns a row for each town, alike in all else."""
    changed = np.repeat(np.nan_to_num(features[:1]), categories, axis=0)
    changed[:, 1] = np.arange(categories)
    return changed


@pytest.mark.parametrize("name", ["catboost", "hist_gradient_boosting", "lightgbm", "xgboost"])
def test_an_unknown_category_goes_where_a_missing_one_goes(name: str) -> None:
    exported, validation = fitted(name, SMALL[name], "regression", 40)
    missing, unknown = validation.features.copy(), validation.features.copy()
    missing[:, 1:3], unknown[:, 1:3] = NAN, UNKNOWN
    assert np.array_equal(served_scores(exported, missing, 0), served_scores(exported, unknown, 0))


def test_more_categories_than_bins_are_refused_by_the_columns_name() -> None:
    with pytest.raises(FitError, match=r"40 categories .* 16 ") as refused:
        fitted("hist_gradient_boosting", {"max_bins": 16}, "regression", 40)
    assert refused.value.field == "inline.inputs (column 'town')"
