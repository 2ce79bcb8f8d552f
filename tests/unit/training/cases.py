"""Datasets and specs as the service writes them, for the tests of training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from fitserve.v1 import training_job_pb2, training_spec_pb2
from numpy.typing import NDArray

_DTYPES = {"number": "<f8", "integer": "<i8", "boolean": "|u1", "category": "<i4"}
_TASKS = {
    "classification": training_job_pb2.TASK_CLASSIFICATION,
    "regression": training_job_pb2.TASK_REGRESSION,
}


def write_column(directory: Path, name: str, file: str, kind: str, values: Sequence[object]) -> dict[str, object]:
    """Writes a column's file and returns its description; None is a missing value of a category."""
    described: dict[str, object] = {"name": name, "kind": kind, "file": file, "dtype": _DTYPES[kind]}
    described["vocabulary"] = None
    if kind == "category":
        vocabulary = list(dict.fromkeys(value for value in values if value is not None))
        described["vocabulary"] = vocabulary
        values = [-1 if value is None else vocabulary.index(value) for value in values]
    np.array(values).astype(_DTYPES[kind]).tofile(directory / file)
    return described


def write_tensor_dataset(
    directory: Path,
    features: NDArray[np.float32],
    kind: str,
    targets: Sequence[object],
    weights: Sequence[float] | None = None,
) -> Path:
    """Writes a dataset whose features are one tensor."""
    directory.mkdir()
    features.astype("<f4").tofile(directory / "features.bin")
    tensor = {"file": "features.bin", "dtype": "<f4", "shape": list(features.shape[1:])}
    target = write_column(directory, "", "targets.bin", kind, targets)
    file = None
    if weights is not None:
        np.array(weights, "<f8").tofile(directory / "weights.bin")
        file = {"file": "weights.bin", "dtype": "<f8"}
    _describe(directory, len(features), tensor, [], target, file)
    return directory


def write_table_dataset(directory: Path, columns: Mapping[str, tuple[str, Sequence[object]]]) -> Path:
    """Writes a dataset of named columns, one of which is the target; each is a kind and its values."""
    directory.mkdir()
    described = [
        write_column(directory, name, f"column-{index}.bin", kind, values)
        for index, (name, (kind, values)) in enumerate(columns.items())
    ]
    row_count = len(next(iter(columns.values()))[1])
    _describe(directory, row_count, None, described, None)
    return directory


def make_spec(
    directory: Path,
    output: Path,
    algorithm: str,
    task: str = "classification",
    parameters: Mapping[str, object] | None = None,
    **request: object,
) -> training_spec_pb2.TrainingSpec:
    """Returns a spec for the dataset in `directory`.

    `request` are fields of FitRequest, but for `cores`, which is the spec's.
    """
    cores = request.pop("cores", 1)
    assert isinstance(cores, int)
    spec = training_spec_pb2.TrainingSpec(
        job="job-1",
        version=1,
        dataset_uri=str(directory),
        dataset_digest="sha256:0",
        cores=cores,
        output_uri=str(output),
    )
    spec.request.model = "irises"
    spec.request.task = _TASKS[task]
    chosen = getattr(spec.request, algorithm)
    chosen.SetInParent()
    for name, value in (parameters or {}).items():
        if isinstance(value, list):
            getattr(chosen, name).extend(value)
        else:
            setattr(chosen, name, value)
    for name, value in request.items():
        setattr(spec.request, name, value)
    return spec


def write_spec(path: Path, spec: training_spec_pb2.TrainingSpec) -> Path:
    """Writes a spec file."""
    path.write_bytes(spec.SerializeToString())
    return path


def _describe(
    directory: Path,
    row_count: int,
    tensor: Mapping[str, object] | None,
    columns: Sequence[Mapping[str, object]],
    target: Mapping[str, object] | None,
    weights: Mapping[str, object] | None = None,
) -> None:
    description = {
        "weights": weights,
        "format": "fitserve-dataset-1",
        "row_count": row_count,
        "features": tensor,
        "columns": columns,
        "targets": target,
    }
    (directory / "dataset.json").write_text(json.dumps(description))
