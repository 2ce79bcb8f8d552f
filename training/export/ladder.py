"""The export ladder: the forms of a model, the fastest first, of which the first one is taken that is proved equal.

Each form belongs to a backend of Triton. The proof runs what that backend runs, over the very file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from training.algorithms.base import HasNativeFile, HasTrees, NativeFile, Problem, Trained
from training.data import Floats
from training.errors import CannotExport, FitError, Reason
from training.export import fil, graph, sessions
from training.parity import Expectation, Proof
from training.texts import parted

Backend: TypeAlias = Literal["onnxruntime", "fil", "fitserve_native", "pytorch"]
Scores: TypeAlias = NDArray[np.float32] | NDArray[np.float64]

_ORDER: tuple[Backend, ...] = ("onnxruntime", "fil", "fitserve_native")
_ORDER_FOR_A_GPU: tuple[Backend, ...] = ("fil", "onnxruntime", "fitserve_native")


@dataclass(frozen=True)
class Form:
    """A form of a model.

    Attributes:
        file: The model file.
        libraries: The distributions that write and read it.
        compute: Returns what the backend answers for rows, with a copy of the file.
    """

    file: NativeFile
    libraries: tuple[str, ...]
    compute: Callable[[Path, Floats], Scores]


@dataclass(frozen=True)
class Exported:
    """A form of a model that is proved equal to the trained one.

    Attributes:
        backend: The backend of Triton that runs it.
        file: The model file.
        libraries: The distributions that wrote and read it.
        proof: The comparison with the library.
    """

    backend: Backend
    file: NativeFile
    libraries: tuple[str, ...]
    proof: Proof


def climb(
    learner: Trained, problem: Problem, algorithm: str, expected: Expectation, prefer_gpu: bool = False
) -> Exported:
    """Returns the first form of a model that predicts what the library predicts.

    Args:
        learner: The trained one, or the one that was read from a file.
        problem: What it learned.
        algorithm: Its name, for messages.
        expected: The library's predictions.
        prefer_gpu: Whether the form comes first that a GPU computes, for trees.

    Raises:
        FitError: EXPORT_NOT_EQUAL, naming each form and what is wrong with it; INVALID_FIELD, the model is too large.
    """
    refused: list[str] = []
    for backend in _ORDER_FOR_A_GPU if prefer_gpu else _ORDER:
        try:
            form = _FORMS[backend](learner, problem, algorithm)
        except CannotExport as error:
            refused.append(f"{backend}: {error}")
            continue
        proof = _prove(form, expected)
        if proof.holds:
            return Exported(backend, form.file, form.libraries, proof)
        refused.append(f"{backend}: it differs by {proof.max_difference:.2g}, which is more than {proof.tolerance:.2g}")
    raise FitError(
        Reason.EXPORT_NOT_EQUAL,
        f"no exported form of the model is equal to the trained one ({'; '.join(refused)}); it was not kept; scale the "
        "features or change the hyper-parameters, and report this",
    )


def _prove(form: Form, expected: Expectation) -> Proof:
    with tempfile.TemporaryDirectory(prefix="fitserve-export-") as directory:
        path = Path(directory, form.file.name)
        path.write_bytes(form.file.content)
        return expected.compare(form.compute(path, expected.rows))


def _onnx_form(learner: Trained, problem: Problem, algorithm: str) -> Form:
    content = graph.serialize(learner.export(), algorithm)
    return Form(
        NativeFile("model.onnx", content), ("onnx", "onnxruntime"), lambda _, rows: sessions.onnx_scores(content, rows)
    )


def _fil_form(learner: Trained, problem: Problem, algorithm: str) -> Form:
    if not isinstance(learner, HasTrees):
        raise CannotExport("it is no ensemble of trees alone")
    ensemble, classifies = learner.ensemble(), problem.class_count > 0
    content = fil.checkpoint(ensemble, int(np.prod(problem.feature_shape)), classifies)

    def compute(path: Path, rows: Floats) -> Scores:
        from predictors.forest import Forest, Options

        options = Options("treelite_checkpoint", classifies, classifies, outputs=ensemble.score_count)
        return Forest(path, options).scores(rows)

    return Form(NativeFile("checkpoint.tl", content), ("treelite",), compute)


def _native_form(learner: Trained, problem: Problem, algorithm: str) -> Form:
    if not isinstance(learner, HasNativeFile):
        raise CannotExport(f"{algorithm} has no safe format of its own")

    def compute(path: Path, rows: Floats) -> Scores:
        from predictors import native

        if problem.texts:
            return native.open_text_model(path).scores(*parted(rows, problem.texts))
        return native.open_model(path).scores(rows)

    return Form(learner.native(), (), compute)


_FORMS: Mapping[Backend, Callable[[Trained, Problem, str], Form]] = {
    "onnxruntime": _onnx_form,
    "fil": _fil_form,
    "fitserve_native": _native_form,
}
