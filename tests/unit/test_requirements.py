"""The environments of training and of Triton agree on what one writes and the other reads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

LOCKS = Path(__file__).parents[2] / "requirements"


def versions(lock: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", (LOCKS / lock).read_text(), re.MULTILINE))


@pytest.mark.parametrize("library", ["catboost", "onnxruntime", "scikit-learn", "skops", "treelite"])
def test_triton_reads_models_with_the_version_that_training_writes_them_with(library: str) -> None:
    assert versions("triton.txt")[library] == versions("training.txt")[library]


def test_tritons_environment_has_a_numpy_that_its_python_backend_computes_with() -> None:
    assert versions("triton.txt")["numpy"].startswith("1.")


def test_torch_beside_triton_is_the_one_of_training_and_changes_nothing_else_there() -> None:
    added, there = versions("triton-torch.txt"), versions("triton.txt")
    assert added["torch"] == versions("torch.txt")["torch"]
    assert all(there[name] == version for name, version in added.items() if name in there)
