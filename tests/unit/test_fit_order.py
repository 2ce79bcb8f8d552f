"""From the FitRequest to the order: what the training process is told of the request."""

from __future__ import annotations

import pytest
from fitserve.v1 import training_service_pb2
from google.protobuf import json_format

from service.domain.entities import DataBlock
from service.domain.errors import ServiceError
from service.rpc.fit_order import fit_order

ROWS = {"rows": [[1, 2], [3, 4], [5, 6]]}


def request(inline: dict[str, object]) -> training_service_pb2.FitRequest:
    fields = {"model": "iris", "seed": 7, "randomForest": {"maxDepth": 3}, "inline": {"inputs": ROWS} | inline}
    return json_format.ParseDict(fields, training_service_pb2.FitRequest())


@pytest.mark.parametrize(
    ("inline", "field"),
    [
        ({"labels": ["a", "b", "a"]}, "labels"),
        ({"targets": {"integers": {"values": ["1", "2", "1"]}}}, "targets"),
    ],
)
def test_the_process_gets_no_data_but_knows_the_field_of_the_targets(inline: dict[str, object], field: str) -> None:
    order = fit_order(request(inline))
    assert isinstance(order.data, DataBlock)
    assert order.data.targets_field == field
    told = training_service_pb2.FitRequest.FromString(order.request)
    assert told.inline.HasField("labels") == (field == "labels")
    assert not told.inline.labels.values
    assert not told.inline.HasField("inputs")
    assert not told.inline.HasField("targets")
    assert (told.model, told.seed, told.random_forest.max_depth) == ("iris", 7, 3)


def test_weights_travel_with_the_data_and_those_of_labels_with_the_request() -> None:
    asked = request({"labels": ["a", "b", "a"], "weights": [1, 0, 2.5]})
    asked.class_weights["a"] = 3
    order = fit_order(asked)
    assert isinstance(order.data, DataBlock)
    assert order.data.weights is not None
    assert order.data.weights.tolist() == [1, 0, 2.5]
    assert order.class_weights
    assert order.algorithm.sample_weights
    told = training_service_pb2.FitRequest.FromString(order.request)
    assert dict(told.class_weights) == {"a": 3}
    assert not told.inline.weights


@pytest.mark.parametrize(
    ("weights", "field"),
    [
        ([1, 2], "inline.weights"),
        ([1, -1, 1], "inline.weights[1]"),
        ([1, 1, float("nan")], "inline.weights[2]"),
        ([float("inf"), 1, 1], "inline.weights[0]"),
        ([1, 1e13, 1], "inline.weights[1]"),
    ],
)
def test_weights_that_are_none_are_refused(weights: list[float], field: str) -> None:
    asked = request({"labels": ["a", "b", "a"]})
    asked.inline.weights.extend(weights)
    with pytest.raises(ServiceError) as refused:
        fit_order(asked)
    assert refused.value.metadata["field"] == field


def test_a_negative_weight_of_a_label_is_refused() -> None:
    asked = request({"labels": ["a", "b", "a"]})
    asked.class_weights["a"] = -1
    with pytest.raises(ServiceError, match="class_weights"):
        fit_order(asked)
