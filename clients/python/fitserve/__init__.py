"""Client of FitServe: train models in a service and predict with them.

    with fitserve.Client("127.0.0.1:50051") as client:
        client.fit("iris", X, y, algorithm="random_forest", load=True).wait()
        client.predict("iris", X)

Names are loaded on first use (PEP 562), so that a program which imports only the messages in `fitserve.v1`,
such as a training process, loads neither gRPC nor numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fitserve import errors
    from fitserve._jobs import AsyncJob, Job
    from fitserve.aio import AsyncClient
    from fitserve.client import Client
    from fitserve.errors import FitServeError, TrainingFailed
    from fitserve.resources import (
        Dataset,
        ImportedFile,
        JobUpdate,
        Model,
        ModelAlias,
        ModelVersion,
        Prediction,
        ServerStatus,
        Step,
        TrainingJob,
    )

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "AsyncJob",
    "Client",
    "Dataset",
    "FitServeError",
    "ImportedFile",
    "Job",
    "JobUpdate",
    "Model",
    "ModelAlias",
    "ModelVersion",
    "Prediction",
    "ServerStatus",
    "Step",
    "TrainingFailed",
    "TrainingJob",
    "errors",
]

_MODULES = {
    "AsyncClient": "fitserve.aio",
    "AsyncJob": "fitserve._jobs",
    "Client": "fitserve.client",
    "FitServeError": "fitserve.errors",
    "Job": "fitserve._jobs",
    "TrainingFailed": "fitserve.errors",
}


def __getattr__(name: str) -> object:
    """Imports the module that holds a public name when the name is first used."""
    if name == "errors":
        return importlib.import_module("fitserve.errors")
    if name not in __all__:
        raise AttributeError(f"module 'fitserve' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES.get(name, "fitserve.resources")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Lists the public names, loaded or not."""
    return sorted({*globals(), *__all__})
