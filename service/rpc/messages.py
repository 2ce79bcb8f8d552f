"""Domain objects to the contract's messages and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from fitserve.v1 import data_pb2, dataset_pb2, model_pb2, training_job_pb2
from google.protobuf import duration_pb2, json_format, timestamp_pb2

from service.contract_values import COLUMN_KINDS, LABEL_DTYPES, TASKS, tensor_spec, value_of_label
from service.domain.entities import (
    Alias,
    Capacity,
    ColumnSpec,
    Dataset,
    ImportedFile,
    Job,
    JobState,
    Manifest,
    Signature,
    StoredVersion,
    TrainingStep,
    UnknownCategory,
    VersionState,
)
from service.domain.model_entry import ModelEntry
from service.rpc.status import status_of, status_of_job_error

JOB_STATES = {
    JobState.QUEUED: training_job_pb2.JOB_STATE_QUEUED,
    JobState.RUNNING: training_job_pb2.JOB_STATE_RUNNING,
    JobState.SUCCEEDED: training_job_pb2.JOB_STATE_SUCCEEDED,
    JobState.FAILED: training_job_pb2.JOB_STATE_FAILED,
    JobState.CANCELLED: training_job_pb2.JOB_STATE_CANCELLED,
}
VERSION_STATES = {
    VersionState.STORED: model_pb2.MODEL_STATE_STORED,
    VersionState.LOADING: model_pb2.MODEL_STATE_LOADING,
    VersionState.LOADED: model_pb2.MODEL_STATE_LOADED,
    VersionState.UNLOADING: model_pb2.MODEL_STATE_UNLOADING,
    VersionState.FAILED: model_pb2.MODEL_STATE_FAILED,
}
UNKNOWN_CATEGORIES = {
    None: model_pb2.UNKNOWN_CATEGORY_UNSPECIFIED,
    UnknownCategory.NONE: model_pb2.UNKNOWN_CATEGORY_NONE,
    UnknownCategory.MISSING: model_pb2.UNKNOWN_CATEGORY_MISSING,
    UnknownCategory.LIBRARY: model_pb2.UNKNOWN_CATEGORY_LIBRARY,
}
SHOWN_COLUMN_CATEGORIES = 100
"""So many categories of one column are shown in a signature."""

SHOWN_CATEGORIES = 10_000
"""So many of all columns are."""

# From the state furthest on the way to serving to the one furthest from it.
_BY_READINESS = (
    VersionState.LOADED,
    VersionState.LOADING,
    VersionState.UNLOADING,
    VersionState.STORED,
    VersionState.FAILED,
)


def timestamp(time: datetime | None) -> timestamp_pb2.Timestamp | None:
    """Returns a time as a message, or None."""
    if time is None:
        return None
    message = timestamp_pb2.Timestamp()
    message.FromDatetime(time)
    return message


def step_message(step: TrainingStep) -> training_job_pb2.TrainingStep:
    """Returns a training step as a message."""
    return training_job_pb2.TrainingStep(
        number=step.number, total=step.total, unit=step.unit, metrics=dict(step.metrics)
    )


def job_message(job: Job) -> training_job_pb2.TrainingJob:
    """Returns a job as a message."""
    message = training_job_pb2.TrainingJob(
        id=job.id,
        model=job.model,
        version=job.version,
        algorithm=job.algorithm,
        task=TASKS[job.task],
        state=JOB_STATES[job.state],
        progress=job.progress,
        step=step_message(job.step) if job.step else None,
        metrics=dict(job.metrics),
        error=status_of_job_error(job.error) if job.error else None,
        load_error=status_of_job_error(job.load_error) if job.load_error else None,
        dataset=job.dataset,
        train_row_count=job.train_rows,
        validation_row_count=job.validation_rows,
        cores=job.cores,
        peak_memory_bytes=job.peak_memory_bytes,
        cpu_seconds=job.cpu_seconds,
        create_time=timestamp(job.create_time),
        start_time=timestamp(job.start_time),
        end_time=timestamp(job.end_time),
        request_id=job.request_id,
    )
    if job.time_limit is not None:
        message.time_limit.CopyFrom(duration_of(job.time_limit))
    return message


def duration_of(seconds: float) -> duration_pb2.Duration:
    """Returns a number of seconds as a message."""
    return duration_pb2.Duration(seconds=int(seconds), nanos=round(seconds % 1 * 1e9))


def column_messages(columns: Sequence[ColumnSpec]) -> Iterator[model_pb2.ColumnSpec]:
    """Yields columns as messages, with some of their categories: replies are not to be megabytes of them."""
    room = SHOWN_CATEGORIES
    for column in columns:
        shown = column.categories[: min(room, SHOWN_COLUMN_CATEGORIES)]
        room -= len(shown)
        yield model_pb2.ColumnSpec(
            name=column.name,
            kind=COLUMN_KINDS[column.kind],
            categories=shown,
            category_count=len(column.categories),
            unknown_category=UNKNOWN_CATEGORIES[column.unknown_category],
            missing_values=column.missing_values,
            fill=column.fill,
        )


def signature_message(signature: Signature) -> model_pb2.Signature:
    """Returns a signature as a message. Callers know a model by its columns, or by its tensors."""
    return model_pb2.Signature(
        task=TASKS[signature.task] if signature.task else training_job_pb2.TASK_UNSPECIFIED,
        shape=signature.shape,
        columns=column_messages(signature.columns),
        missing_values=signature.missing_values,
        classes=[value_of_label(label) for label in signature.classes],
        prediction_dtype=data_pb2.DATA_TYPE_UNSPECIFIED
        if signature.takes_tensors
        else LABEL_DTYPES[signature.label_kind],
        inputs=[tensor_spec(spec) for spec in signature.inputs if signature.takes_tensors],
        outputs=[tensor_spec(spec) for spec in signature.outputs if signature.takes_tensors],
        targets=signature.targets,
    )


def model_message(entry: ModelEntry, only: int | None = None) -> model_pb2.Model:
    """Returns a model with its versions, or one of them, as a message."""
    states = {version: entry.state(version) for version in sorted(entry.versions)}
    wanted = states if only is None else {only: states[only]}
    versions = [version_message(entry, entry.versions[version], state) for version, state in wanted.items()]
    capacity = entry.capacity if entry.up else Capacity(instances=0)
    return model_pb2.Model(
        name=entry.name,
        state=VERSION_STATES[min(states.values(), key=_BY_READINESS.index)],
        versions=versions,
        latest_version=max(states, default=0),
        serving_version=entry.serving if entry.serving in entry.loaded else 0,
        aliases=[alias_message(entry.aliases[name]) for name in sorted(entry.aliases)],
        instances=capacity.instances,
        max_batch_rows=capacity.max_batch_rows,
        max_queue_rows=capacity.max_queue_rows,
    )


def alias_message(alias: Alias) -> model_pb2.ModelAlias:
    """Returns an alias as a message."""
    return model_pb2.ModelAlias(
        name=alias.name,
        version=alias.version,
        previous_version=alias.previous or 0,
        update_time=timestamp(alias.update_time),
    )


def version_message(entry: ModelEntry, stored: StoredVersion, state: VersionState) -> model_pb2.ModelVersion:
    """Returns a version as a message."""
    message = model_pb2.ModelVersion(version=stored.version, state=VERSION_STATES[state])
    if stored.error is not None:
        message.error.CopyFrom(status_of(stored.error))
    if (loaded := entry.loaded.get(stored.version)) is not None:
        message.load_time.FromDatetime(loaded.load_time)
        message.loaded_by = loaded.loaded_by
    if (manifest := stored.manifest) is not None:
        json_format.ParseDict(dict(manifest.parameters), message.parameters)
        message.MergeFrom(
            model_pb2.ModelVersion(
                signature=signature_message(manifest.signature),
                algorithm=manifest.algorithm,
                metrics=dict(manifest.metrics),
                parity=_parity(manifest),
                backend=manifest.backend,
                source=_source(manifest),
                prefer_gpu=manifest.prefer_gpu,
                job=manifest.job if manifest.imported is None else "",
                dataset=manifest.dataset,
                train_row_count=manifest.train_rows,
                validation_row_count=manifest.validation_rows,
                library_versions=dict(manifest.library_versions),
                size_bytes=manifest.size_bytes,
                create_time=timestamp(manifest.create_time),
                imported=_imported_message(manifest.imported),
            )
        )
    return message


def _parity(manifest: Manifest) -> model_pb2.Parity | None:
    """Returns the proof, or None for a model whose code is its operator's."""
    parity = manifest.parity
    if manifest.of_operator:
        return None
    return model_pb2.Parity(max_difference=parity.max_difference, tolerance=parity.tolerance, row_count=parity.rows)


def _source(manifest: Manifest) -> model_pb2.ModelSource.ValueType:
    if manifest.of_operator:
        return model_pb2.MODEL_SOURCE_OPERATOR
    return model_pb2.MODEL_SOURCE_FIT if manifest.algorithm else model_pb2.MODEL_SOURCE_IMPORT


def _imported_message(imported: ImportedFile | None) -> model_pb2.ImportedFile | None:
    if imported is None:
        return None
    return model_pb2.ImportedFile(format=imported.format, digest=imported.digest, size_bytes=imported.size_bytes)


def dataset_message(dataset: Dataset) -> dataset_pb2.Dataset:
    """Returns a dataset as a message."""
    return dataset_pb2.Dataset(
        digest=dataset.digest,
        row_count=dataset.rows,
        shape=dataset.shape or (),
        columns=[column.name for column in dataset.columns] if dataset.features is None else [],
        has_targets=dataset.targets is not None or (dataset.features is not None and bool(dataset.columns)),
        has_weights=dataset.has_weights,
        size_bytes=dataset.size_bytes,
        create_time=timestamp(dataset.create_time),
        display_name=dataset.display_name,
    )
