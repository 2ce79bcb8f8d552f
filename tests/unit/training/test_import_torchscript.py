from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from fitserve.v1 import model_pb2, training_job_pb2

from predictors.torch_model import TorchModel
from tests.unit.training.importing import import_file, labels
from training.errors import FitError

THREE = model_pb2.Signature(shape=[4], classes=labels("a", "b", "c"))
VALUE = model_pb2.Signature(shape=[4], task=training_job_pb2.TASK_REGRESSION)


class Constant(torch.nn.Module):
    """Gives the same values whatever comes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ones(5, 3)


class Nested(torch.nn.Module):
    """Gives two tensors."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x


def saved(module: torch.nn.Module) -> bytes:
    content = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.script(module), content)
    return content.getvalue()


def net(*sizes: int) -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, *sizes), torch.nn.Softmax(1)
    ).eval()


def test_what_is_served_predicts_what_torch_predicts(tmp_path: Path) -> None:
    module = net(3)
    version = import_file(tmp_path, "torchscript", saved(module), THREE)
    assert (version.manifest["backend"], list(version.manifest["files"])) == ("pytorch", ["model.pt"])
    assert version.manifest["signature"]["classes"] == ["a", "b", "c"]
    assert version.manifest["parity"]["row_count"] == 1000
    rows = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
    (tmp_path / "model.pt").write_bytes(version.model)
    expected = module(torch.from_numpy(rows)).detach().numpy()
    np.testing.assert_allclose(TorchModel(tmp_path / "model.pt").scores(rows), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("signature", "field"),
    [
        (None, "task"),
        (model_pb2.Signature(task=training_job_pb2.TASK_REGRESSION), "shape"),
        (model_pb2.Signature(shape=[4], task=training_job_pb2.TASK_CLASSIFICATION), "classes"),
        (model_pb2.Signature(shape=[4], classes=labels("a", "b")), "classes"),
    ],
)
def test_what_torchscript_does_not_say_is_asked_for(
    tmp_path: Path, signature: model_pb2.Signature | None, field: str
) -> None:
    with pytest.raises(FitError) as refused:
        import_file(tmp_path, "torchscript", saved(net(3)), signature)
    assert refused.value.field == f"description.signature.{field}"


@pytest.mark.parametrize(
    ("module", "signature", "word"),
    [
        (net(3), model_pb2.Signature(shape=[5], classes=labels("a", "b", "c")), "damaged"),
        (net(3), VALUE, "3 values"),
        (net(1), model_pb2.Signature(shape=[4], classes=labels("a", "b")), "one score"),
        (Constant(), THREE, "shape"),
        (Nested(), THREE, "damaged"),
    ],
    ids=["another shape", "many values", "one score", "always five rows", "two tensors"],
)
def test_what_is_not_served_is_named(
    tmp_path: Path, module: torch.nn.Module, signature: model_pb2.Signature, word: str
) -> None:
    with pytest.raises(FitError, match=word) as refused:
        import_file(tmp_path, "torchscript", saved(module), signature)
    assert (refused.value.reason, refused.value.field) == ("INVALID_FIELD", "content")


def test_a_model_in_which_rows_change_each_other_is_not_kept(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.BatchNorm1d(4, track_running_stats=False), torch.nn.Linear(4, 1))
    with pytest.raises(FitError, match="eval") as refused:
        import_file(tmp_path, "torchscript", saved(module), VALUE)
    assert refused.value.reason == "EXPORT_NOT_EQUAL"
    assert not (tmp_path / "version").exists()


class Maps(torch.nn.Module):
    """Overwrites a file when it predicts."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mapped = torch.from_file(self.file, True, 4, dtype=torch.uint8).fill_(72)
        return x[:, :1] + 0.0 * mapped.sum()


class Restores(torch.nn.Module):
    """Overwrites a file when it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.zeros(1)
        self.training = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :1]

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, bool]:
        return (self.weight, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
        self.weight = state[0] + 1
        self.training = state[1]


class Quantizes(torch.nn.Module):
    """Calls an operation that is not torch's own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.ops.profiler._record_function_enter("name", None)
        return x[:, :1]


@pytest.mark.parametrize("spelled", ["torch.from_file(", 'getattr(torch, "from\\x5ffile")('], ids=["plainly", "hidden"])
def test_a_model_that_touches_files_is_never_run(tmp_path: Path, spelled: str) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"xxxx")
    files = parts(saved(Maps(str(victim))))
    code = next(name for name in files if name.endswith(".py"))
    assert b"torch.from_file(" in files[code]
    files[code] = files[code].replace(b"torch.from_file(", spelled.encode())
    with pytest.raises(FitError, match="never loaded") as refused:
        import_file(tmp_path, "torchscript", packed(files), VALUE)
    assert (refused.value.reason, refused.value.field) == ("INVALID_FIELD", "content")
    assert victim.read_bytes() == b"xxxx"


@pytest.mark.parametrize(("module", "word"), [(Restores(), "__setstate__"), (Quantizes(), "ops")], ids=["read", "ops"])
def test_a_model_that_runs_while_it_is_read_or_calls_others_is_named(
    tmp_path: Path, module: torch.nn.Module, word: str
) -> None:
    with pytest.raises(FitError, match=f"`{word}`"):
        import_file(tmp_path, "torchscript", saved(module), VALUE)


def test_models_as_torch_saves_them_are_let_through(tmp_path: Path) -> None:
    class_of = torch.nn.Sequential
    module = class_of(
        torch.nn.Unflatten(1, (1, 2, 2)),
        torch.nn.Conv2d(1, 4, 1),
        torch.nn.BatchNorm2d(4),
        torch.nn.GELU(),
        torch.nn.Flatten(2),
        torch.nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True),
        torch.nn.Flatten(),
        torch.nn.Linear(16, 1),
    ).eval()
    assert import_file(tmp_path, "torchscript", saved(module), VALUE).manifest["backend"] == "pytorch"


def parts(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, part in files.items():
            archive.writestr(name, part)
    return content.getvalue()


def test_a_pickle_and_other_files_are_refused(tmp_path: Path) -> None:
    whole = saved(net(3))
    pickled = b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R."
    files = parts(whole)
    hostile = {name: pickled if name.endswith(".pkl") else part for name, part in files.items()}
    weights = io.BytesIO()
    torch.save(net(3).state_dict(), weights)
    others = [pickled, b"PK\x03\x04", bytes(1000), packed(hostile), packed({"a": b""}), weights.getvalue()]
    for content in (*others, *(whole[: int(len(whole) * share)] for share in (0.1, 0.5, 0.99))):
        with pytest.raises(FitError) as refused:
            import_file(tmp_path, "torchscript", content, THREE)
        assert (refused.value.reason, refused.value.field) == ("INVALID_FIELD", "content")
    assert not (tmp_path / "version").exists()
