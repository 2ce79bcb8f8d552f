"""Training data on disk: what training processes and later checks find there."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from service.adapters.column_files import DISTINCT_LIMIT, VOCABULARY_LIMIT
from service.adapters.datasets import DatasetFiles
from service.domain.entities import MISSING_INTEGER, ColumnData, ColumnSummary, DataBlock, Dataset, ValueKind
from service.domain.errors import Reason, ServiceError

NOON = datetime(2026, 11, 21, 12, 0, 0, 123456, tzinfo=UTC)
NAN, INFINITY = float("nan"), float("inf")


@pytest.fixture
def datasets(tmp_path: Path) -> DatasetFiles:
    return DatasetFiles(tmp_path)


def numbers(name: str, *values: float) -> ColumnData:
    return ColumnData(name, ValueKind.NUMBER, np.array(values, np.float64))


def integers(name: str, *values: int) -> ColumnData:
    return ColumnData(name, ValueKind.INTEGER, np.array(values, np.int64))


def booleans(name: str, *values: bool) -> ColumnData:
    return ColumnData(name, ValueKind.BOOLEAN, np.array(values, np.uint8))


def texts(name: str, *values: str | None) -> ColumnData:
    return ColumnData(name, ValueKind.CATEGORY, list(values))


def matrix(*rows: object, targets: ColumnData | None = None) -> DataBlock:
    return DataBlock(len(rows), np.array(rows, np.float32), (), targets)


def table(*columns: ColumnData, targets: ColumnData | None = None) -> DataBlock:
    return DataBlock(len(columns[0]), None, columns, targets)


def store(datasets: DatasetFiles, *blocks: DataBlock, job: str | None = None, name: str = "") -> Dataset:
    writer = datasets.writer(job)
    for block in blocks:
        writer.append(block)
    return writer.finish(name, NOON)


def refusal(datasets: DatasetFiles, first: DataBlock, second: DataBlock) -> str:
    """Appends two blocks, of which the second is refused; returns the field that is at fault."""
    writer = datasets.writer(None)
    writer.append(first)
    with pytest.raises(ServiceError) as refused:
        writer.append(second)
    assert refused.value.reason is Reason.INVALID_FIELD
    writer.append(first)
    assert writer.finish("", NOON).rows == 2 * first.rows
    return refused.value.metadata["field"]


class TestFormat:
    """What a training process reads."""

    def test_a_matrix(self, datasets: DatasetFiles) -> None:
        found = store(datasets, matrix([1, 2, 3], [4, 5, 6], targets=texts("", "b", "a")))
        directory = datasets.path(found.digest)
        description = json.loads((directory / "dataset.json").read_text())
        assert description["format"] == "fitserve-dataset-1"
        assert description["row_count"] == 2
        assert description["features"] == {"file": "features.bin", "dtype": "<f4", "shape": [3]}
        assert description["columns"] == []
        assert description["targets"] == {
            "name": "",
            "kind": "category",
            "file": "targets.bin",
            "dtype": "<i4",
            "vocabulary": ["b", "a"],
        }
        assert np.fromfile(directory / "features.bin", "<f4").tolist() == [1, 2, 3, 4, 5, 6]
        assert np.fromfile(directory / "targets.bin", "<i4").tolist() == [0, 1]

    def test_weights(self, datasets: DatasetFiles) -> None:
        plain = matrix([1, 2], [4, 5], targets=texts("", "b", "a"))
        weighed = replace(plain, weights=np.array([0.5, 2.0]))
        found = store(datasets, weighed)
        directory = datasets.path(found.digest)
        description = json.loads((directory / "dataset.json").read_text())
        assert description["weights"] == {"file": "weights.bin", "dtype": "<f8"}
        assert np.fromfile(directory / "weights.bin", "<f8").tolist() == [0.5, 2.0]
        assert datasets.get(found.digest) == found
        assert found.has_weights
        assert store(datasets, plain).digest != found.digest
        assert refusal(datasets, weighed, plain) == refusal(datasets, plain, weighed) == "weights"

    def test_images(self, datasets: DatasetFiles) -> None:
        found = store(datasets, matrix([[[1, 2], [3, 4]]], [[[5, 6], [7, 8]]]))
        description = json.loads((datasets.path(found.digest) / "dataset.json").read_text())
        assert found.shape == (1, 2, 2)
        assert description["features"]["shape"] == [1, 2, 2]
        assert description["targets"] is None

    def test_columns(self, datasets: DatasetFiles) -> None:
        block = table(
            numbers("a", 0.1, NAN), integers("b", 1, -(2**62)), booleans("c", True, False), texts("d", "x", "x")
        )
        directory = datasets.path(store(datasets, block).digest)
        description = json.loads((directory / "dataset.json").read_text())
        assert description["features"] is None
        columns = [(each["name"], each["kind"], each["dtype"]) for each in description["columns"]]
        assert columns == [
            ("a", "number", "<f8"),
            ("b", "integer", "<i8"),
            ("c", "boolean", "|u1"),
            ("d", "category", "<i4"),
        ]
        files = [np.fromfile(directory / each["file"], each["dtype"]).tolist() for each in description["columns"]]
        assert str(files) == str([[0.1, NAN], [1, -(2**62)], [1, 0], [0, 0]])

    def test_a_value_of_any_kind_may_be_missing_in_some_blocks(self, datasets: DatasetFiles) -> None:
        found = store(
            datasets,
            table(integers("b", 7), booleans("c", True), texts("d", "x"), targets=texts("t", "u")),
            table(integers("b", MISSING_INTEGER), booleans("c", 2), texts("d", None), targets=texts("t", None)),
        )
        directory = datasets.path(found.digest)
        columns = json.loads((directory / "dataset.json").read_text())["columns"]
        files = [np.fromfile(directory / each["file"], each["dtype"]).tolist() for each in columns]
        assert files == [[7, -(2**63)], [1, 2], [0, -1]]
        assert [(column.distinct, column.missing) for column in found.columns] == [(1, 1)] * 3
        assert found.targets == ColumnSummary("t", ValueKind.CATEGORY, distinct=1, missing=1, infinite=0)

    def test_values_that_are_not_contiguous_are_stored_in_order(self, datasets: DatasetFiles) -> None:
        values = np.arange(6, dtype=np.float32).reshape(3, 2).T
        found = store(datasets, DataBlock(2, values, (), None))
        assert np.fromfile(datasets.path(found.digest) / "features.bin", "<f4").tolist() == [0, 2, 4, 1, 3, 5]

    def test_a_jobs_own_data_is_in_its_directory(self, datasets: DatasetFiles, tmp_path: Path) -> None:
        found = store(datasets, matrix([1, 2]), job="job-1")
        directory = datasets.inline_path("job-1")
        assert sorted(os.listdir(directory)) == ["dataset.json", "features.bin"]
        assert directory.is_relative_to(tmp_path / ".fitserve/jobs/job-1")
        assert datasets.get(found.digest) is None
        assert datasets.list() == []


class TestSummary:
    """What is known without reading the data again."""

    def test_a_dataset_is_as_it_was_written(self, datasets: DatasetFiles) -> None:
        found = store(datasets, table(numbers("a", 1, 2)), table(numbers("a", 3)), name="three")
        assert datasets.get(found.digest) == found
        assert (found.rows, found.shape, found.features, found.targets) == (3, None, None, None)
        assert (found.size_bytes, found.create_time, found.display_name) == (24, NOON, "three")

    def test_a_column_counts_different_missing_and_infinite_values(self, datasets: DatasetFiles) -> None:
        found = store(
            datasets,
            table(numbers("a", 1, NAN, INFINITY, 1), targets=integers("t", 1, 2, 3, 1)),
            table(numbers("a", NAN, 2, 1, -INFINITY), targets=integers("t", 3, 4, 4, 4)),
        )
        assert found.columns == (ColumnSummary("a", ValueKind.NUMBER, distinct=4, missing=2, infinite=2),)
        assert found.targets == ColumnSummary("t", ValueKind.INTEGER, distinct=4, missing=0, infinite=0)

    def test_texts_and_truth_values_are_counted(self, datasets: DatasetFiles) -> None:
        found = store(
            datasets,
            table(booleans("a", True, True), targets=texts("t", "x", "y")),
            table(booleans("a", True, False), targets=texts("t", "y", "z")),
        )
        assert found.columns == (ColumnSummary("a", ValueKind.BOOLEAN, 2, 0, 0),)
        assert found.targets == ColumnSummary("t", ValueKind.CATEGORY, 3, 0, 0)

    def test_a_matrix_counts_missing_and_infinite_values(self, datasets: DatasetFiles) -> None:
        found = store(datasets, matrix([1, NAN], [INFINITY, NAN]))
        assert found.features == ColumnSummary("", ValueKind.NUMBER, distinct=0, missing=2, infinite=1)

    def test_a_feature_too_large_for_32_bits_is_infinite_and_a_target_is_not(self, datasets: DatasetFiles) -> None:
        found = store(datasets, table(numbers("a", 1e300), targets=numbers("t", 1e300)))
        assert found.columns[0].infinite == 1
        assert found.targets is not None
        assert found.targets.infinite == 0

    def test_different_values_are_counted_up_to_a_limit(self, datasets: DatasetFiles) -> None:
        many = np.arange(DISTINCT_LIMIT - 1, dtype=np.int64)
        few = integers("a", *range(-5, 5))
        block = table(ColumnData("a", ValueKind.INTEGER, many))
        assert store(datasets, block).columns[0].distinct == DISTINCT_LIMIT - 1
        assert store(datasets, block, table(few), block).columns[0].distinct == DISTINCT_LIMIT


class TestDigest:
    """The digest is of the content alone."""

    BLOCK = table(numbers("a", 1, 2), integers("b", 3, 4), targets=texts("t", "x", "y"))

    def test_blocks_do_not_matter(self, datasets: DatasetFiles) -> None:
        whole = store(datasets, self.BLOCK)
        parts = store(
            datasets,
            table(numbers("a", 1), integers("b", 3), targets=texts("t", "x")),
            table(numbers("a", 2), integers("b", 4), targets=texts("t", "y")),
            job="job-1",
        )
        assert whole.digest == parts.digest
        assert whole.digest.startswith("sha256:")
        assert len(whole.digest) == len("sha256:") + hashlib.sha256().digest_size * 2

    @pytest.mark.parametrize(
        "other",
        [
            table(numbers("a", 1, 2), integers("b", 3, 5), targets=texts("t", "x", "y")),
            table(numbers("a", 1, 2), integers("c", 3, 4), targets=texts("t", "x", "y")),
            table(integers("b", 3, 4), numbers("a", 1, 2), targets=texts("t", "x", "y")),
            table(numbers("a", 1, 2), numbers("b", 3, 4), targets=texts("t", "x", "y")),
            table(numbers("a", 1, 2), integers("b", 3, 4), targets=texts("t", "x", "z")),
            table(numbers("a", 1, 2), integers("b", 3, 4), targets=integers("t", 0, 1)),
            table(numbers("a", 1, 2), integers("b", 3, 4)),
        ],
    )
    def test_content_matters(self, datasets: DatasetFiles, other: DataBlock) -> None:
        assert store(datasets, self.BLOCK).digest != store(datasets, other).digest

    def test_the_shape_matters(self, datasets: DatasetFiles) -> None:
        assert store(datasets, matrix([1, 2, 3, 4])).digest != store(datasets, matrix([[[1, 2], [3, 4]]])).digest
        assert store(datasets, matrix([1, 2, 3, 4])).digest != store(datasets, matrix([1, 2], [3, 4])).digest


class TestBlocksThatDoNotFit:
    """The field at fault is named, and the rows before and after are kept."""

    FIRST = table(numbers("a", 1), numbers("b", 2), integers("c", 3))

    def test_another_form(self, datasets: DatasetFiles) -> None:
        assert refusal(datasets, self.FIRST, matrix([1, 2, 3])) == "inputs"
        assert refusal(datasets, matrix([1, 2, 3]), self.FIRST) == "inputs"

    def test_another_shape(self, datasets: DatasetFiles) -> None:
        assert refusal(datasets, matrix([1, 2, 3]), matrix([1, 2])) == "inputs"

    def test_another_number_of_columns(self, datasets: DatasetFiles) -> None:
        assert refusal(datasets, self.FIRST, table(numbers("a", 1))) == "inputs.columns"

    def test_another_name(self, datasets: DatasetFiles) -> None:
        block = table(numbers("a", 1), numbers("b", 2), integers("d", 3))
        assert refusal(datasets, self.FIRST, block) == "inputs.columns[2].name"

    def test_another_kind(self, datasets: DatasetFiles) -> None:
        block = table(numbers("a", 1), integers("b", 2), integers("c", 3))
        assert refusal(datasets, self.FIRST, block) == "inputs.columns[1]"

    def test_another_number_of_values(self, datasets: DatasetFiles) -> None:
        block = table(numbers("a", 1), numbers("b", 2, 3), integers("c", 3))
        assert refusal(datasets, self.FIRST, block) == "inputs.columns[1]"
        assert refusal(datasets, matrix([1]), DataBlock(2, np.ones((1, 1), np.float32), (), None)) == "inputs"

    def test_targets_in_some_blocks_only(self, datasets: DatasetFiles) -> None:
        assert refusal(datasets, matrix([1]), matrix([1], targets=texts("", "x"))) == "targets"
        assert refusal(datasets, matrix([1], targets=texts("", "x")), matrix([1])) == "targets"

    def test_targets_of_another_kind(self, datasets: DatasetFiles) -> None:
        first = matrix([1], targets=texts("", "x"))
        assert refusal(datasets, first, matrix([1], targets=integers("", 1))) == "targets"

    def test_too_many_different_texts(self, datasets: DatasetFiles) -> None:
        many = texts("", *map(str, range(VOCABULARY_LIMIT)))
        block = DataBlock(len(many), np.zeros((len(many), 1), np.float32), (), many)
        assert refusal(datasets, matrix([1], targets=texts("", "x")), block) == "targets"

    def test_too_much_text_in_all_columns_together(
        self, datasets: DatasetFiles, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("service.adapters.datasets.VOCABULARY_BYTES", 5000)
        first = table(texts("short", "a"), texts("long", "x" * 2000), texts("longer", "x" * 2000))
        same = table(texts("short", "b"), texts("long", "x" * 2000), texts("longer", "x" * 2000))
        store(datasets, first, same, *[same] * 10)  # what was seen before takes no more room
        more = table(texts("short", "b"), texts("long", "y" * 500), texts("longer", "z" * 500))
        writer = datasets.writer(None)
        writer.append(first)
        with pytest.raises(ServiceError) as refused:
            writer.append(more)
        assert refused.value.metadata["field"] == "inputs.columns[2]"
        assert "column 'longer'" in refused.value.message
        writer.abort()

    def test_targets_are_named_as_the_caller_named_them(self, datasets: DatasetFiles) -> None:
        first = matrix([1], targets=texts("", "x"))
        labels = replace(matrix([1], targets=integers("", 1)), targets_field="labels")
        assert refusal(datasets, first, labels) == "labels"


class TestWriter:
    def test_no_rows_are_refused(self, datasets: DatasetFiles) -> None:
        empty = DataBlock(0, np.empty((0, 2), np.float32), (), None)
        for blocks in ([], [empty]):
            with pytest.raises(ServiceError) as refused:
                store(datasets, *blocks)
            assert refused.value.reason is Reason.INVALID_FIELD

    def test_an_aborted_one_leaves_nothing(self, datasets: DatasetFiles, tmp_path: Path) -> None:
        for job in (None, "job-1"):
            writer = datasets.writer(job)
            writer.append(matrix([1, 2]))
            writer.abort()
            writer.abort()
        assert os.listdir(tmp_path / ".fitserve/staging") == []
        assert not datasets.inline_path("job-1").exists()

    def test_an_abort_after_the_end_deletes_nothing(self, datasets: DatasetFiles) -> None:
        for job in (None, "job-1"):
            writer = datasets.writer(job)
            writer.append(matrix([1, 2]))
            found = writer.finish("", NOON)
            writer.abort()
        assert datasets.get(found.digest) == found
        assert (datasets.inline_path("job-1") / "dataset.json").exists()

    def test_large_data_goes_to_disk_before_the_end(self, datasets: DatasetFiles, tmp_path: Path) -> None:
        writer = datasets.writer("job-1")
        block = DataBlock(1000, np.zeros((1000, 1000), np.float32), (), None)
        for _ in range(3):
            writer.append(block)
        assert (datasets.inline_path("job-1") / "features.bin").stat().st_size >= 2 * 4_000_000
        writer.abort()

    def test_a_full_disk_is_said(self, datasets: DatasetFiles, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        writer = datasets.writer(None)
        writer.append(matrix([1, 2]))

        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(ServiceError) as refused:
                writer.finish("", NOON)
        assert refused.value.reason is Reason.DISK_FULL
        writer.abort()
        assert os.listdir(tmp_path / ".fitserve/staging") == []
        assert datasets.list() == []


class TestSharing:
    def test_the_same_data_is_kept_once(self, datasets: DatasetFiles, tmp_path: Path) -> None:
        first = store(datasets, matrix([1, 2]), name="first")
        second = store(datasets, matrix([1, 2]), name="second")
        assert second == first
        assert len(datasets.list()) == 1
        assert os.listdir(tmp_path / ".fitserve/staging") == []

    def test_many_uploads_at_once_do_not_mix(self, datasets: DatasetFiles, tmp_path: Path) -> None:
        found: list[tuple[int, Dataset]] = []

        def upload(number: int) -> None:
            content = number % 4
            blocks = [matrix([content, step]) for step in range(20)]
            found.append((content, store(datasets, *blocks)))

        threads = [threading.Thread(target=upload, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 12
        assert len({dataset.digest for _, dataset in found}) == len(datasets.list()) == 4
        for content, dataset in found:
            values = np.fromfile(datasets.path(dataset.digest) / "features.bin", "<f4").reshape(20, 2)
            assert set(values[:, 0]) == {content}
        assert os.listdir(tmp_path / ".fitserve/staging") == []

    def test_the_latest_is_listed_first(self, datasets: DatasetFiles) -> None:
        for hours in (1, 3, 2):
            writer = datasets.writer(None)
            writer.append(matrix([hours]))
            writer.finish(str(hours), NOON + timedelta(hours=hours))
        assert [dataset.display_name for dataset in datasets.list()] == ["3", "2", "1"]

    def test_a_deleted_one_is_gone(self, datasets: DatasetFiles, tmp_path: Path) -> None:
        found = store(datasets, matrix([1, 2]))
        datasets.delete(found.digest)
        datasets.delete(found.digest)
        assert datasets.get(found.digest) is None
        assert datasets.list() == []
        assert os.listdir(tmp_path / ".fitserve/trash") == []

    def test_a_damaged_one_counts_as_none_and_can_be_sent_again(self, datasets: DatasetFiles) -> None:
        found = store(datasets, matrix([1, 2]))
        (datasets.path(found.digest) / "dataset.json").write_text("{")
        assert datasets.get(found.digest) is None
        assert datasets.list() == []
        assert store(datasets, matrix([1, 2])) == found
        assert datasets.get(found.digest) == found

    def test_what_is_no_digest_is_not_found(self, datasets: DatasetFiles) -> None:
        for text in ("", "sha256:", "sha256:../../x", "iris"):
            assert datasets.get(text) is None
            with pytest.raises(ServiceError) as refused:
                datasets.path(text)
            assert refused.value.reason is Reason.DATASET_NOT_FOUND
