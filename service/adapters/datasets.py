"""Training data on disk: one directory a dataset, in the format that training processes read.

A directory holds `dataset.json` and a file of raw values for the matrix, or for each column, and for the targets.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from service.adapters import durable
from service.adapters.column_files import (
    VOCABULARY_BYTES,
    VOCABULARY_LIMIT,
    ColumnWriter,
    Fingerprint,
    MatrixWriter,
    ValuesFile,
)
from service.adapters.dataset_format import DESCRIPTION_FILE, Description, Summaries, WeightsFile
from service.adapters.layout import RepositoryLayout
from service.domain.entities import ColumnData, DataBlock, Dataset
from service.domain.errors import Reason, ServiceError, invalid

_log = logging.getLogger("fitserve.datasets")

_INLINE = "dataset"
_BUFFER_BYTES = 4 << 20
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


class DatasetDirectoryWriter:
    """Data on its way to disk. Implements `DatasetWriter`.

    The first block says which form the data has. After any error but INVALID_FIELD only `abort` may follow.
    """

    def __init__(self, directory: Path, keep: Callable[[Description], Dataset]) -> None:
        """Creates the directory.

        Args:
            directory: Where to write; it does not exist.
            keep: Called with the description when everything is written; puts the directory where it belongs.
        """
        self._directory = directory
        self._keep = keep
        self._rows = 0
        self._form: _Form | None = None
        self._finished = False
        with durable.disk_errors():
            directory.mkdir(parents=True)

    @durable.disk_errors()
    def append(self, block: DataBlock) -> None:
        """Writes the next rows.

        Raises:
            ServiceError: INVALID_FIELD if they do not fit to the rows before, and nothing is written; DISK_FULL.
        """
        form = self._form or _Form(self._directory, block)
        form.check(block)
        self._form = form
        form.append(block)
        self._rows += block.rows
        if sum(file.pending_bytes for file in form.files()) >= _BUFFER_BYTES:
            form.flush()

    @durable.disk_errors()
    def digest(self) -> str:
        """Returns the digest of what was written so far. Raises ServiceError INVALID_FIELD if there are no rows."""
        form = self._whole()
        form.flush()
        return form.digest(self._rows)

    @durable.disk_errors()
    def finish(self, display_name: str, create_time: datetime) -> Dataset:
        """Makes the data durable and returns its summary.

        Data of a job is not forced to the disk: it lives no longer than the job, which ends with the service.

        Raises:
            ServiceError: INVALID_FIELD if there are no rows; DISK_FULL.
        """
        form = self._whole()
        form.flush()
        description = form.describe(self._rows, display_name, create_time)
        (self._directory / DESCRIPTION_FILE).write_text(description.model_dump_json())
        dataset = self._keep(description)
        self._finished = True
        return dataset

    def _whole(self) -> _Form:
        if self._form is None or not self._rows:
            raise invalid("inputs", "there are no rows; send at least one")
        return self._form

    def abort(self) -> None:
        """Deletes what was written. Does nothing after `finish`."""
        if not self._finished:
            durable.remove(self._directory)


class _Form:
    """What all blocks of a dataset have in common, and the files that their values go to."""

    def __init__(self, directory: Path, block: DataBlock) -> None:
        self._matrix: MatrixWriter | None = None
        if block.features is not None:
            self._matrix = MatrixWriter(directory / "features.bin", block.features.shape[1:])
        self._columns = [
            ColumnWriter(directory / f"column-{index}.bin", column.name, column.kind, becomes_float32=True)
            for index, column in enumerate(block.columns)
        ]
        self._targets: ColumnWriter | None = None
        if block.targets is not None:
            path = directory / "targets.bin"
            self._targets = ColumnWriter(path, block.targets.name, block.targets.kind, becomes_float32=False)
        self._weights: ValuesFile | None = None
        if block.weights is not None:
            self._weights = ValuesFile(directory / "weights.bin", "<f8")

    def files(self) -> Iterator[ValuesFile]:
        """Yields all files."""
        if self._matrix is not None:
            yield self._matrix.file
        yield from (column.file for column in self._columns)
        if self._targets is not None:
            yield self._targets.file
        if self._weights is not None:
            yield self._weights

    def check(self, block: DataBlock) -> None:
        """Refuses a block that has another form.

        Raises:
            ServiceError: INVALID_FIELD.
        """
        self._check_matrix(block)
        self._check_columns(block.columns, block.rows)
        self._check_targets(block)
        if (block.weights is None) is not (self._weights is None):
            message = "without weights" if self._weights is None else "with weights"
            raise invalid("weights", f"the rows before came {message}; send all rows in the same way")
        self._check_texts(block)

    def append(self, block: DataBlock) -> None:
        """Adds the rows of a checked block, in memory."""
        if self._matrix is not None and block.features is not None:
            self._matrix.append(block.features)
        for writer, column in zip(self._columns, block.columns, strict=True):
            writer.append(column.values)
        if self._targets is not None and block.targets is not None:
            self._targets.append(block.targets.values)
        if self._weights is not None and block.weights is not None:
            self._weights.append(block.weights)

    def flush(self) -> None:
        """Writes what is in memory."""
        for file in self.files():
            file.flush()

    def describe(self, rows: int, display_name: str, create_time: datetime) -> Description:
        """Returns the dataset's description."""
        return Description(
            row_count=rows,
            features=self._matrix.describe() if self._matrix else None,
            columns=tuple(column.describe() for column in self._columns),
            targets=self._targets.describe() if self._targets else None,
            weights=WeightsFile(file=self._weights.path.name) if self._weights else None,
            digest=self.digest(rows),
            display_name=display_name,
            create_time=create_time,
            size_bytes=sum(file.size_bytes for file in self.files()),
            summaries=Summaries(
                features=self._matrix.counts() if self._matrix else None,
                columns=tuple(column.counts() for column in self._columns),
                targets=self._targets.counts() if self._targets else None,
            ),
        )

    def digest(self, rows: int) -> str:
        """Returns the digest of the content: not of the display name, the time, or how the rows came in blocks."""
        content: Fingerprint = {
            "rows": rows,
            "features": self._matrix.fingerprint() if self._matrix else None,
            "columns": [{"name": column.name, **column.fingerprint()} for column in self._columns],
            "targets": self._targets.fingerprint() if self._targets else None,
        }
        if self._weights is not None:
            content["weights"] = self._weights.sha256
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    def _check_matrix(self, block: DataBlock) -> None:
        if (block.features is None) is not (self._matrix is None):
            before, now = ("columns", "a matrix") if self._matrix is None else ("a matrix", "columns")
            raise invalid("inputs", f"the rows before came as {before}, these as {now}; send all in one form")
        if block.features is None or self._matrix is None:
            return
        rows, *shape = block.features.shape
        if tuple(shape) != self._matrix.shape:
            raise invalid("inputs", f"a row has the shape {shape}, but {list(self._matrix.shape)} before")
        if rows != block.rows:
            raise invalid("inputs", f"there are {rows} rows of features, but {block.rows} of other parts")

    def _check_columns(self, columns: Sequence[ColumnData], rows: int) -> None:
        if len(columns) != len(self._columns):
            message = f"there are {len(columns)} columns, but {len(self._columns)} before; send the same columns"
            raise invalid("inputs.columns", message)
        for index, (column, writer) in enumerate(zip(columns, self._columns, strict=True)):
            field = f"inputs.columns[{index}]"
            if column.name != writer.name:
                message = (
                    f"this is '{column.name}', but '{writer.name}' before; send the same columns in the same order"
                )
                raise invalid(f"{field}.name", message)
            _check_values(field, column, writer, rows)

    def _check_targets(self, block: DataBlock) -> None:
        if (block.targets is None) is not (self._targets is None):
            message = "without targets" if self._targets is None else "with targets"
            raise invalid(block.targets_field, f"the rows before came {message}; send all rows in the same way")
        if block.targets is not None and self._targets is not None:
            _check_values(block.targets_field, block.targets, self._targets, block.rows)

    def _check_texts(self, block: DataBlock) -> None:
        """Refuses texts for which there is no room: all different ones are in memory."""
        total = 0
        for field, column, writer in self._columns_of(block):
            count, size = writer.vocabulary_with(column.values)
            total += size
            if count > VOCABULARY_LIMIT:
                raise invalid(
                    field, f"there are more than {VOCABULARY_LIMIT:,} different texts; send fewer, or numbers"
                )
            if total > VOCABULARY_BYTES:
                message = (
                    f"with the different texts of column {column.name or field!r}, those of all columns take more than "
                    f"{VOCABULARY_BYTES >> 20} MiB of memory; send shorter or fewer ones, or numbers"
                )
                raise invalid(field, message)

    def _columns_of(self, block: DataBlock) -> Iterator[tuple[str, ColumnData, ColumnWriter]]:
        """Yields the block's columns and targets, each with its field and its writer."""
        for index, (column, writer) in enumerate(zip(block.columns, self._columns, strict=True)):
            yield f"inputs.columns[{index}]", column, writer
        if block.targets is not None and self._targets is not None:
            yield block.targets_field, block.targets, self._targets


def _check_values(field: str, column: ColumnData, writer: ColumnWriter, rows: int) -> None:
    if column.kind is not writer.kind:
        message = f"the values are of the kind {column.kind}, but {writer.kind} before; send one kind for all rows"
        raise invalid(field, message)
    if len(column) != rows:
        raise invalid(field, f"there are {len(column)} values for {rows} rows; send one a row")


class DatasetFiles:
    """The datasets below the model directory. Implements `Datasets`.

    The methods block. Any number of writers can be under way at once.
    """

    def __init__(self, model_dir: Path) -> None:
        """Creates the directories that do not exist."""
        self._layout = RepositoryLayout(model_dir)
        with durable.disk_errors():
            self._layout.create()
        # Two uploads of the same data may end at the same moment.
        self._sharing = threading.Lock()

    def writer(self, job: str | None) -> DatasetDirectoryWriter:
        """Returns a writer into a job's directory, or into the shared place under the digest if `job` is None.

        Raises:
            ServiceError: DISK_FULL.
        """
        if job is not None:
            return DatasetDirectoryWriter(self.inline_path(job), Description.dataset)
        staged = self._layout.staging / f"dataset-{uuid.uuid4().hex}"
        return DatasetDirectoryWriter(staged, partial(self._share, staged))

    def path(self, digest: str) -> Path:
        """Returns the directory of a shared dataset.

        Raises:
            ServiceError: DATASET_NOT_FOUND if the text is no digest.
        """
        match = _DIGEST.fullmatch(digest)
        if match is None:
            message = "this is no digest of a dataset; use one that UploadDataset or ListDatasets returned"
            raise ServiceError(Reason.DATASET_NOT_FOUND, message, {"dataset": digest})
        return self._layout.datasets / match.group(1)

    def inline_path(self, job: str) -> Path:
        """Returns the directory of a job's own dataset."""
        return self._layout.job(job) / _INLINE

    def get(self, digest: str) -> Dataset | None:
        """Returns a shared dataset, or None; a damaged one counts as none."""
        return _read(self.path(digest)) if _DIGEST.fullmatch(digest) else None

    def list(self) -> Sequence[Dataset]:
        """Returns the shared datasets, the latest first."""
        found = [_read(directory) for directory in self._layout.datasets.iterdir()]
        datasets = [dataset for dataset in found if dataset is not None]
        return sorted(datasets, key=lambda dataset: (dataset.create_time, dataset.digest), reverse=True)

    @durable.disk_errors()
    def delete(self, digest: str) -> None:
        """Deletes a shared dataset in one step; does nothing if there is none."""
        directory = self.path(digest)
        trashed = self._layout.trash / uuid.uuid4().hex
        if directory.exists():
            os.rename(directory, trashed)
        durable.sync_file(directory.parent)
        durable.remove(trashed)

    def _share(self, staged: Path, description: Description) -> Dataset:
        """Moves finished data to the shared place, unless the same data is there already; returns what is there."""
        durable.sync_tree(staged)
        with self._sharing:
            before = self.get(description.digest)
            if before is None:
                self.delete(description.digest)  # what is there, if anything, cannot be read
                os.rename(staged, self.path(description.digest))
                durable.sync_file(self._layout.datasets)
        durable.remove(staged)
        return before or description.dataset()


def _read(directory: Path) -> Dataset | None:
    try:
        return Description.model_validate_json((directory / DESCRIPTION_FILE).read_bytes()).dataset()
    except FileNotFoundError:
        return None
    except (OSError, ValidationError, ValueError):
        _log.warning("the dataset in %s cannot be read and is left out", directory, exc_info=True)
        return None
