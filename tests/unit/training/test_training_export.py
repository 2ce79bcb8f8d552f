from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from training import manifest, parity
from training.algorithms.base import NativeFile
from training.export import graph, sessions, trees
from training.export.code_sets import CodeSet


def stump(threshold: float, missing_left: bool, values: list[list[float]], target: int = 0) -> trees.Tree:
    """Returns a tree that compares feature 0 with `threshold`: values[1] if it holds, else values[2]."""
    return trees.Tree(
        leaf=np.array([False, True, True]),
        feature=np.zeros(3, np.int64),
        threshold=np.array([threshold, 0.0, 0.0]),
        left=np.array([1, -1, -1]),
        right=np.array([2, -1, -1]),
        missing_left=np.array([missing_left, False, False]),
        values=np.array(values),
        target=target,
    )


def scores(
    ensemble: list[trees.Tree], comparison: trees.Comparison, base: list[float], column: list[float]
) -> list[list[float]]:
    model = trees.model(trees.Ensemble(ensemble, comparison, np.array(base), "identity"), (1,))
    features = np.array(column, np.float32).reshape(-1, 1)
    computed: list[list[float]] = sessions.onnx_scores(graph.serialize(model, "test"), features).tolist()
    return computed


def test_a_threshold_between_two_floats_parts_them() -> None:
    low = np.float32(1.0)
    high = np.nextafter(low, np.float32(2.0))
    # In 32 bits the threshold would be rounded up to `high`.
    threshold = float(low) + 0.75 * (float(high) - float(low))
    tree = stump(threshold, False, [[0.0], [1.0], [2.0]])
    assert scores([tree], "BRANCH_LEQ", [0.0], [float(low), float(high)]) == [[1.0], [2.0]]


@pytest.mark.parametrize(("comparison", "at_threshold"), [("BRANCH_LEQ", 1.0), ("BRANCH_LT", 2.0)])
def test_a_feature_at_the_threshold_goes_where_the_library_sends_it(
    comparison: trees.Comparison, at_threshold: float
) -> None:
    tree = stump(0.5, False, [[0.0], [1.0], [2.0]])
    assert scores([tree], comparison, [0.0], [0.5]) == [[at_threshold]]


@pytest.mark.parametrize(("missing_left", "value"), [(True, 1.0), (False, 2.0)])
def test_a_missing_value_goes_where_training_sent_it(missing_left: bool, value: float) -> None:
    tree = stump(0.5, missing_left, [[0.0], [1.0], [2.0]])
    assert scores([tree], "BRANCH_LEQ", [0.0], [float("nan")]) == [[value]]


@pytest.mark.parametrize("missing_left", [True, False])
@pytest.mark.parametrize("comparison", ["BRANCH_LEQ", "BRANCH_LT"])
@pytest.mark.parametrize(
    ("count", "size"), [(1, 1), (2, 1), (3, 2), (40, 16), (40, 17), (200, 100), (200, 1), (200, 190), (9999, 5000)]
)
def test_a_split_by_codes_sends_each_code_where_it_belongs(
    count: int, size: int, comparison: trees.Comparison, missing_left: bool
) -> None:
    codes = np.sort(np.random.default_rng(count + size).permutation(count)[:size])
    tree = stump(0.0, missing_left, [[0.0], [1.0], [2.0]])
    tree = dataclasses.replace(tree, sets={0: CodeSet(codes, count)})
    computed = scores([tree], comparison, [0.0], [*range(count), float("nan")])
    expected = np.where(np.isin(np.arange(count), codes), 1.0, 2.0)
    assert np.array_equal(computed, [[value] for value in (*expected, 1.0 if missing_left else 2.0)])


def test_splits_by_thousands_of_codes_below_each_other_are_no_deep_tree() -> None:
    # Node 0 splits by the even codes, its left child by those that four divides, and so on; node 2n+2 is a leaf.
    depth, count = 12, 8192
    inner = np.arange(2 * depth + 1) % 2 == 0
    inner[-1] = False
    left = np.where(inner, np.arange(2 * depth + 1) + 2, -1)
    tree = trees.Tree(
        leaf=~inner,
        feature=np.zeros(len(inner), np.int64),
        threshold=np.zeros(len(inner)),
        left=left,
        right=np.where(inner, left - 1, -1),
        missing_left=np.zeros(len(inner), np.bool_),
        values=np.arange(len(inner), dtype=np.float64)[:, None],
        sets={2 * level: CodeSet(np.arange(0, count, 2 ** (level + 1)), count) for level in range(depth)},
    )
    given = [1, 2, 4, 6, 2**12, 0, 3]
    # An odd code goes to the right at once, into node 1; code 2 one level deeper, into node 3.
    assert scores([tree], "BRANCH_LEQ", [0.0], given) == [[1.0], [3.0], [5.0], [3.0], [24.0], [24.0], [1.0]]


def test_trees_add_up_on_their_targets_from_the_base_values() -> None:
    first = stump(0.5, False, [[0.0], [1.0], [2.0]], target=0)
    second = stump(1.5, False, [[0.0], [10.0], [20.0]], target=1)
    assert scores([first, second], "BRANCH_LEQ", [0.25, 0.5], [1.0]) == [[2.25, 10.5]]


def test_leaves_with_several_targets_keep_their_zeros() -> None:
    tree = stump(0.5, False, [[0.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    assert scores([tree], "BRANCH_LEQ", [0.0, 0.0], [0.0, 1.0]) == [[0.0, 1.0], [0.0, 0.0]]


def test_a_thousand_leaves_are_added_without_loss() -> None:
    ensemble = [stump(0.5, False, [[0.0], [1e-3 / 3], [0.0]]) for _ in range(3000)]
    assert scores(ensemble, "BRANCH_LEQ", [0.0], [0.0]) == [[1.0]]


class Constant:
    """An algorithm that always predicts the same value."""

    def __init__(self, value: float) -> None:
        self.value = value

    def predict(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.full((len(features), 1), self.value)


def test_the_proof_compares_in_proportion_to_the_largest_value() -> None:
    features = np.zeros((4, 1), np.float32)
    expected = parity.expect(Constant(100.0005), "regression", features, missing_values=True, seed=0)  # type: ignore[arg-type]
    proof = expected.compare(np.full((8, 1), 100.0))
    assert proof.max_difference == pytest.approx(0.0005)
    assert proof.tolerance == pytest.approx(0.00100, rel=1e-3)
    assert proof.row_count == 8
    assert proof.holds
    assert not expected.compare(np.full((8, 1), 100.01)).holds


def test_a_prediction_that_is_no_number_is_never_equal() -> None:
    expected = parity.expect(Constant(1.0), "regression", np.zeros((1, 1), np.float32), False, 0)  # type: ignore[arg-type]
    assert not expected.compare(np.full((1, 1), np.nan)).holds


def test_a_version_is_written_with_the_digest_of_its_model(tmp_path: Path) -> None:
    manifest.write(tmp_path / "1", NativeFile("model.onnx", b"abc"), {"format": "fitserve-model-1"})
    assert sorted(path.name for path in (tmp_path / "1").iterdir()) == ["manifest.json", "model.onnx"]
    written = json.loads((tmp_path / "1" / "manifest.json").read_text())
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert written["files"] == {"model.onnx": {"sha256": sha256, "size_bytes": 3}}
