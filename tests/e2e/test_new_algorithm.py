"""A newcomer adds an algorithm as ARCHITECTURE.md says: one message, one field, one file, `make generate`; it is served."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.service_process import ServiceProcess

ROOT = Path(__file__).parents[2]
NEEDED = ("protos", "clients/python", "service", "training", "scripts", "third_party", "triton_runtime")

MESSAGE = """
// NearestMean configures scikit-learn's NearestCentroid, which finds the label whose mean is nearest.
message NearestMean {
  option (fitserve.v1.traits) = {classification: true};

  // How far means are moved towards the mean of all rows. The default is 0.
  optional double shrink_threshold = 1 [(fitserve.v1.bounds) = {
    min: 0
    max: 100
  }];
}
"""
FIELD = """    // The nearest mean.
    NearestMean nearest_mean = 99;
"""
FAMILY = '''"""The nearest mean of scikit-learn."""

import numpy as np
from onnx import helper
from sklearn.neighbors import NearestCentroid

from training.export import graph, products
from training.spec import effective_parameters


class Family:
    DEFAULTS = {"shrink_threshold": 0.0}
    LIBRARIES = ("scikit-learn",)

    def __init__(self, hyper_parameters, problem):
        self.parameters = effective_parameters(hyper_parameters, self.DEFAULTS)
        self._problem = problem
        self._model = NearestCentroid(shrink_threshold=self.parameters["shrink_threshold"] or None)

    def fit(self, train, validation, progress):
        self._model.fit(train.features.astype(np.float64), train.targets)
        progress.step(1, 1, "iteration")

    def predict(self, features):
        distances = ((features.astype(np.float64)[:, None] - self._model.centroids_) ** 2).sum(axis=2)
        shares = np.exp(distances.min(axis=1, keepdims=True) - distances)
        return shares / shares.sum(axis=1, keepdims=True)

    def export(self):
        means, constants = self._model.centroids_, {}
        nodes = [
            *products.doubles(),
            *products.affine("doubles", 2.0 * means, -(means**2).sum(axis=1), "nearness", constants),
            *products.probabilities("nearness"),
        ]
        return graph.model(nodes, constants, self._problem.feature_shape, self._problem.class_count)
'''
CALLER = """
import sys
import fitserve
from sklearn.datasets import load_iris

iris = load_iris()
species = iris.target_names[iris.target]
with fitserve.Client(sys.argv[1]) as client:
    job = client.fit("means", iris.data, species, algorithm="nearest_mean", shrink_threshold=0.5, load=True).wait(60)
    assert job.metrics["accuracy"] > 0.8, job.metrics
    assert client.predict("means", iris.data[:2]).tolist() == ["setosa"] * 2
    assert client.model("means").versions[0].parameters == {"shrink_threshold": 0.5}
    try:
        client.fit("wrong", iris.data, species, algorithm="nearest_mean", shrink_threshold=101)
    except fitserve.FitServeError as error:
        print(error.message)
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Returns a copy of the repository's code, in which nothing of another algorithm is changed."""
    root = tmp_path / "fitserve"
    root.mkdir()
    for name in NEEDED:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("buf.yaml", "buf.gen.yaml"):
        shutil.copy(ROOT / name, root)
    return root


def test_an_algorithm_is_a_message_a_field_and_a_file(tree: Path) -> None:
    contract = tree / "protos/fitserve/v1"
    with (contract / "algorithm.proto").open("a") as file:
        file.write(MESSAGE)
    request = contract / "training_service.proto"
    request.write_text(request.read_text().replace("  oneof algorithm {\n", f"  oneof algorithm {{\n{FIELD}", 1))
    (tree / "training/algorithms/nearest_mean_family.py").write_text(FAMILY)
    environment = os.environ | {
        "PYTHONPATH": f"{tree}:{tree / 'clients/python'}",
        # Without a Go, so that nothing is generated for the gateway, which is not here.
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
    }
    subprocess.run([sys.executable, "scripts/stubs.py"], cwd=tree, env=environment, check=True)

    settings = {"PYTHONPATH": environment["PYTHONPATH"], "TRITON_PYTHON": str(ROOT / ".venv-triton/bin/python")}
    service = ServiceProcess(tree.parent / "service", **settings)
    try:
        called = subprocess.run(
            [sys.executable, "-c", CALLER, service.address], cwd=tree, env=environment, capture_output=True, text=True
        )
        assert called.returncode == 0, called.stderr
        assert "nearest_mean.shrink_threshold: 101" in called.stdout
    finally:
        service.stop()
