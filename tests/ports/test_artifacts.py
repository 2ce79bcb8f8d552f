"""The model repository on disk: what is visible in it, whenever the service or the disk fails."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from service.adapters.manifest import VersionDirectory
from service.adapters.repository import RepositoryArtifacts, RepositoryInUse
from service.adapters.triton_config import TritonModelConfig
from service.domain.entities import ColumnSpec, Parity, Task, UnknownCategory, ValueKind
from service.domain.errors import Reason, ServiceError
from service.domain.named_tensors import TensorSpec, TensorType

MODEL = b"the bytes of a model" * 1000


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def artifacts(model_dir: Path) -> Iterator[RepositoryArtifacts]:
    artifacts = RepositoryArtifacts(model_dir)
    yield artifacts
    artifacts.close()


def manifest(**changes: object) -> dict[str, object]:
    """What a training process writes for version 1 of `iris`."""
    return {
        "format": "fitserve-model-1",
        "model": "iris",
        "version": 1,
        "job": "job-1",
        "algorithm": "random_forest",
        "task": "classification",
        "parameters": {"n_estimators": 100, "max_depth": None},
        "signature": {
            "shape": [2],
            "columns": [{"name": "a", "kind": "number"}, {"name": "b", "kind": "integer"}],
            "missing_values": False,
            "classes": ["setosa", "virginica"],
            "label_kind": "category",
        },
        "backend": "onnxruntime",
        "metrics": {"accuracy": 0.97},
        "parity": {"max_difference": 1e-7, "tolerance": 1e-5, "row_count": 30},
        "dataset": "sha256:00",
        "train_row_count": 120,
        "validation_row_count": 30,
        "library_versions": {"scikit-learn": "1.9.1"},
        "create_time": "2026-11-21T03:40:00.000000Z",
        "files": {"model.onnx": {"sha256": hashlib.sha256(MODEL).hexdigest(), "size_bytes": len(MODEL)}},
    } | changes


def stage(artifacts: RepositoryArtifacts, job: str = "job-1", changes: Mapping[str, object] | None = None) -> Path:
    """Writes what a training process writes, with changes to its manifest; returns where."""
    directory = artifacts.staging_directory(job)
    directory.mkdir()
    (directory / "model.onnx").write_bytes(MODEL)
    (directory / "manifest.json").write_text(json.dumps(manifest(job=job) | dict(changes or {})))
    return directory


def publish(artifacts: RepositoryArtifacts, *versions: int, model: str = "iris") -> None:
    for version in versions:
        stage(artifacts, f"job-{version}", {"model": model, "version": version})
        artifacts.publish(f"job-{version}", model, version)


def stored(artifacts: RepositoryArtifacts) -> list[tuple[str, int]]:
    """The names and numbers of all versions, none of which is damaged."""
    found = artifacts.stored_versions()
    assert [version.error for version in found if version.error] == []
    return [(version.model, version.version) for version in found]


def signature(**changes: object) -> dict[str, object]:
    """The changes of a manifest that has another signature."""
    whole = manifest()["signature"]
    assert isinstance(whole, dict)
    return {"signature": whole | changes}


def named(**changes: object) -> dict[str, object]:
    """The changes of a manifest that has named tensors."""
    tensors = {
        "inputs": [
            {"name": "x", "dtype": "FP32", "shape": [-1, 1024]},
            {"name": "t", "dtype": "BYTES", "shape": [-1, 1]},
        ],
        "outputs": [{"name": "y", "dtype": "INT64", "shape": [-1, 100]}],
        "rows": True,
    }
    features = {"shape": [], "columns": [], "classes": [], "label_kind": ""}
    return signature(**features, **tensors | changes) | {"task": None}


COLOR = {
    "name": "color",
    "kind": "category",
    "categories": ["green", "red"],
    "unknown_category": "none",
    "missing_values": True,
}


class TestPublish:
    def test_a_published_version_is_as_the_manifest_says(self, artifacts: RepositoryArtifacts) -> None:
        stage(artifacts)
        found = artifacts.publish("job-1", "iris", 1)
        assert [version.manifest for version in artifacts.stored_versions()] == [found]
        assert artifacts.verify("iris", 1) == found
        assert (found.model, found.version, found.job, found.backend) == ("iris", 1, "job-1", "onnxruntime")
        assert found.signature.task is Task.CLASSIFICATION
        assert found.signature.shape == (2,)
        assert found.signature.columns == (ColumnSpec("a", ValueKind.NUMBER), ColumnSpec("b", ValueKind.INTEGER))
        assert found.signature.classes == ("setosa", "virginica")
        assert found.parity == Parity(1e-7, 1e-5, 30)
        assert found.create_time == datetime(2026, 11, 21, 3, 40, tzinfo=UTC)
        assert found.size_bytes == len(MODEL)

    @pytest.mark.parametrize(("rows", "most"), [(True, 16 * 2**20 // (4 * 1024 + 128 + 800)), (False, 0)])
    def test_named_tensors_are_as_the_manifest_says(
        self, artifacts: RepositoryArtifacts, rows: bool, most: int
    ) -> None:
        stage(artifacts, changes=named(rows=rows))
        found = artifacts.publish("job-1", "iris", 1).signature
        assert found.inputs == (
            TensorSpec("x", TensorType.FP32, (-1, 1024)),
            TensorSpec("t", TensorType.BYTES, (-1, 1)),
        )
        assert found.outputs == (TensorSpec("y", TensorType.INT64, (-1, 100)),)
        assert (found.task, found.shape, found.max_batch_size) == (None, (), min(1024, most))
        assert not artifacts.of_operator("iris")

    def test_columns_have_their_categories_and_what_stands_for_missing_values(
        self, artifacts: RepositoryArtifacts
    ) -> None:
        length = {"name": "length", "kind": "number", "missing_values": True, "fill": 2.5}
        stage(artifacts, changes=signature(columns=[length, COLOR]))
        assert artifacts.publish("job-1", "iris", 1).signature.columns == (
            ColumnSpec("length", ValueKind.NUMBER, missing_values=True, fill=2.5),
            ColumnSpec("color", ValueKind.CATEGORY, ("green", "red"), UnknownCategory.NONE, missing_values=True),
        )

    @pytest.mark.parametrize(
        "change",
        [{"categories": ["red", "red"]}, {"unknown_category": None}, {"kind": "number"}, {"categories": ["red", 1]}],
    )
    def test_categories_that_cannot_be_are_damage(
        self, artifacts: RepositoryArtifacts, change: dict[str, object]
    ) -> None:
        stage(artifacts, changes=signature(shape=[1], columns=[COLOR | change]))
        with pytest.raises(ServiceError) as refused:
            artifacts.publish("job-1", "iris", 1)
        assert refused.value.reason is Reason.ARTIFACT_DAMAGED

    @pytest.mark.parametrize(
        ("kind", "classes"),
        [("integer", [1, 2]), ("number", [1.0, 2.5]), ("boolean", [False, True]), ("category", ["1", "2"])],
    )
    def test_labels_keep_their_type(self, artifacts: RepositoryArtifacts, kind: str, classes: list[object]) -> None:
        stage(artifacts, changes=signature(label_kind=kind, classes=classes))
        found = artifacts.publish("job-1", "iris", 1).signature.classes
        assert [(type(label), label) for label in found] == [(type(label), label) for label in classes]

    def test_a_regression_has_no_classes(self, artifacts: RepositoryArtifacts) -> None:
        stage(artifacts, changes={"task": "regression"} | signature(label_kind="", classes=[]))
        assert artifacts.publish("job-1", "iris", 1).signature.label_kind is None

    def test_a_metric_may_be_no_number(self, artifacts: RepositoryArtifacts) -> None:
        stage(artifacts, changes={"metrics": {"loss": float("nan")}})
        assert str(artifacts.publish("job-1", "iris", 1).metrics["loss"]) == "nan"

    def test_triton_finds_a_configuration(self, artifacts: RepositoryArtifacts, model_dir: Path) -> None:
        publish(artifacts, 1)
        config = TritonModelConfig.from_text((model_dir / "iris/config.pbtxt").read_text())
        assert (config.name, config.backend, config.shape) == ("iris", "onnxruntime", (2,))
        assert sorted(os.listdir(model_dir / "iris")) == ["1", "config.pbtxt"]

    def test_an_old_configuration_is_replaced(self, artifacts: RepositoryArtifacts, model_dir: Path) -> None:
        publish(artifacts, 1)
        config = model_dir / "iris/config.pbtxt"
        wanted = config.read_text()
        config.write_text('name: "iris"')
        publish(artifacts, 2)
        assert config.read_text() == wanted

    def test_versions_come_in_the_order_of_their_numbers(self, artifacts: RepositoryArtifacts) -> None:
        publish(artifacts, 2, 10, 1)
        publish(artifacts, 3, model="a")
        assert stored(artifacts) == [("a", 3), ("iris", 1), ("iris", 2), ("iris", 10)]

    def test_a_version_is_never_overwritten(self, artifacts: RepositoryArtifacts, model_dir: Path) -> None:
        publish(artifacts, 1)
        stage(artifacts, "job-2")
        with pytest.raises(ServiceError) as refused:
            artifacts.publish("job-2", "iris", 1)
        assert refused.value.reason is Reason.MODEL_EXISTS
        assert artifacts.verify("iris", 1).job == "job-1"

    def test_an_empty_directory_with_the_versions_number_is_not_taken(
        self, artifacts: RepositoryArtifacts, model_dir: Path
    ) -> None:
        (model_dir / "iris/1").mkdir(parents=True)
        stage(artifacts)
        with pytest.raises(ServiceError):
            artifacts.publish("job-1", "iris", 1)
        assert os.listdir(model_dir / "iris/1") == []

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"model": "rose"}, "version 1 of model 'rose'"),
            ({"version": 2}, "version 2 of model 'iris'"),
            ({"format": "fitserve-model-9"}, "format"),
            ({"version": "1"}, "version"),
            ({"train_row_count": 1.5}, "train_row_count"),
            ({"surprise": 1}, "surprise"),
            ({"create_time": "yesterday"}, "create_time"),
            ({"create_time": "2026-11-21T03:40:00"}, "create_time"),
            ({"files": {}}, "files has not one model file of the backend onnxruntime"),
            ({"files": {"../model.onnx": {"sha256": "0" * 64, "size_bytes": 1}}}, "files"),
            ({"task": "regression"}, "do not fit the task"),
            (signature(shape=[]), "neither a shape of features"),
            (signature(shape=[0]), "signature.shape.0"),
            (named(rows=True, outputs=[{"name": "y", "dtype": "FP32", "shape": [3, 1]}]), "no dimension of rows"),
            (named(outputs=[]), "neither a shape of features"),
            (named(outputs=[{"name": "y", "dtype": "FP31", "shape": [3]}]), "dtype"),
            (named(inputs=[{"name": "x", "dtype": "FP32", "shape": [1]}] * 2), "the same name"),
            (named() | {"task": "regression"}, "named tensors do not have"),
            (signature(shape=[3]), "2 columns"),
            (signature(classes=[1, 2]), "not every class"),
            (signature(classes=["a", "a"]), "the same"),
            (signature(classes=[]), "do not fit the task"),
        ],
    )
    def test_a_wrong_manifest_is_refused(
        self, artifacts: RepositoryArtifacts, model_dir: Path, changes: dict[str, object], problem: str
    ) -> None:
        stage(artifacts, changes=changes)
        self.assert_refused(artifacts, model_dir, problem)

    def test_the_manifest_of_another_job_is_refused(self, artifacts: RepositoryArtifacts, model_dir: Path) -> None:
        directory = stage(artifacts)
        (directory / "manifest.json").write_text(json.dumps(manifest(job="job-2")))
        self.assert_refused(artifacts, model_dir, "job-2")

    @pytest.mark.parametrize(
        ("damage", "problem"),
        [
            (lambda directory: (directory / "manifest.json").unlink(), "has no manifest.json"),
            (lambda directory: (directory / "manifest.json").write_text("{"), "Invalid JSON"),
            (lambda directory: (directory / "model.onnx").unlink(), "model.onnx is missing"),
            (lambda directory: (directory / "model.onnx").write_bytes(MODEL[1:]), "model.onnx has 19999 bytes"),
            (lambda directory: (directory / "model.onnx").write_bytes(MODEL[::-1]), "model.onnx has another"),
            (lambda directory: (directory / "more").touch(), "does not know more"),
        ],
    )
    def test_damaged_files_are_refused(
        self, artifacts: RepositoryArtifacts, model_dir: Path, damage: Callable[[Path], object], problem: str
    ) -> None:
        damage(stage(artifacts))
        self.assert_refused(artifacts, model_dir, problem)

    def test_a_link_is_no_file(self, artifacts: RepositoryArtifacts, model_dir: Path, tmp_path: Path) -> None:
        directory = stage(artifacts)
        (directory / "model.onnx").rename(tmp_path / "elsewhere")
        (directory / "model.onnx").symlink_to(tmp_path / "elsewhere")
        self.assert_refused(artifacts, model_dir, "model.onnx is no file")

    @staticmethod
    def assert_refused(artifacts: RepositoryArtifacts, model_dir: Path, problem: str) -> None:
        with pytest.raises(ServiceError) as refused:
            artifacts.publish("job-1", "iris", 1)
        assert refused.value.reason is Reason.ARTIFACT_DAMAGED
        assert refused.value.metadata == {"model": "iris", "version": "1"}
        assert problem in refused.value.message
        assert str(model_dir) not in refused.value.message
        assert stored(artifacts) == []


class TestStoredVersions:
    def test_a_damaged_version_is_listed_with_its_error(self, artifacts: RepositoryArtifacts, model_dir: Path) -> None:
        publish(artifacts, 1, 2)
        (model_dir / "iris/1/model.onnx").unlink()
        damaged, whole = artifacts.stored_versions()
        assert (damaged.version, damaged.manifest) == (1, None)
        assert damaged.error is not None
        assert damaged.error.reason is Reason.ARTIFACT_DAMAGED
        assert (whole.version, whole.error) == (2, None)

    def test_a_changed_file_is_found_by_verify(self, artifacts: RepositoryArtifacts, model_dir: Path) -> None:
        publish(artifacts, 1)
        (model_dir / "iris/1/model.onnx").write_bytes(MODEL[::-1])
        assert stored(artifacts) == [("iris", 1)]
        with pytest.raises(ServiceError, match=r"model\.onnx has another content") as refused:
            artifacts.verify("iris", 1)
        assert refused.value.reason is Reason.ARTIFACT_DAMAGED

    def test_a_version_that_is_not_there_is_damaged(self, artifacts: RepositoryArtifacts) -> None:
        with pytest.raises(ServiceError) as refused:
            artifacts.verify("iris", 1)
        assert refused.value.reason is Reason.ARTIFACT_DAMAGED


class TestUnreadable:
    """Directories that cannot be read, or go while they are read."""

    def test_a_directory_that_goes_meanwhile_is_damaged(self, artifacts: RepositoryArtifacts, model_dir: Path) -> None:
        publish(artifacts, 1)
        directory = VersionDirectory.read(model_dir / "iris" / "1", "iris", 1)
        shutil.rmtree(directory.path)
        for check in (directory.check_sizes, directory.check_contents):
            with pytest.raises(ServiceError, match="cannot be listed") as refused:
                check()
            assert refused.value.reason is Reason.ARTIFACT_DAMAGED

    def test_a_model_that_cannot_be_read_keeps_no_other_away(
        self, artifacts: RepositoryArtifacts, model_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        publish(artifacts, 1, model="iris")
        publish(artifacts, 2, model="wine")
        scandir = os.scandir

        def failing(path: Path) -> object:
            if Path(path) == model_dir / "iris":
                raise OSError(errno.EIO, "Input/output error")
            return scandir(path)

        monkeypatch.setattr(os, "scandir", failing)
        assert stored(artifacts) == [("wine", 2)]
        assert artifacts.clean() == ["iris"]

    def test_a_version_that_cannot_be_listed_is_damaged_and_keeps_no_other_away(
        self, artifacts: RepositoryArtifacts, model_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        publish(artifacts, 1, 2)
        scandir = os.scandir

        def failing(path: Path) -> object:
            if Path(path) == model_dir / "iris" / "1":
                raise OSError(errno.EIO, "Input/output error")
            return scandir(path)

        monkeypatch.setattr(os, "scandir", failing)
        found = artifacts.stored_versions()
        assert [version.error and version.error.reason for version in found] == [Reason.ARTIFACT_DAMAGED, None]


class TestRemove:
    def test_one_version_goes(self, artifacts: RepositoryArtifacts, model_dir: Path) -> None:
        publish(artifacts, 1, 2)
        artifacts.remove("iris", 1)
        assert stored(artifacts) == [("iris", 2)]
        assert (model_dir / "iris/config.pbtxt").exists()
        assert os.listdir(model_dir / ".fitserve/trash") == []

    def test_a_model_goes_with_its_last_version(self, artifacts: RepositoryArtifacts, model_dir: Path) -> None:
        publish(artifacts, 1)
        artifacts.remove("iris", 1)
        assert os.listdir(model_dir) == [".fitserve"]

    def test_a_model_goes_with_all_versions(self, artifacts: RepositoryArtifacts, model_dir: Path) -> None:
        publish(artifacts, 1, 2)
        artifacts.remove("iris", None)
        assert os.listdir(model_dir) == [".fitserve"]

    def test_a_damaged_version_can_be_removed(self, artifacts: RepositoryArtifacts, model_dir: Path) -> None:
        publish(artifacts, 1)
        (model_dir / "iris/1/manifest.json").unlink()
        artifacts.remove("iris", 1)
        assert stored(artifacts) == []

    def test_what_is_not_there_needs_no_removal(self, artifacts: RepositoryArtifacts) -> None:
        publish(artifacts, 1)
        artifacts.remove("iris", 2)
        artifacts.remove("rose", 1)
        artifacts.remove("rose", None)
        assert stored(artifacts) == [("iris", 1)]

    def test_no_name_becomes_a_path(self, artifacts: RepositoryArtifacts) -> None:
        for name in ("..", "../x", "a/b", ".fitserve", ""):
            with pytest.raises(ValueError, match="no name"):
                artifacts.remove(name, None)
            with pytest.raises(ValueError, match="no name"):
                artifacts.discard(name)


class TestJobs:
    def test_a_job_has_a_directory_and_a_place_to_write(self, artifacts: RepositoryArtifacts) -> None:
        directory = artifacts.job_directory("job-1")
        assert directory.is_dir()
        assert artifacts.job_directory("job-1") == directory
        staged = artifacts.staging_directory("job-1")
        assert not staged.exists()
        assert staged.parent.is_dir()

    def test_a_discarded_job_leaves_nothing(self, artifacts: RepositoryArtifacts) -> None:
        directory, staged = artifacts.job_directory("job-1"), stage(artifacts)
        (directory / "spec.pb").touch()
        artifacts.discard("job-1")
        artifacts.discard("job-1")
        assert not directory.exists()
        assert not staged.exists()


class TestClean:
    def test_leftovers_go_and_versions_stay(self, artifacts: RepositoryArtifacts, model_dir: Path) -> None:
        publish(artifacts, 1)
        staged, job = stage(artifacts, "job-2"), artifacts.job_directory("job-3")
        (model_dir / ".fitserve/trash/old/deep").mkdir(parents=True)
        (model_dir / "rose").mkdir()
        (model_dir / "rose/config.pbtxt").touch()
        (model_dir / "wine").mkdir()
        assert artifacts.clean() == []
        assert stored(artifacts) == [("iris", 1)]
        assert not staged.exists()
        assert not job.exists()
        assert os.listdir(model_dir / ".fitserve/trash") == []
        assert sorted(os.listdir(model_dir)) == [".fitserve", "iris"]

    def test_the_unknown_is_named_and_stays(self, artifacts: RepositoryArtifacts, model_dir: Path) -> None:
        publish(artifacts, 1)
        for name in ("Notes", "iris/backup", "rose/drafts"):
            (model_dir / name).mkdir(parents=True)
        (model_dir / "README.md").touch()
        assert artifacts.clean() == ["Notes", "iris/backup", "rose"]
        assert (model_dir / "rose/drafts").is_dir()

    def test_shared_datasets_stay(self, artifacts: RepositoryArtifacts, model_dir: Path) -> None:
        (model_dir / ".fitserve/datasets/00").mkdir()
        artifacts.clean()
        assert (model_dir / ".fitserve/datasets/00").is_dir()


class TestLinkedVersions:
    """Versions that Triton has to find under names of their own, since they need a configuration of their own."""

    def publish_fil(self, artifacts: RepositoryArtifacts, version: int) -> None:
        staged = stage(artifacts, f"job-{version}", {"version": version})
        os.rename(staged / "model.onnx", staged / "model.txt")
        said = json.loads((staged / "manifest.json").read_text())
        said |= {"backend": "fil", "files": {"model.txt": said["files"]["model.onnx"]}}
        (staged / "manifest.json").write_text(json.dumps(said))
        artifacts.publish(f"job-{version}", "iris", version)

    def test_a_version_with_a_configuration_of_its_own_is_linked_when_it_is_verified(
        self, artifacts: RepositoryArtifacts, model_dir: Path
    ) -> None:
        publish(artifacts, 1)
        self.publish_fil(artifacts, 2)
        assert not (model_dir / "iris.v2").exists()
        for _ in range(2):
            artifacts.verify("iris", 1)
            artifacts.verify("iris", 2)
        assert sorted(os.listdir(model_dir)) == [".fitserve", "iris", "iris.v2"]
        assert os.readlink(model_dir / "iris.v2/2") == "../iris/2"
        assert (model_dir / "iris.v2/2/model.txt").read_bytes() == MODEL
        config = TritonModelConfig.from_text((model_dir / "iris.v2/config.pbtxt").read_text())
        assert (config.name, config.backend, config.file) == ("iris.v2", "fil", "model.txt")
        assert stored(artifacts) == [("iris", 1), ("iris", 2)]
        assert artifacts.clean() == []
        assert (model_dir / "iris.v2/2").is_symlink()

    @pytest.mark.parametrize("version", [2, None])
    def test_the_link_goes_with_its_version(
        self, artifacts: RepositoryArtifacts, model_dir: Path, version: int | None
    ) -> None:
        publish(artifacts, 1)
        self.publish_fil(artifacts, 2)
        artifacts.verify("iris", 2)
        artifacts.remove("iris", version)
        assert sorted(os.listdir(model_dir)) == [".fitserve", *(["iris"] if version else [])]

    def test_a_link_whose_version_is_gone_is_cleaned_away_and_what_others_wrote_stays(
        self, artifacts: RepositoryArtifacts, model_dir: Path
    ) -> None:
        self.publish_fil(artifacts, 1)
        artifacts.verify("iris", 1)
        shutil.rmtree(model_dir / "iris")
        (model_dir / "rose.v1/1").mkdir(parents=True)
        assert artifacts.clean() == ["rose.v1"]
        assert sorted(os.listdir(model_dir)) == [".fitserve", "rose.v1"]


class TestLock:
    def test_a_second_service_on_the_same_directory_is_refused(
        self, artifacts: RepositoryArtifacts, model_dir: Path
    ) -> None:
        with pytest.raises(RepositoryInUse, match=rf"process {os.getpid()}\).*MODEL_DIR"):
            RepositoryArtifacts(model_dir)

    def test_the_directory_is_free_after_close(self, model_dir: Path) -> None:
        for _ in range(2):
            RepositoryArtifacts(model_dir).close()


class Crash(BaseException):
    """The process has died: no code of it runs any more that would matter."""


class FailingDisk:
    """Makes one change of files fail: the n-th, before or after it takes effect."""

    CHANGES = ("open", "fsync", "rename", "replace", "mkdir", "unlink", "rmdir")

    def __init__(self, patch: pytest.MonkeyPatch, failing: int, error: BaseException, after: bool) -> None:
        self.changes = 0
        for name in self.CHANGES:
            patch.setattr(os, name, self._wrapped(getattr(os, name), failing, error, after))

    def _wrapped(
        self, call: Callable[..., object], failing: int, error: BaseException, after: bool
    ) -> Callable[..., object]:
        def wrapper(*args: object, **options: object) -> object:
            self.changes += 1
            fails = self.changes == failing
            if fails and not after:
                raise error
            try:
                return call(*args, **options)
            finally:
                if fails:
                    raise error

        return wrapper


Operation = Callable[[RepositoryArtifacts], object]


def each_failure(
    tmp_path: Path, prepare: Operation, operation: Operation, error: BaseException, after: bool = False
) -> Iterator[tuple[RepositoryArtifacts, BaseException | None]]:
    """Fails each change of an operation in turn, in a repository with version 1 of `iris`, and once none.

    Yields:
        The repository, and what the operation raised.
    """
    for failing in itertools.count(1):
        artifacts = RepositoryArtifacts(tmp_path / str(failing))
        publish(artifacts, 1)
        prepare(artifacts)
        raised: BaseException | None = None
        with pytest.MonkeyPatch.context() as patch:
            disk = FailingDisk(patch, failing, error, after)
            try:
                operation(artifacts)
            except (Crash, ServiceError, OSError) as caught:
                raised = caught
        yield artifacts, raised
        artifacts.close()
        if disk.changes < failing:
            return


def reopened(model_dir: Path) -> tuple[tuple[str, int], ...]:
    """Starts the service again on a directory; returns the versions, which are whole."""
    artifacts = RepositoryArtifacts(model_dir)
    before = stored(artifacts)
    assert artifacts.clean() == []
    after = stored(artifacts)
    assert before == after
    for model, version in after:
        artifacts.verify(model, version)
        assert (model_dir / model / "config.pbtxt").read_text().startswith(f'name: "{model}"')
    assert set(os.listdir(model_dir)) == {".fitserve", *(model for model, _ in after)}
    assert os.listdir(model_dir / ".fitserve/staging") == []
    assert os.listdir(model_dir / ".fitserve/trash") == []
    artifacts.close()
    return tuple(after)


class TestCrash:
    """The service dies at any step of a change, and starts again on the same directory."""

    @pytest.mark.parametrize("model", ["iris", "rose"])
    @pytest.mark.parametrize("after", [False, True])
    def test_a_version_that_was_being_published_is_whole_or_not_there(
        self, tmp_path: Path, model: str, after: bool
    ) -> None:
        outcomes = self.outcomes(
            tmp_path,
            lambda artifacts: stage(artifacts, "job-2", {"model": model, "version": 2}),
            lambda artifacts: artifacts.publish("job-2", model, 2),
            after,
        )
        assert outcomes == {(("iris", 1),), (("iris", 1), (model, 2))}

    @pytest.mark.parametrize("version", [None, 1])
    @pytest.mark.parametrize("after", [False, True])
    def test_a_model_that_was_being_removed_is_whole_or_not_there(
        self, tmp_path: Path, version: int | None, after: bool
    ) -> None:
        outcomes = self.outcomes(
            tmp_path,
            lambda artifacts: None,
            lambda artifacts: artifacts.remove("iris", version),
            after,
        )
        assert outcomes <= {(("iris", 1),), ()}
        assert () in outcomes

    def test_a_version_that_was_being_removed_is_whole_or_not_there(self, tmp_path: Path) -> None:
        outcomes = self.outcomes(
            tmp_path,
            lambda artifacts: publish(artifacts, 2),
            lambda artifacts: artifacts.remove("iris", 2),
            after=False,
        )
        assert outcomes == {(("iris", 1),), (("iris", 1), ("iris", 2))}

    @staticmethod
    def outcomes(
        tmp_path: Path, prepare: Operation, operation: Operation, after: bool
    ) -> set[tuple[tuple[str, int], ...]]:
        """What is stored after a restart, for all the steps at which the process can die."""
        failures = [raised for _, raised in each_failure(tmp_path, prepare, operation, Crash(), after)]
        assert all(isinstance(raised, Crash) for raised in failures[:-1])
        assert failures[-1] is None
        return {reopened(model_dir) for model_dir in tmp_path.iterdir()}


class TestFullDisk:
    """There is no room left at any step of a change; the service goes on."""

    FULL = OSError(errno.ENOSPC, "No space left on device")

    def test_it_is_said_and_the_version_is_published_when_there_is_room_again(self, tmp_path: Path) -> None:
        failures = each_failure(
            tmp_path,
            lambda artifacts: stage(artifacts, "job-2", {"version": 2}),
            lambda artifacts: artifacts.publish("job-2", "iris", 2),
            self.FULL,
        )
        reasons = []
        for artifacts, raised in failures:
            if isinstance(raised, ServiceError):
                reasons.append(raised.reason)
                assert stored(artifacts) == [("iris", 1)]
                artifacts.publish("job-2", "iris", 2)
            assert stored(artifacts) == [("iris", 1), ("iris", 2)]
        assert len(reasons) > 5
        assert set(reasons) == {Reason.DISK_FULL}

    def test_a_removal_can_be_repeated(self, tmp_path: Path) -> None:
        failures = each_failure(
            tmp_path, lambda artifacts: None, lambda artifacts: artifacts.remove("iris", 1), self.FULL
        )
        for artifacts, raised in failures:
            if raised is not None:
                assert isinstance(raised, ServiceError)
                assert raised.reason is Reason.DISK_FULL
                artifacts.remove("iris", 1)
            assert stored(artifacts) == []
            artifacts.clean()
