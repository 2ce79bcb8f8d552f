"""The file `dataset.json`, which says what a dataset's directory holds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from service.domain.entities import ColumnSummary, Dataset, ValueKind

DESCRIPTION_FILE = "dataset.json"

_Count = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    """A part of the file: no value is converted, and no key is unknown."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class MatrixFile(_Part):
    """The matrix of features: float32, row by row; `shape` is that of one row."""

    file: str
    dtype: Literal["<f4"] = "<f4"
    shape: tuple[_Count, ...]


class ColumnFile(_Part):
    """The values of a column; those of the kind category are indexes into the vocabulary.

    A missing value is NaN, in a column of integers -2^63, of truth values 2, of categories -1.
    """

    name: str
    kind: ValueKind
    file: str
    dtype: str
    vocabulary: list[str] | None = None


class WeightsFile(_Part):
    """What each row counts in training."""

    file: str
    dtype: Literal["<f8"] = "<f8"


class Counts(_Part):
    """What a ColumnSummary says beside the name and the kind."""

    distinct: _Count
    missing: _Count
    infinite: _Count

    def of(self, name: str, kind: ValueKind) -> ColumnSummary:
        """Returns the whole summary."""
        return ColumnSummary(name, kind, self.distinct, self.missing, self.infinite)


class Summaries(_Part):
    """The counts of each file, in the order of the files."""

    features: Counts | None
    columns: tuple[Counts, ...]
    targets: Counts | None


class Description(_Part):
    """The file. A training process reads the first six keys; the service made the others for itself."""

    format: Literal["fitserve-dataset-1"] = "fitserve-dataset-1"
    row_count: _Count
    features: MatrixFile | None
    columns: tuple[ColumnFile, ...]
    targets: ColumnFile | None
    weights: WeightsFile | None = None
    digest: str
    display_name: str
    create_time: AwareDatetime
    size_bytes: _Count
    summaries: Summaries

    def dataset(self) -> Dataset:
        """Returns the domain's form."""
        counts, targets = self.summaries, self.targets
        return Dataset(
            digest=self.digest,
            rows=self.row_count,
            shape=self.features.shape if self.features else None,
            features=counts.features.of("", ValueKind.NUMBER) if counts.features else None,
            columns=tuple(
                part.of(file.name, file.kind) for part, file in zip(counts.columns, self.columns, strict=True)
            ),
            targets=counts.targets.of(targets.name, targets.kind) if counts.targets and targets else None,
            size_bytes=self.size_bytes,
            create_time=self.create_time,
            display_name=self.display_name,
            has_weights=self.weights is not None,
        )
