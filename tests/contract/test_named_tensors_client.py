"""The Python client with models of named tensors."""

from __future__ import annotations

import fitserve
import numpy as np
import pytest

from tests.operator_model import place
from tests.service_process import ServiceProcess


@pytest.fixture(scope="module")
def echo(service: ServiceProcess) -> str:
    place(service.model_dir, "client-tensors")
    with fitserve.Client(service.address) as client:
        client.load("client-tensors")
    return "client-tensors"


def test_tensors_are_answered_with_arrays_by_name(client: fitserve.Client, echo: str) -> None:
    numbers = np.array([[1, 2], [3, 4]], np.float32)
    outputs = client.predict(echo, tensors={"text": ["ä", "b"], "numbers": numbers})
    assert outputs["upper"].tolist() == [["Ä"], ["B"]]
    assert outputs["sums"].dtype == np.float64
    assert outputs["sums"].tolist() == [[3, 3], [7, 7]]


def test_records_are_answered_with_one_dict_each(client: fitserve.Client, echo: str) -> None:
    first = {"text": "a", "numbers": [1, np.float32(2)], "count": 2}
    found = client.predict(echo, [first, {"text": "b", "numbers": np.array([3, 4]), "count": 0}])
    assert [(one["upper"], one["sums"]) for one in found] == [("A", [5, 3]), ("B", [7, 7])]


def test_records_of_plain_values_are_answered_alike(client: fitserve.Client, echo: str) -> None:
    found = client.predict(echo, [{"text": "a", "numbers": 1.5}, {"text": "b", "numbers": 2.0}])
    assert [(one["upper"], one["sums"]) for one in found] == [("A", [1.5, 1.5]), ("B", [2.0, 2.0])]


def test_streams_take_records_and_give_outputs(client: fitserve.Client, echo: str) -> None:
    batches = [[{"text": text, "numbers": [1]}] for text in "abc"]
    found = [answer.predictions[0]["upper"] for answer in client.predict_stream(echo, batches)]
    assert found == ["A", "B", "C"]


def test_rows_and_tensors_together_are_refused(client: fitserve.Client, echo: str) -> None:
    with pytest.raises(TypeError, match="either X, or tensors"):
        client.predict(echo, [[1.0]], tensors={"text": ["a"]})  # type: ignore[call-overload]


def test_the_model_says_what_it_takes(client: fitserve.Client, echo: str) -> None:
    (version,) = client.model(echo).versions
    assert version.source == "OPERATOR"
    assert version.signature is not None
    assert version.signature.inputs[2] == fitserve.resources.TensorSpec("count", "INT64", (-1, 1), True)


async def test_the_async_client_does_so_too(service: ServiceProcess, echo: str) -> None:
    async with fitserve.AsyncClient(service.address) as client:
        outputs = await client.predict(echo, tensors={"text": ["a"], "numbers": np.ones((1, 1), np.float32)})
    assert outputs["upper"].tolist() == [["A"]]
