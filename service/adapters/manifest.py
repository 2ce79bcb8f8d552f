"""Reads the manifest of a version's directory, and compares the directory's files with it."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.adapters.layout import MANIFEST_FILE, MODEL_NAME
from service.adapters.triton_config import BACKENDS
from service.domain import text_columns
from service.domain.entities import (
    ColumnSpec,
    ImportedFile,
    Label,
    Manifest,
    Parity,
    Signature,
    Task,
    UnknownCategory,
    ValueKind,
)
from service.domain.errors import Reason, ServiceError
from service.domain.loaded import max_batch_rows
from service.domain.named_tensors import TensorSpec, TensorType

_Positive = Annotated[int, Field(ge=1)]
_Count = Annotated[int, Field(ge=0)]
_FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,254}$")]
_LABEL_TYPES: Mapping[ValueKind, type] = {
    ValueKind.CATEGORY: str,
    ValueKind.INTEGER: int,
    ValueKind.NUMBER: float,
    ValueKind.BOOLEAN: bool,
}


class _Part(BaseModel):
    """A part of the file: no value is converted, and no key is unknown."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class StoredFile(_Part):
    """What the manifest says of a file."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: _Count


class _Column(_Part):
    """A column; of manifests that were written before there were categories it has but name and kind."""

    name: str
    kind: ValueKind
    categories: tuple[str, ...] = ()
    unknown_category: UnknownCategory | None = None
    missing_values: bool = False
    fill: float | None = None

    @model_validator(mode="after")
    def _check_categories(self) -> _Column:
        category = self.kind is ValueKind.CATEGORY
        if category is not (self.unknown_category is not None) or (self.categories and not category):
            raise ValueError(f"the categories of column {self.name!r} do not fit its kind {self.kind}")
        if len(set(self.categories)) < len(self.categories):
            raise ValueError(f"two categories of column {self.name!r} are the same")
        return self

    def spec(self) -> ColumnSpec:
        """Returns the domain's form."""
        return ColumnSpec(self.name, self.kind, self.categories, self.unknown_category, self.missing_values, self.fill)


class _Tensor(_Part):
    """A tensor that a model takes or gives by its name. The first length counts the rows, if the model has rows."""

    name: str = Field(min_length=1)
    dtype: TensorType
    shape: tuple[Annotated[int, Field(ge=-1)], ...] = Field(min_length=1)

    def spec(self) -> TensorSpec:
        """Returns the domain's form."""
        return TensorSpec(self.name, self.dtype, self.shape)


class _Signature(_Part):
    """What a version takes and gives: rows of features with a shape and scores, or named tensors."""

    shape: tuple[_Positive, ...]
    columns: tuple[_Column, ...]
    missing_values: bool
    classes: tuple[Label, ...]
    label_kind: ValueKind | Literal[""]
    targets: tuple[str, ...] = ()
    inputs: tuple[_Tensor, ...] = ()
    outputs: tuple[_Tensor, ...] = ()
    rows: bool = False

    @model_validator(mode="after")
    def _check_form(self) -> _Signature:
        named = bool(self.inputs) and bool(self.outputs)
        unnamed = not self.inputs and not self.outputs and not self.rows
        if not (unnamed and self.shape) and not (named and not self.shape and not self.classes and not self.targets):
            raise ValueError("it has neither a shape of features, nor inputs and outputs")
        if any(len({one.name for one in part}) < len(part) for part in (self.inputs, self.outputs)):
            raise ValueError("two tensors have the same name")
        if self.rows and any(one.shape[0] != -1 or len(one.shape) < 2 for one in (*self.inputs, *self.outputs)):
            raise ValueError("a tensor has no dimension of rows, or no other one")
        return self

    @model_validator(mode="after")
    def _check_columns(self) -> _Signature:
        if self.columns and self.shape != (len(self.columns),):
            raise ValueError(f"{len(self.columns)} columns do not make rows of shape {list(self.shape)}")
        if len({column.name for column in self.columns}) < len(self.columns):
            raise ValueError("two columns have the same name")
        return self

    @model_validator(mode="after")
    def _check_classes(self) -> _Signature:
        if not self.label_kind:
            return self
        if any(type(label) is not _LABEL_TYPES[self.label_kind] for label in self.classes):
            raise ValueError(f"not every class is of the kind {self.label_kind}")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("two classes are the same")
        return self


class _Parity(_Part):
    max_difference: float
    tolerance: float
    row_count: _Count


class _Imported(_Part):
    format: str = Field(min_length=1)
    digest: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    size_bytes: _Count


class _ManifestFile(_Part):
    """The file `manifest.json`, as the training process writes it."""

    format: Literal["fitserve-model-1"]
    model: str = Field(pattern=f"^{MODEL_NAME.pattern}$")
    version: _Positive
    job: str
    algorithm: str
    task: Task | None
    parameters: dict[str, object]
    signature: _Signature
    backend: str = Field(min_length=1)
    metrics: dict[str, float]
    parity: _Parity
    dataset: str
    train_row_count: _Count
    validation_row_count: _Count
    library_versions: dict[str, str]
    create_time: AwareDatetime
    imported: _Imported | None = None
    files: dict[_FileName, StoredFile]
    prefer_gpu: bool = False

    @model_validator(mode="after")
    def _check_task(self) -> _ManifestFile:
        labelled = bool(self.signature.classes) and bool(self.signature.label_kind)
        unlabelled = not self.signature.classes and not self.signature.label_kind
        if not (labelled if self.task is Task.CLASSIFICATION else unlabelled):
            raise ValueError(f"the classes of the signature do not fit the task {self.task}")
        if (self.task is None) is not bool(self.signature.inputs):
            raise ValueError(f"the task is {self.task}, which named tensors do not have and features do")
        return self

    @model_validator(mode="after")
    def _check_algorithm(self) -> _ManifestFile:
        if bool(self.algorithm) is (self.imported is not None):
            raise ValueError("a version has an algorithm, or a file that it was imported from")
        return self

    @model_validator(mode="after")
    def _check_files(self) -> _ManifestFile:
        if len([name for name in self.files if BACKENDS.get(name) == self.backend]) != 1:
            raise ValueError(f"files has not one model file of the backend {self.backend}")
        if MANIFEST_FILE in self.files:
            raise ValueError(f"files cannot have {MANIFEST_FILE} itself")
        return self

    def manifest(self) -> Manifest:
        """Returns the domain's form."""
        return Manifest(
            model=self.model,
            version=self.version,
            job=self.job,
            algorithm=self.algorithm,
            parameters=self.parameters,
            signature=_signature(self.task, self.signature),
            backend=self.backend,
            metrics=self.metrics,
            parity=Parity(self.parity.max_difference, self.parity.tolerance, self.parity.row_count),
            dataset=self.dataset,
            train_rows=self.train_row_count,
            validation_rows=self.validation_row_count,
            library_versions=self.library_versions,
            create_time=self.create_time,
            size_bytes=sum(file.size_bytes for file in self.files.values()),
            imported=ImportedFile(**self.imported.model_dump()) if self.imported is not None else None,
            file=next(name for name in self.files if BACKENDS.get(name) == self.backend),
            prefer_gpu=self.prefer_gpu,
        )


def _signature(task: Task | None, part: _Signature) -> Signature:
    if part.inputs:
        inputs, outputs = (tuple(one.spec() for one in tensors) for tensors in (part.inputs, part.outputs))
        row_bytes = sum(spec.row_bytes for spec in (*inputs, *outputs))
        return Signature.of_tensors(inputs, outputs, max_batch_rows(row_bytes) if part.rows else 0)
    signature = Signature(
        task=task,
        shape=part.shape,
        columns=tuple(column.spec() for column in part.columns),
        missing_values=part.missing_values,
        classes=part.classes,
        label_kind=part.label_kind or None,
        targets=part.targets,
    )
    return text_columns.with_tensors(signature)


@dataclass(frozen=True)
class VersionDirectory:
    """The directory of a version, whose manifest could be read.

    Attributes:
        path: The directory.
        manifest: What its manifest says.
        files: What the manifest says of each of the other files, by name.
    """

    path: Path
    manifest: Manifest
    files: Mapping[str, StoredFile]

    @classmethod
    def read(cls, path: Path, model: str, version: int) -> VersionDirectory:
        """Reads the manifest in a directory and checks that it is complete and of this version.

        Raises:
            ServiceError: ARTIFACT_DAMAGED; its message says what is wrong.
        """
        try:
            file = _ManifestFile.model_validate_json((path / MANIFEST_FILE).read_bytes())
        except FileNotFoundError as error:
            raise damaged(model, version, f"it has no {MANIFEST_FILE}") from error
        except OSError as error:
            raise damaged(model, version, f"its {MANIFEST_FILE} cannot be read ({error.strerror})") from error
        except ValidationError as error:
            raise damaged(model, version, _first_problem(error)) from error
        if (file.model, file.version) != (model, version):
            problem = f"its manifest is that of version {file.version} of model '{file.model}'"
            raise damaged(model, version, problem)
        return cls(path, file.manifest(), file.files)

    def check_sizes(self) -> None:
        """Compares names and sizes of the files with the manifest; reads no content.

        Raises:
            ServiceError: ARTIFACT_DAMAGED naming the file.
        """
        try:
            with os.scandir(self.path) as entries:
                found = {entry.name: entry.stat(follow_symlinks=False) for entry in entries}
        except OSError as error:  # a file that goes meanwhile, too
            raise self._damaged(f"its files cannot be listed ({error.strerror})") from error
        for name in found.keys() - self.files.keys() - {MANIFEST_FILE}:
            raise self._damaged(f"its manifest does not know {name}")
        for name, file in self.files.items():
            if name not in found:
                raise self._damaged(f"{name} is missing")
            if not stat.S_ISREG(found[name].st_mode):
                raise self._damaged(f"{name} is no file")
            if found[name].st_size != file.size_bytes:
                raise self._damaged(f"{name} has {found[name].st_size} bytes, but {file.size_bytes} in the manifest")

    def check_contents(self) -> None:
        """Compares the contents of all files with the manifest.

        Raises:
            ServiceError: ARTIFACT_DAMAGED naming the file.
        """
        self.check_sizes()
        for name, expected in self.files.items():
            try:
                with open(self.path / name, "rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise self._damaged(f"{name} cannot be read ({error.strerror})") from error
            if digest != expected.sha256:
                raise self._damaged(f"{name} has another content than when it was trained")

    def _damaged(self, problem: str) -> ServiceError:
        return damaged(self.manifest.model, self.manifest.version, problem)


def damaged(model: str, version: int, problem: str) -> ServiceError:
    """Returns the error for a version's directory that is not what its manifest says."""
    return ServiceError(
        Reason.ARTIFACT_DAMAGED,
        f"version {version} of model '{model}' is damaged: {problem}; train it again and remove this version",
        {"model": model, "version": str(version)},
    )


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(step) for step in first["loc"])
    return f"{MANIFEST_FILE}: {place + ': ' if place else ''}{first['msg']}"
