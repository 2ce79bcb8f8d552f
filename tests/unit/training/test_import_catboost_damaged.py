"""Files of CatBoost whose numbers lead out of their arrays, which CatBoost itself would follow when it predicts."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import catboost
import numpy as np
import pytest

from tests.unit.training.importing import import_file
from training.errors import FitError

CHANCE = np.random.default_rng(0)
NUMBERS = CHANCE.normal(size=(300, 2))
KINDS = CHANCE.choice(["a", "b", "c", "d"], 300)
ROWS = [[*numbers, kind] for numbers, kind in zip(NUMBERS.tolist(), KINDS, strict=True)]
Y = (NUMBERS[:, 0] + (KINDS == "a") > 0.5).astype(int)
FAR = 2**24


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, Any]]:
    """A model with a column of categories: its file, and what is in it. Any: JSON."""
    directory = tmp_path_factory.mktemp("whole")
    model = catboost.CatBoost(
        {
            "iterations": 6,
            "depth": 3,
            "one_hot_max_size": 2,
            "loss_function": "Logloss",
            "thread_count": 1,
            "allow_writing_files": False,
            "logging_level": "Silent",
        }
    ).fit(ROWS, Y, cat_features=[2])
    for form in ("cbm", "json"):
        model.save_model(str(directory / form), format=form)
    return (directory / "cbm").read_bytes(), json.loads((directory / "json").read_text())


def replaced(content: bytes, old: bytes, new: bytes) -> bytes:
    assert old in content
    return content.replace(old, new, 1)


def integers(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}i", *numbers)


# Any: the JSON of a model, here and below.
def splits(model: dict[str, Any]) -> list[list[int]]:
    return [[split["split_index"] for split in tree["splits"]] for tree in model["oblivious_trees"]]


def split_beyond_the_conditions(content: bytes, model: dict[str, Any]) -> bytes:
    numbers = [number for tree in splits(model) for number in tree]
    return replaced(content, integers(*numbers), integers(FAR, *numbers[1:]))


def negative_split(content: bytes, model: dict[str, Any]) -> bytes:
    numbers = [number for tree in splits(model) for number in tree]
    return replaced(content, integers(*numbers), integers(-FAR, *numbers[1:]))


def deeper_tree(content: bytes, model: dict[str, Any]) -> bytes:
    depths = [len(tree) for tree in splits(model)]
    return replaced(content, integers(len(depths), *depths), integers(len(depths), depths[0] + 9, *depths[1:]))


def fewer_leaves(content: bytes, model: dict[str, Any]) -> bytes:
    values = [value for tree in model["oblivious_trees"] for value in tree["leaf_values"]]
    place = content.index(struct.pack("<2d", *values[:2])) - 4  # of their number
    assert content[place : place + 4] == integers(len(values))
    return content[:place] + integers(1) + content[place + 4 :]


def hashes(model: dict[str, Any]) -> list[bytes]:
    table = next(iter(model["ctr_data"].values()))
    listed = table["hash_map"][:: table["hash_stride"]]
    return [struct.pack("<Q", int(number)) for number in listed if int(number) != 2**64 - 1]


def category_beyond_the_statistics(content: bytes, model: dict[str, Any]) -> bytes:
    place = content.index(hashes(model)[0]) + 8
    return content[:place] + integers(FAR) + content[place + 4 :]


def no_room_in_the_table(content: bytes, model: dict[str, Any]) -> bytes:
    core = 8 + struct.unpack_from("<I", content, 4)[0]
    return content[:core] + content[core:].replace(b"\xff" * 8, b"\x01" * 8)


@pytest.mark.parametrize(
    "damage",
    [
        split_beyond_the_conditions,
        negative_split,
        deeper_tree,
        fewer_leaves,
        category_beyond_the_statistics,
        no_room_in_the_table,
    ],
)
def test_a_model_that_leads_out_of_its_arrays_is_refused(
    tmp_path: Path, whole: tuple[bytes, dict[str, Any]], damage: Callable[[bytes, dict[str, Any]], bytes]
) -> None:
    assert import_file(tmp_path, "catboost", whole[0]).manifest["backend"] == "fitserve_native"
    (tmp_path / "damaged").mkdir()
    with pytest.raises(FitError, match="CatBoost model in the file is damaged") as refused:
        import_file(tmp_path / "damaged", "catboost", damage(*whole))
    assert (refused.value.reason, refused.value.field) == ("INVALID_FIELD", "content")


@pytest.mark.parametrize("policy", ["Depthwise", "Lossguide"])
def test_a_branching_tree_that_leads_out_of_its_nodes_is_refused(tmp_path: Path, policy: str) -> None:
    options = {"iterations": 3, "depth": 3, "thread_count": 1, "allow_writing_files": False, "logging_level": "Silent"}
    model = catboost.CatBoost({**options, "grow_policy": policy, "loss_function": "RMSE"}).fit(
        ROWS, Y, cat_features=[2]
    )
    model.save_model(str(tmp_path / "cbm"))
    content = (tmp_path / "cbm").read_bytes()
    step = struct.pack("<2H", 1, 2)  # from a node to its children, which are leaves
    assert import_file(tmp_path, "catboost", content).manifest["backend"] == "fitserve_native"
    place = content.rindex(step)
    (tmp_path / "damaged").mkdir()
    far = content[:place] + struct.pack("<2H", 60_000, 60_000) + content[place + 4 :]
    with pytest.raises(FitError, match="CatBoost model in the file is damaged"):
        import_file(tmp_path / "damaged", "catboost", far)
