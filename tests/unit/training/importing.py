"""Runs the recipe of an import on a file, and tells what became of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fitserve.v1 import model_pb2, model_service_pb2, training_spec_pb2
from google.protobuf.struct_pb2 import Value
from numpy.typing import NDArray

from training.export import sessions
from training.importing import run, spec


@dataclass(frozen=True)
class Version:
    """A version that was made; Any: its manifest is JSON."""

    manifest: dict[str, Any]
    model: bytes

    def scores(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Returns what is served for rows."""
        return sessions.onnx_scores(self.model, np.asarray(features, np.float32))


def import_file(directory: Path, *arguments: Any, **named: Any) -> Version:
    """Imports a file, described as for `write_import`, in this process.

    Raises:
        FitError: As the recipe does.
    """
    run.run(spec.read(write_import(directory, *arguments, **named)))
    manifest = json.loads((directory / "version" / "manifest.json").read_text())
    (name,) = manifest["files"]
    return Version(manifest, (directory / "version" / name).read_bytes())


def write_import(
    directory: Path,
    format: str,
    content: bytes,
    signature: model_pb2.Signature | None = None,
    kept: model_pb2.Signature | None = None,
    trusted_types: tuple[str, ...] = (),
    memory_limit_bytes: int = 2**32,
) -> Path:
    """Writes a file to import and its spec; returns the latter's path."""
    (directory / "file").write_bytes(content)
    message = training_spec_pb2.ImportSpec(
        job="import-1",
        version=1,
        description=model_service_pb2.ImportDescription(
            model="irises",
            format=f"MODEL_FORMAT_{format.upper()}",
            signature=signature,
            trusted_types=trusted_types,
        ),
        file_uri=str(directory / "file"),
        file_digest=f"sha256:{hashlib.sha256(content).hexdigest()}",
        output_uri=str(directory / "version"),
        signature=kept,
        memory_limit_bytes=memory_limit_bytes,
    )
    (directory / "spec.pb").write_bytes(message.SerializeToString())
    return directory / "spec.pb"


def labels(*classes: str | float | bool) -> list[Value]:
    """Returns labels as the contract has them."""
    kinds = {str: "string_value", bool: "bool_value"}
    return [Value(**{kinds.get(type(label), "number_value"): label}) for label in classes]
