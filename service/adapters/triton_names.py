"""What Triton calls the versions of a model: to Triton they are one model with one configuration, or one each.

Versions that onnxruntime runs on the processor share the model's own name, as an operator's do. Any other version, whose
configuration says more of its file, has a name of its own, so that versions of any backends can be loaded together. The
name follows from the manifest alone: whoever knows the version knows what Triton calls it.
"""

from __future__ import annotations

import re

from service.adapters.layout import MODEL_NAME
from service.domain.entities import Manifest

_OWN = re.compile(rf"({MODEL_NAME.pattern})\.v([1-9][0-9]{{0,17}})")


def own_name(model: str, version: int) -> str:
    """Returns the name that a version has for itself alone. No model can be called so: there is a dot in it."""
    return f"{model}.v{version}"


def triton_name(manifest: Manifest) -> str:
    """Returns what Triton calls the model that holds a version."""
    signature = manifest.signature
    without_rows = bool(signature.inputs) and not signature.max_batch_size
    special = manifest.backend != "onnxruntime" or manifest.prefer_gpu or without_rows
    shared = manifest.of_operator or not special
    return manifest.model if shared else own_name(manifest.model, manifest.version)


def version_of(name: str) -> tuple[str, int] | None:
    """Returns the model and the version that an own name stands for, None if it is no such name."""
    own = _OWN.fullmatch(name)
    return (own[1], int(own[2])) if own is not None else None


def model_of(name: str) -> str:
    """Returns the model that Triton knows by a name."""
    own = version_of(name)
    return own[0] if own is not None else name
