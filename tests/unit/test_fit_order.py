"""From the FitRequest to the order: what the training process is told of the request."""

from __future__ import annotations

import pytest
from fitserve.v1 import training_service_pb2
from google.protobuf import json_format

from service.domain.entities import DataBlock
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
