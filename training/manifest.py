"""Writes a model version: the model file and its manifest."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from training.algorithms.base import NativeFile
from training.data import Rows, Schema
from training.export.ladder import Exported
from training.spec import Json, Spec

MANIFEST_FILE = "manifest.json"


def describe(
    spec: Spec,
    schema: Schema,
    columns: Sequence[Mapping[str, Json]],
    train: Rows,
    validation: Rows,
    parameters: Mapping[str, Json],
    libraries: Sequence[str],
    metrics: Mapping[str, float],
    exported: Exported,
) -> dict[str, object]:
    """Returns the manifest of a version, but for its files.

    Args:
        spec: The training.
        schema: What the rows mean.
        columns: The named columns, with what the model makes of their values.
        train: The rows trained on.
        validation: The rows held out.
        parameters: The effective hyper-parameters.
        libraries: The distributions that trained the model.
        metrics: The metrics on the held-out rows.
        exported: The form of the model that is served.
    """
    return {
        "format": "fitserve-model-1",
        "model": spec.model,
        "version": spec.version,
        "job": spec.job,
        "algorithm": spec.algorithm,
        "task": spec.task,
        "parameters": dict(parameters),
        "signature": {
            "shape": list(train.features.shape[1:]),
            "columns": list(columns),
            "missing_values": schema.missing_values,
            "classes": schema.classes,
            "label_kind": schema.label_kind,
            "targets": list(schema.targets),
        },
        "backend": exported.backend,
        "prefer_gpu": spec.prefer_gpu,
        "metrics": dict(metrics),
        "parity": dataclasses.asdict(exported.proof),
        "dataset": spec.dataset_digest,
        "train_row_count": len(train),
        "validation_row_count": len(validation),
        "library_versions": {name: importlib.metadata.version(name) for name in (*libraries, *exported.libraries)},
        "create_time": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    }


def write(directory: Path, model: NativeFile, description: Mapping[str, object]) -> None:
    """Makes `directory` with the model file and its manifest, all of it on the disk when this returns."""
    directory.mkdir()
    _write_file(directory / model.name, model.content)
    files = {model.name: {"sha256": hashlib.sha256(model.content).hexdigest(), "size_bytes": len(model.content)}}
    text = json.dumps({**description, "files": files}, indent=2, ensure_ascii=False, allow_nan=False)
    _write_file(directory / MANIFEST_FILE, text.encode() + b"\n")
    _sync_directory(directory)
    _sync_directory(directory.parent)


def _write_file(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
