"""The recipe of an import."""

from __future__ import annotations

import dataclasses
import datetime
import importlib
import importlib.metadata
import os
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from training import limits, manifest, parity
from training.algorithms.base import Problem
from training.errors import EXIT_CODES, FitError, Reason, as_fit_error, invalid_field
from training.export import ladder
from training.export.ladder import Exported
from training.importing import found, spec, tensors
from training.importing.found import Found
from training.importing.labels import Labels
from training.importing.spec import SIGNATURE, Column, Spec, Wanted
from training.importing.tensors import FoundTensors
from training.progress import Progress
from training.spec import Task

_NICENESS = 5


def run(order: Spec) -> None:
    """Makes a version of the file of `order`.

    Raises:
        FitError: The caller can mend it, or what would be served is not equal to the model.
    """
    model = _reader(order.format)(order)
    if isinstance(model, FoundTensors):
        manifest.write(order.output, model.exported.file, _describe_tensors(order, model))
        return
    tensors.check_unnamed(order)
    columns = _columns(model, order)
    labels = _labels(model, order)
    _check_kept(model, columns, order)
    exported = _export(model)
    manifest.write(order.output, exported.file, _describe(order, model, columns, labels, exported))


def execute(path: Path, events: int) -> int:
    """Runs the import of a spec file under its limits and returns the exit code.

    Args:
        path: The spec file.
        events: The file descriptor for the events. Everything else goes to standard output and standard error.
    """
    progress = Progress(events)
    try:
        os.nice(_NICENESS)  # predictions and trainings go first
        order = spec.read(path)
        limits.set_process_name(f"import:{order.model}")
        limits.set_temporary_directory(path.parent)
        limits.set_threads(1)
        limits.set_memory_limit(order.memory_limit_bytes)
        with progress:
            progress.started(0, 0)
            run(order)
    except Exception as error:
        limits.lift_memory_limit()
        traceback.print_exc()
        failure = as_fit_error(error, "the import")
        progress.failed(failure)
        return EXIT_CODES[failure.reason]
    progress.done({})
    return 0


def _reader(format: str) -> Callable[[Spec], Found | FoundTensors]:
    """Returns the function that reads files of a format; its libraries are imported only now, where they were not before."""
    try:
        module = importlib.import_module(f"training.importing.{format}_file")
    except ModuleNotFoundError as error:
        raise invalid_field("description.format", f"this service imports no files of {format}") from error
    read: Callable[[Spec], Found | FoundTensors] = module.read
    return read


def _columns(model: Found, order: Spec) -> Sequence[Column]:
    """Returns the named columns: the caller's, else the file's, else those of the versions before."""
    wanted = order.wanted
    if wanted.shape and wanted.shape != model.shape:
        raise invalid_field(
            f"{SIGNATURE}.shape", f"a row has the shape {list(wanted.shape)}, and {list(model.shape)} in the file"
        )
    names = [column.name for column in model.columns]
    if wanted.columns and names and [column.name for column in wanted.columns] != names:
        raise invalid_field(
            f"{SIGNATURE}.columns", f"the file names them {names[:20]}; leave them out, or name them so"
        )
    if wanted.columns or model.columns:
        return model.columns if model.texts else wanted.columns or model.columns
    kept = order.kept
    if kept is not None and kept.shape == model.shape and not any(column.as_text for column in kept.columns):
        return kept.columns
    return ()


def _labels(model: Found, order: Spec) -> Labels | None:
    """Returns the labels of the classes: the caller's, else those that the model has; None for regression."""
    wanted = order.wanted
    if wanted.task is not None and wanted.task != model.task:
        raise invalid_field(f"{SIGNATURE}.task", f"the file is a model for {model.task}; leave it out")
    if model.task == "regression":
        return None
    labels = wanted.labels or _labels_without(model, order.kept)
    if labels is None:
        raise invalid_field(f"{SIGNATURE}.classes", "the file does not name its classes; give a label for each")
    if len(labels.classes) != model.score_count:
        raise invalid_field(
            f"{SIGNATURE}.classes",
            f"there are {len(labels.classes)} labels, and the model has {model.score_count} scores",
        )
    return labels


def _labels_without(model: Found, kept: Wanted | None) -> Labels | None:
    """Returns the labels of a file to which the caller gives none: a new version must not change those of a model."""
    before = None if kept is None else kept.labels
    if before is None or model.labels is None or model.labels.are_places:
        return before or model.labels
    if (list(model.labels.classes), model.labels.kind) != (list(before.classes), before.kind):
        raise invalid_field(
            f"{SIGNATURE}.classes",
            f"the labels in the file are {list(model.labels.classes)[:20]}, those of the model's versions "
            f"{list(before.classes)[:20]}; give those that the new version is to answer with, in the order of its scores",
        )
    return before


def _check_kept(model: Found, columns: Sequence[Column], order: Spec) -> None:
    """Raises INVALID_FIELD if a new version does not take what the versions before take."""
    kept = order.kept
    if kept is None:
        return
    names, wanted = [column.name for column in columns], [column.name for column in kept.columns]
    if model.task != kept.task:
        problem = f"it is for {model.task}, the model's versions are for {kept.task}"
    elif model.shape != kept.shape or names != wanted:
        problem = (
            f"rows have the shape {list(model.shape)} and the columns {names[:20]}, those of the model's versions have "
            f"{list(kept.shape)} and {wanted[:20]}"
        )
    elif kept.targets:
        problem = f"it gives one value a row, and the model's versions {len(kept.targets)}"
    elif [column.as_text for column in columns] != [column.as_text for column in kept.columns]:
        problem = "the model's versions take categories or texts in other columns than it does"
    else:
        return
    raise found.refused(f"{problem}; import it under another name, or remove the model first")


def _export(model: Found) -> Exported:
    """Returns the first form of a model that predicts what its library predicts. Raises EXPORT_NOT_EQUAL."""
    if model.exported is not None:
        return model.exported
    classes = model.score_count if model.task == "classification" else 0
    problem = Problem(model.task, model.shape, classes, seed=0, cores=1, texts=model.texts)
    try:
        # What a damaged file lets a library read may be of types that nobody computes with.
        with found.reading("a model that can be computed"):
            expected = parity.expect(model.trained, model.task, model.rows, model.missing_values, seed=0)
            return ladder.climb(model.trained, problem, found.CONTENT, expected)
    except FitError as error:
        if error.reason is not Reason.EXPORT_NOT_EQUAL:
            raise
        raise FitError(
            Reason.EXPORT_NOT_EQUAL,
            "nothing that Triton would serve predicts what the library predicts from this file, so it was not kept; import "
            "the model in another format, such as ONNX, and report this",
        ) from error


def _describe(
    order: Spec, model: Found, columns: Sequence[Column], labels: Labels | None, exported: Exported
) -> dict[str, object]:
    """Returns the manifest of a version, but for its files."""
    signature = {
        "shape": list(model.shape),
        "columns": [column.described for column in columns],
        "missing_values": model.missing_values or order.wanted.missing_values,
        "classes": [] if labels is None else list(labels.classes),
        "label_kind": "" if labels is None else labels.kind,
    }
    return _manifest(order, model.task, signature, exported, model.libraries)


def _describe_tensors(order: Spec, model: FoundTensors) -> dict[str, object]:
    """Returns the manifest of a version that takes named tensors, but for its files."""
    return _manifest(order, None, model.signature, model.exported, ())


def _manifest(
    order: Spec, task: Task | None, signature: dict[str, object], exported: Exported, libraries: Sequence[str]
) -> dict[str, object]:
    return {
        "format": "fitserve-model-1",
        "model": order.model,
        "version": order.version,
        "job": order.job,
        "algorithm": "",
        "task": task,
        "parameters": {},
        "signature": signature,
        "backend": exported.backend,
        "metrics": {},
        "parity": dataclasses.asdict(exported.proof),
        "dataset": "",
        "train_row_count": 0,
        "validation_row_count": 0,
        "library_versions": {name: importlib.metadata.version(name) for name in (*libraries, *exported.libraries)},
        "create_time": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "imported": {"format": order.format, "digest": order.digest, "size_bytes": order.file.stat().st_size},
    }
