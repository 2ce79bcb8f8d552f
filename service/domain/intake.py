"""The way in for a Fit: its data is stored, and everything that training could stumble over is refused here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from service.domain.entities import (
    AlgorithmTraits,
    ColumnSpec,
    ColumnSummary,
    DataBlock,
    Dataset,
    FitCommand,
    FitOrder,
    Job,
    Task,
    ValueKind,
)
from service.domain.errors import Reason, ServiceError, invalid
from service.domain.ids import new_job_id
from service.domain.jobs import Jobs, request_id_reused
from service.domain.nearest import hint
from service.domain.ports import Artifacts, Clock, Datasets
from service.domain.shared_datasets import SharedDatasets

MAX_CLASSES = 1000
"""The most labels that a classifier may have."""

MAX_CATEGORIES = 1000
"""The most categories that a column may have for an algorithm to which each is an indicator."""

MAX_INDICATORS = 10_000
"""The most categories that all columns together may have then."""

MAX_NATIVE_CATEGORIES = 9_999
"""The most categories that a column may have for an algorithm that splits by them itself."""

FEW_INTEGERS = 100
"""Integer targets with at most so many different values are labels, unless the request says otherwise."""


@dataclass(frozen=True)
class Acceptance:
    """A Fit that is being accepted: the job that it is to become, and the task that will have it."""

    job_id: str
    request_hash: str
    task: asyncio.Task[Job]


class Intake:
    """Accepts Fits."""

    def __init__(
        self, jobs: Jobs, datasets: Datasets, shared: SharedDatasets, artifacts: Artifacts, clock: Clock
    ) -> None:
        self._jobs = jobs
        self._datasets = datasets
        self._shared = shared
        self._artifacts = artifacts
        self._clock = clock
        self._accepting: dict[str, Acceptance] = {}  # by request_id, or by job if there is none

    async def accept(self, order: FitOrder) -> Job:
        """Stores the data of a Fit, checks it, and starts the job. A request_id that was seen answers with its job.

        It goes on if the caller goes away half way, so that a job is never half accepted. The same request that comes
        meanwhile gets the same answer.

        Raises:
            ServiceError: INVALID_FIELD, DATASET_NOT_FOUND, REQUEST_ID_REUSED, DISK_FULL, and what `Jobs.submit` raises.
        """
        earlier = self._accepting.get(order.request_id)
        if earlier is not None and earlier.request_hash != order.request_hash:
            raise request_id_reused(order.request_id, earlier.job_id)
        task = earlier.task if earlier is not None else self._begin(order)
        del earlier
        try:
            return await asyncio.shield(task)
        finally:
            del task  # else its exception and this frame hold each other, and the order's data with them

    def _begin(self, order: FitOrder) -> asyncio.Task[Job]:
        job_id = new_job_id(self._clock.now())
        key = order.request_id or job_id
        task = asyncio.get_running_loop().create_task(self._accept(order, job_id))
        self._accepting[key] = Acceptance(job_id, order.request_hash, task)
        task.add_done_callback(lambda _: self._accepting.pop(key))
        return task

    async def _accept(self, order: FitOrder, job_id: str) -> Job:
        if order.request_id:
            earlier = await self._jobs.answer_of_request(order.request_id, order.request_hash)
            if earlier is not None:
                return earlier
        try:
            return await self._submit(order, job_id)
        except BaseException:
            await asyncio.to_thread(self._artifacts.discard, job_id)
            raise

    async def _submit(self, order: FitOrder, job_id: str) -> Job:
        if isinstance(order.data, DataBlock):
            dataset = await asyncio.to_thread(self._store, order.data, job_id)
            return await self._jobs.submit(job_id, check_fit(order, dataset))
        async with self._shared.held(order.data, job_id) as dataset:
            return await self._jobs.submit(job_id, check_fit(order, dataset))

    def _store(self, block: DataBlock, job_id: str) -> Dataset:
        writer = self._datasets.writer(job_id)
        try:
            with fields_below("inline"):
                writer.append(block)
                return writer.finish("", self._clock.now())
        finally:
            writer.abort()


@contextmanager
def fields_below(path: str) -> Iterator[None]:
    """Lets the bad fields that a DatasetWriter names be found in the request, where its blocks stand at `path`."""
    try:
        yield
    except ServiceError as error:
        if error.reason != Reason.INVALID_FIELD:
            raise
        field = error.metadata["field"]
        raise invalid(f"{path}.{field}", error.message.removeprefix(f"{field}: ")) from None


def check_fit(order: FitOrder, dataset: Dataset) -> FitCommand:
    """Returns the command for an order and its data, with task and features resolved.

    Raises:
        ServiceError: INVALID_FIELD naming the field and how to mend it.
    """
    inputs = targets = "dataset"
    if isinstance(order.data, DataBlock):
        inputs, targets = "inline.inputs", f"inline.{order.data.targets_field}"
    _check_weights(order, dataset)
    learned = _targets(order, dataset, targets)
    features = [] if dataset.features is not None else [c for c in dataset.columns if c not in learned]
    features = _with_texts(features, order)
    _check_features(features if dataset.features is None else [dataset.features], order.algorithm, inputs)
    shape = dataset.shape or (len(features),)
    _check_shape(shape, order.algorithm, inputs)
    task = _task(order, learned)
    if order.class_weights and task == Task.REGRESSION:
        raise invalid("class_weights", "regression has no labels to weigh; leave them out")
    for target in learned:
        place = inputs if order.target or order.targets else targets
        _check_target(target, task, dataset.rows, f"{place} (column {target.name!r})" if target.name else place)
    return FitCommand(order, task, dataset, shape, tuple(ColumnSpec(c.name, c.kind) for c in features))


def _targets(order: FitOrder, dataset: Dataset, where: str) -> list[ColumnSummary]:
    """Returns the columns to learn: those that are named, or the data's own; several only if the algorithm can."""
    names, field = (order.targets, "targets") if order.targets else ((order.target,) if order.target else (), "target")
    several = dataset.features is not None and dataset.columns
    if names and (dataset.targets is not None or several):
        raise invalid(field, f"the data has targets of its own; give either them or {field}, not both")
    if names:
        learned = [_named(name, dataset, field) for name in names]
    elif dataset.targets is not None:
        learned = [dataset.targets]
    else:
        learned = list(dataset.columns) if several else []
    if not learned:
        raise invalid(
            where, "there is nothing to learn; give targets or labels, or name a column of the table in target"
        )
    if len(learned) > 1 and not order.algorithm.multiple_targets:
        place = "targets" if order.targets else where
        raise invalid(place, f"{order.algorithm.name} learns one value a row; give one, or use another algorithm")
    return learned


def _named(name: str, dataset: Dataset, field: str) -> ColumnSummary:
    for column in dataset.columns:
        if column.name == name:
            return column
    known = [column.name for column in dataset.columns]
    if not known:
        raise invalid(field, "the data has no named columns; give targets or labels instead")
    raise invalid(field, f"there is no column {name!r}{hint(name, known)}; the columns are {', '.join(known)}")


def _check_weights(order: FitOrder, dataset: Dataset) -> None:
    if order.algorithm.sample_weights:
        return
    name = order.algorithm.name
    if dataset.has_weights:
        where = "inline.weights" if isinstance(order.data, DataBlock) else "dataset"
        raise invalid(where, f"{name} takes no weights of rows; leave them out, or use another algorithm")
    if order.class_weights:
        raise invalid("class_weights", f"{name} takes no weights of labels; leave them out, or use another algorithm")


def _check_features(columns: list[ColumnSummary], algorithm: AlgorithmTraits, where: str) -> None:
    if not columns:
        raise invalid(where, "there is no column to learn from besides the target")
    for column in columns:
        place = f"{where} (column {column.name!r})" if column.name else where
        if column.infinite:
            raise invalid(place, f"{column.infinite} values are infinite, or too large for 32-bit floats; replace them")
        if column.missing and not column.name and not algorithm.missing_values:
            raise invalid(
                place,
                f"{column.missing} values are missing (NaN) and {algorithm.name} takes none in a matrix; fill them in, send "
                "table or records, or use hist_gradient_boosting, xgboost, lightgbm or catboost",
            )
        if column.kind is ValueKind.CATEGORY:
            _check_categories(column, algorithm, place)
    total = sum(column.distinct for column in columns if column.kind is ValueKind.CATEGORY)
    if total > MAX_INDICATORS and not algorithm.native_categories:
        raise invalid(
            where,
            f"the columns of texts have {total} categories together and {algorithm.name} takes {MAX_INDICATORS}; group rare "
            "ones, or use hist_gradient_boosting or xgboost",
        )


def _check_categories(column: ColumnSummary, algorithm: AlgorithmTraits, place: str) -> None:
    limit = MAX_NATIVE_CATEGORIES if algorithm.native_categories else MAX_CATEGORIES
    if column.distinct > limit:
        raise invalid(
            place,
            f"it has more than {limit} different texts, too many for categories of {algorithm.name}; leave the column "
            "out, group rare ones, or name it in text_columns for catboost if it holds free text",
        )


def _with_texts(columns: list[ColumnSummary], order: FitOrder) -> list[ColumnSummary]:
    """Returns the columns of features, those that the order names as columns of free text."""
    if order.text_columns and not order.algorithm.texts:
        raise invalid(
            "text_columns",
            f"{order.algorithm.name} learns nothing from free text; use catboost, or leave the columns out",
        )
    kinds = {column.name: column.kind for column in columns}
    for index, name in enumerate(order.text_columns):
        field = f"text_columns[{index}]"
        if name not in kinds:
            raise invalid(
                field,
                f"there is no column {name!r} of features{hint(name, kinds)}; they are {', '.join(kinds) or 'none'}",
            )
        if kinds[name] is not ValueKind.CATEGORY:
            raise invalid(
                field, f"column {name!r} holds values of the kind {kinds[name]}; send texts, or leave it out here"
            )
    named = set(order.text_columns)
    return [replace(column, kind=ValueKind.TEXT) if column.name in named else column for column in columns]


def _check_shape(shape: tuple[int, ...], algorithm: AlgorithmTraits, where: str) -> None:
    if algorithm.images and len(shape) != 3:
        raise invalid(
            where, f"{algorithm.name} takes images [rows, channels, height, width]; one row has the shape {list(shape)}"
        )
    if not algorithm.images and len(shape) != 1:
        raise invalid(where, f"{algorithm.name} takes a matrix [rows, columns]; one row has the shape {list(shape)}")
    if 0 in shape:
        raise invalid(where, f"there are no features: one row has the shape {list(shape)}")


def _task(order: FitOrder, learned: list[ColumnSummary]) -> Task:
    """Returns the task that is asked for, or the one that the targets suggest; several are numbers."""
    algorithm, target = order.algorithm, learned[0]
    if len(learned) > 1:
        if order.task == Task.CLASSIFICATION:
            raise invalid("task", "several targets are learned as numbers; ask for a regression, or leave it unset")
        return Task.REGRESSION
    if order.task is None:
        labels = target.kind in (ValueKind.CATEGORY, ValueKind.BOOLEAN) or (
            target.kind == ValueKind.INTEGER and target.distinct <= FEW_INTEGERS
        )
        if algorithm.classification and (labels or not algorithm.regression):
            return Task.CLASSIFICATION
        return Task.REGRESSION
    able = algorithm.classification if order.task == Task.CLASSIFICATION else algorithm.regression
    if not able:
        raise invalid("task", f"{algorithm.name} does no {order.task}")
    return order.task


def _check_target(target: ColumnSummary, task: Task, rows: int, where: str) -> None:
    if target.missing or target.infinite:
        raise invalid(where, f"{target.missing + target.infinite} values are missing or infinite; every row needs one")
    if task == Task.REGRESSION:
        if target.kind in (ValueKind.CATEGORY, ValueKind.BOOLEAN):
            raise invalid(where, f"regression learns numbers and the values are of kind {target.kind}")
        if rows < 2:
            raise invalid(where, "there is one row; at least two are needed, one to train and one to hold out")
        return
    if target.distinct < 2:
        raise invalid(where, "all values are the same; classification needs at least two different labels")
    if target.distinct > MAX_CLASSES:
        raise invalid(where, f"there are more than {MAX_CLASSES} different labels; is this a regression?")
    if rows <= target.distinct:
        raise invalid(where, f"there are {rows} rows for {target.distinct} labels; more rows than labels are needed")
