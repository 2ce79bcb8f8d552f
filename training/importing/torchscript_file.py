"""Reads TorchScript. It says nothing of what goes in and comes out, so the caller must."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from predictors.torch_model import TorchModel
from training.algorithms.base import NativeFile
from training.data import Floats
from training.errors import CannotExport, invalid_field
from training.export.ladder import Exported
from training.importing import found, independence, torchscript_code
from training.importing.found import Found
from training.importing.labels import MOST_CLASSES
from training.importing.spec import SIGNATURE, Spec
from training.parity import TOLERANCE, Expectation

_WHAT = "a TorchScript model (torch.jit.save)"
_PROBES = 3
_PARTS = 7


@dataclass(frozen=True)
class _Module:
    """A model that was read."""

    model: TorchModel

    def predict(self, features: Floats) -> NDArray[np.float64]:
        """Returns what it gives for all rows at once."""
        return np.asarray(self.model.scores(features), np.float64)

    def export(self) -> onnx.ModelProto:
        """Raises CannotExport: it is served as it is."""
        raise CannotExport("TorchScript is served as it is")


def read(spec: Spec) -> Found:
    """Returns the model in the file of `spec`.

    Raises:
        FitError: INVALID_FIELD; EXPORT_NOT_EQUAL if rows change what others get.
    """
    wanted = spec.wanted
    if wanted.task is None or not wanted.shape:
        field = "task" if wanted.task is None else "shape"
        raise invalid_field(
            f"{SIGNATURE}.{field}",
            "TorchScript says nothing of what goes in and comes out; give task, or classes, and the shape of one row",
        )
    with found.reading(_WHAT):
        found.check_zip(spec.file, spec.memory_limit_bytes)
        torchscript_code.check(spec.file)
        module = _Module(TorchModel(spec.file))
    rows = found.random_rows(wanted.shape)
    with found.reading(
        f"a TorchScript model that takes one tensor of FP32, [rows, {_lengths(wanted.shape)}], and gives one"
    ):
        outcome = module.predict(rows[:_PROBES])
    count = _count(outcome, wanted.task == "regression")
    return Found(
        trained=module,
        task=wanted.task,
        shape=wanted.shape,
        score_count=count,
        columns=(),
        missing_values=False,
        labels=None,
        rows=rows,
        libraries=("torch",),
        exported=_exported(spec.file, module, rows),
    )


def _exported(file: Path, module: _Module, rows: Floats) -> Exported:
    """Returns the file as it came, proved to give each row the same in batches of any size."""
    with found.reading(_WHAT):
        independence.check(module.predict, rows)
        whole = module.predict(rows)
        finite = np.isfinite(whole).all(axis=1)
        tolerance = TOLERANCE * max(1.0, float(np.abs(whole[finite]).max(initial=0.0)))
        expected = Expectation(rows[finite], whole[finite], tolerance, np.ones(whole.shape[1]))
        parts = [module.predict(part) for part in np.array_split(rows, _PARTS)]
        proof = expected.compare(np.concatenate(parts)[finite])
    return Exported("pytorch", NativeFile("model.pt", file.read_bytes()), (), proof)


def _count(outcome: NDArray[np.float64], regression: bool) -> int:
    """Returns the number of scores of a row."""
    if outcome.ndim != 2 or len(outcome) != _PROBES or not 1 <= outcome.shape[1] <= MOST_CLASSES:
        raise found.refused(
            f"for {_PROBES} rows it gives scores of the shape {list(outcome.shape)}; let it give [rows, classes], or "
            "[rows, 1]"
        )
    count: int = outcome.shape[1]
    if regression and count > 1:
        raise found.refused(f"it gives {count} values a row; regression gives one")
    if not regression and count == 1:
        raise found.refused("it gives one score a row; let it give one a class, so two for two classes")
    return count


def _lengths(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))
