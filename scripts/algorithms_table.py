"""Writes docs/algorithms.md: trains every algorithm on real data, and measures the exported models beside the libraries.

`make algorithms` runs it. A test trains the same models, and holds the page to what it finds, but for the times.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fitserve.v1 import options_pb2, training_service_pb2
from google.protobuf import json_format
from sklearn import datasets

from training import algorithms, limits, parity
from training.algorithms.base import Problem
from training.data import Floats, Rows, split
from training.export import graph, sessions
from training.progress import Progress
from training.spec import Json, Task

PAGE = Path(__file__).parents[1] / "docs" / "algorithms.md"
OPTIONS = {field.name: field for field in training_service_pb2.FitRequest.DESCRIPTOR.oneofs_by_name["algorithm"].fields}
TASKS: tuple[Task, ...] = ("classification", "regression")
HEADERS = (
    "algorithm",
    "classes",
    "regression",
    "missing values",
    "categories",
    "weights",
    "backend",
    "largest difference",
    "µs a row, of one",
    "µs a row, of 1000",
)

# Where the defaults would train for long.
_PARAMETERS: Mapping[str, Mapping[str, Json]] = {"catboost": {"iterations": 100}, "torch_mlp": {"epochs": 10}}
_INTRODUCTION = """# The algorithms

What each algorithm takes, the Triton backend that serves it, and how far the served file is from the library: the largest
difference of a probability, or of a value as a share of the largest value, over held-out rows of scikit-learn's digits (ten
classes, 64 columns) and diabetes (10 columns), some values missing where the algorithm takes that.
Categories of named columns are split as such, or become indicators in the model. The times are those of
onnxruntime on one thread, for rows that come alone and for a thousand at once, of the larger of the two models; a call costs
more. The hyper-parameters are the defaults, with 100 rounds of CatBoost and 10 epochs of `torch_mlp`.

`make algorithms` measures it again and writes this page.
"""


@dataclass(frozen=True)
class Finding:
    """What was found out about an algorithm and a task.

    Attributes:
        difference: The largest difference, for regression as a share of the largest value.
        alone: Microseconds for one row.
        together: Microseconds a row of a thousand.
    """

    difference: float
    alone: float
    together: float


def traits_of(name: str) -> options_pb2.AlgorithmTraits:
    """Returns what the contract says of an algorithm."""
    message = OPTIONS[name].message_type
    assert message is not None
    return message.GetOptions().Extensions[options_pb2.traits]


def tasks_of(name: str) -> Iterator[Task]:
    """Yields what an algorithm can learn."""
    traits = traits_of(name)
    yield from (task for task in TASKS if getattr(traits, task))


def find_out(name: str, task: Task) -> Finding:
    """Trains an algorithm and measures the exported model.

    Raises:
        FitError: EXPORT_NOT_EQUAL; it predicts something else than the library.
    """
    traits = traits_of(name)
    rows = _rows(task, traits.images, traits.missing_values)
    train, held_out = split(rows, task == "classification", 0.2, 0)
    classes = len(np.unique(rows.targets)) if task == "classification" else 0
    request = json_format.ParseDict({name: dict(_PARAMETERS.get(name, {}))}, training_service_pb2.FitRequest())
    algorithm = algorithms.build(
        name, getattr(request, name), Problem(task, rows.features.shape[1:], classes, seed=0, cores=1)
    )
    with open(os.devnull, "w") as nowhere:
        algorithm.fit(train, held_out, Progress(nowhere.fileno()))
    model = graph.serialize(algorithm.export(), name)
    expected = parity.expect(algorithm, task, held_out.features, traits.missing_values, seed=0)
    proof = expected.compare(sessions.onnx_scores(model, expected.rows))
    thousand = np.resize(held_out.features, (1000, *rows.features.shape[1:]))
    return Finding(
        difference=proof.max_difference * parity.TOLERANCE / proof.tolerance,
        alone=_microseconds(model, thousand[:1]),
        together=_microseconds(model, thousand) / 1000,
    )


def cells_of(name: str) -> dict[str, str]:
    """Returns the cells of an algorithm's line that follow from the contract."""
    traits = traits_of(name)
    return {
        "algorithm": f"`{name}`",
        "classes": "yes" if traits.classification else "",
        "regression": "yes" if traits.regression else "",
        "missing values": "yes" if traits.missing_values else "",
        "categories": "" if traits.images else "as such" if traits.native_categories else "as indicators",
        "weights": "yes" if traits.sample_weights else "",
        "backend": "onnxruntime",
    }


def lines_of(page: str) -> list[dict[str, str]]:
    """Returns the lines of the table on a page, as cells by header."""
    rows = [line.strip("|\n ").split("|") for line in page.splitlines() if line.startswith("|")]
    header, _, *rest = [[cell.strip() for cell in row] for row in rows]
    return [dict(zip(header, row, strict=True)) for row in rest]


def main() -> int:
    """Measures everything and writes the page."""
    lines = ["| " + " | ".join(HEADERS) + " |", "|" + "---|" * len(HEADERS)]
    for name in OPTIONS:
        print(name, file=sys.stderr)
        findings = [find_out(name, task) for task in tasks_of(name)]
        cells = cells_of(name) | {
            "largest difference": f"{max(finding.difference for finding in findings):.0e}",
            "µs a row, of one": f"{max(finding.alone for finding in findings):.0f}",
            "µs a row, of 1000": f"{max(finding.together for finding in findings):.2g}",
        }
        lines.append("| " + " | ".join(cells[header] for header in HEADERS) + " |")
    PAGE.write_text(f"{_INTRODUCTION}\n" + "\n".join(lines) + "\n")
    return 0


def _rows(task: Task, images: bool, missing: bool) -> Rows:
    """Returns real rows, 5 % of their values missing if asked for."""
    data = datasets.load_digits() if task == "classification" or images else datasets.load_diabetes()
    features: Floats = data.data.astype(np.float32)
    if missing:
        features[np.random.default_rng(0).random(features.shape) < 0.05] = np.nan
    if images:
        features = features.reshape(-1, 1, 8, 8)
    return Rows(features, data.target if task == "classification" else data.target.astype(np.float64))


def _microseconds(model: bytes, rows: Floats) -> float:
    """Returns the time of a prediction of all rows, the best of several."""
    session = sessions.session_of(model)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        session.run([graph.SCORES], {graph.FEATURES: rows})
        times.append(time.perf_counter() - start)
    return min(times) * 1e6


if __name__ == "__main__":
    limits.prepare_environment()
    sys.exit(main())
