"""What a process leaves behind that is killed, which no clean-up of its own can help."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LinearRegression

from tests.unit.training.cases import make_spec, write_spec, write_tensor_dataset
from tests.unit.training.importing import write_import

_WORK = """
import sys, time
from pathlib import Path
from training import parity
from training.{module} import execute

def compare(*_):
    print("proving", flush=True)
    time.sleep(60)

parity.Expectation.compare = compare
execute(Path(sys.argv[1]), 2)
"""


def fit(directory: Path) -> Path:
    features, targets = load_iris(return_X_y=True)
    data = write_tensor_dataset(directory / "data", features.astype(np.float32), "integer", targets.tolist())
    return write_spec(directory / "spec.pb", make_spec(data, directory / "version", "logistic_regression"))


def an_import(directory: Path) -> Path:
    import skops.io

    return write_import(directory, "skops", skops.io.dumps(LinearRegression().fit(np.eye(3), [1.0, 2.0, 3.0])))


@pytest.mark.parametrize(("module", "write"), [("run", fit), ("importing.run", an_import)], ids=["fit", "import"])
def test_a_process_killed_while_it_proves_leaves_nothing_outside_of_its_directory(
    tmp_path: Path, module: str, write: Callable[[Path], Path]
) -> None:
    shared, private = tmp_path / "shared", tmp_path / "private"
    shared.mkdir()
    private.mkdir()
    spec = write(private)
    before = set(private.rglob("*"))
    work = subprocess.Popen(
        [sys.executable, "-c", _WORK.format(module=module), str(spec)],
        env=os.environ | {"TMPDIR": str(shared)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert work.stdout is not None
        assert work.stdout.readline() == "proving\n"
    finally:
        work.kill()
        work.communicate()
    assert list(shared.iterdir()) == []
    assert set(private.rglob("*")) - before  # the model that was being proved
