"""The recipe of a training."""

from __future__ import annotations

import traceback
from pathlib import Path

from training import algorithms, data, encoding, limits, manifest, metrics, parity, texts
from training.algorithms.base import Problem
from training.errors import EXIT_CODES, as_fit_error, invalid_field
from training.export import ladder
from training.progress import Progress
from training.spec import Spec, read


def run(spec: Spec, progress: Progress) -> None:
    """Trains the model of `spec` and writes it.

    Raises:
        FitError: The caller can mend it, or the export is not equal to the trained model.
    """
    rows, schema = data.load(spec)
    _check_signature(spec, rows, schema)
    train, validation = data.split(rows, bool(schema.classes), spec.validation_fraction, spec.seed)
    del rows
    data.check_weights(train, schema.classes, "class_weights" if spec.class_weights else spec.weights_field)
    schema = encoding.learn_columns(schema, train, validation, spec.inputs_field)
    encoder = encoding.Encoder.of(schema, spec.traits, train)
    problem = Problem(
        task=spec.task,
        feature_shape=encoder.shape(train),
        class_count=len(schema.classes),
        seed=spec.seed,
        cores=spec.cores,
        inputs_field=spec.inputs_field,
        categories=encoder.categories,
        target_count=max(1, len(schema.targets)),
        texts=texts.text_columns(schema.columns),
    )
    progress.started(len(train), len(validation))
    algorithm = algorithms.build(spec.algorithm, spec.hyper_parameters, problem)
    learner = encoder.wrap(algorithm)
    learner.fit(train, validation, progress)
    measured = metrics.score(spec.task, validation, learner.predict(validation.features))
    expected = parity.expect(
        learner, spec.task, validation.features, schema.missing_values, spec.seed, schema.category_places
    )
    exported = ladder.climb(learner, problem, spec.algorithm, expected, spec.prefer_gpu)
    description = manifest.describe(
        spec,
        schema,
        encoder.describe(),
        train,
        validation,
        algorithm.parameters,
        algorithm.LIBRARIES,
        measured,
        exported,
    )
    manifest.write(spec.output, exported.file, description)
    progress.done(measured)


def execute(spec_path: Path, events: int) -> int:
    """Runs the training of a spec file under its limits and returns the exit code.

    Args:
        spec_path: The spec file.
        events: The file descriptor for the events. Everything else goes to standard output and standard error.
    """
    progress = Progress(events)
    algorithm = "the model"
    try:
        spec = read(spec_path)
        algorithm = spec.algorithm
        limits.set_process_name(f"fit:{spec.model}")
        limits.set_temporary_directory(spec_path.parent)
        limits.set_threads(spec.cores)
        limits.set_memory_limit(spec.memory_limit_bytes)
        with progress:
            run(spec, progress)
    except Exception as error:
        limits.lift_memory_limit()
        traceback.print_exc()
        failure = as_fit_error(error, algorithm)
        progress.failed(failure)
        return EXIT_CODES[failure.reason]
    return 0


def _check_signature(spec: Spec, rows: data.Rows, schema: data.Schema) -> None:
    """Raises INVALID_FIELD if the data does not have the shape and columns that the model must keep."""
    wanted = list(spec.signature.shape)
    if not wanted:
        return
    shape = list(rows.features.shape[1:])
    columns = [column.name for column in schema.columns]
    names = [column.name for column in spec.signature.columns]
    if shape != wanted or columns != names:
        raise invalid_field(
            spec.inputs_field,
            f"rows have the shape {shape} and the columns {columns}, but those of the model have {wanted} and {names}; "
            "a new version must keep them, so train under another name instead",
        )
