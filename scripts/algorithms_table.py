"""Writes docs/algorithms.md: trains every algorithm on real data, and measures the exported models beside the libraries.

`make algorithms` runs it. A test trains the same models, and holds the page to what it finds, but for the times.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from fitserve.v1 import options_pb2, training_service_pb2
from google.protobuf import json_format
from palmerpenguins import load_penguins
from sklearn import datasets

from predictors import native
from predictors.forest import Forest, Options
from training import algorithms, encoding, limits, parity, texts
from training.algorithms.base import Problem
from training.data import FeatureColumn, Floats, Rows, Schema, split
from training.export import graph, ladder, sessions
from training.progress import Progress
from training.spec import Json, Task

PAGE = Path(__file__).parents[1] / "docs" / "algorithms.md"
OPTIONS = {field.name: field for field in training_service_pb2.FitRequest.DESCRIPTOR.oneofs_by_name["algorithm"].fields}
TASKS: tuple[Task, ...] = ("classification", "regression")
Data: TypeAlias = Literal["numbers", "categories", "texts", "numbers, prefer_gpu"]
HEADERS = ("algorithm", "classes", "regression", "several targets", "missing values", "categories", "texts", "weights")
FINDINGS = ("algorithm", "task", "columns", "backend", "largest difference", "µs a row, of one", "µs a row, of 1000")

_TREES = ("random_forest", "extra_trees", "hist_gradient_boosting", "xgboost", "lightgbm", "catboost")
# Where the defaults would train for long.
_PARAMETERS: Mapping[str, Mapping[str, Json]] = {"catboost": {"iterations": 100}, "torch_mlp": {"epochs": 10}}
_INTRODUCTION = """# The algorithms

What each algorithm takes. Categories of named columns are split as such, or become indicators in the model.
"""
_SECOND_PART = """## What serves them

The backend of Triton that the export ladder chooses, and how far the served file is from the library: the largest
difference of a probability, or of a value as a share of the largest value, over held-out rows. `numbers` are scikit-learn's
digits (ten classes, 64 columns) and diabetes (10 columns), some values missing where the algorithm takes that; `categories`
are penguins: the species or the weight, by five or four numbers and two categories, with gaps; `texts` are the lines of
scikit-learn's descriptions of its data: which of six it is of, or its place in it, by the line and its length; `prefer_gpu`
asks for what a GPU computes. The first backend whose file is proved equal is chosen:

1. `onnxruntime`, a graph in ONNX; with `prefer_gpu` after `fil`.
2. `fil`, all trees as a checkpoint of treelite in 32-bit floats, if no category is split or encoded. NVIDIA's image has FIL,
   which computes it on a GPU if there is one; the embedded Triton computes it with treelite.
3. `fitserve_native`, the library's own safe file: `model.cbm` of CatBoost.

The times are those of the backend's library on one thread, for rows that come alone and for a thousand at once; a call costs
more. The hyper-parameters are the defaults, with 100 rounds of CatBoost and 10 epochs of `torch_mlp`.

`make algorithms` measures it again and writes this page.
"""


@dataclass(frozen=True)
class Finding:
    """What was found out about an algorithm, a task and its data.

    Attributes:
        backend: The backend that was chosen.
        difference: The largest difference, for regression as a share of the largest value.
        alone: Microseconds for one row.
        together: Microseconds a row of a thousand.
    """

    backend: str
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


def data_of(name: str) -> Iterator[Data]:
    """Yields what an algorithm is tried on."""
    traits = traits_of(name)
    yield "numbers"
    if not traits.images:
        yield "categories"
    if traits.texts:
        yield "texts"
    if name in _TREES:
        yield "numbers, prefer_gpu"


def find_out(name: str, task: Task, data: Data) -> Finding:
    """Trains an algorithm and measures the exported model.

    Raises:
        FitError: EXPORT_NOT_EQUAL; no form of it predicts what the library does.
    """
    limits.set_threads(1)
    traits = traits_of(name)
    rows, schema = _rows(task, data, traits)
    train, held_out = split(rows, task == "classification", 0.2, 0)
    schema = encoding.learn_columns(schema, train, held_out, "")
    encoder = encoding.Encoder.of(schema, traits, train)
    classes = len(np.unique(rows.targets)) if task == "classification" else 0
    text_columns = texts.text_columns(schema.columns)
    problem = Problem(
        task, encoder.shape(train), classes, seed=0, cores=1, categories=encoder.categories, texts=text_columns
    )
    request = json_format.ParseDict({name: dict(_PARAMETERS.get(name, {}))}, training_service_pb2.FitRequest())
    learner = encoder.wrap(algorithms.build(name, getattr(request, name), problem))
    with open(os.devnull, "w") as nowhere:
        learner.fit(train, held_out, Progress(nowhere.fileno()))
    expected = parity.expect(learner, task, held_out.features, schema.missing_values, 0, schema.category_places)
    exported = ladder.climb(learner, problem, name, expected, prefer_gpu=data == "numbers, prefer_gpu")
    thousand = np.resize(held_out.features, (1000, *rows.features.shape[1:]))
    compute = _computer(exported, problem)
    return Finding(
        backend=exported.backend,
        difference=exported.proof.max_difference * parity.TOLERANCE / exported.proof.tolerance,
        alone=_microseconds(compute, thousand[:1]),
        together=_microseconds(compute, thousand) / 1000,
    )


def cells_of(name: str) -> dict[str, str]:
    """Returns the cells of an algorithm's line that follow from the contract."""
    traits = traits_of(name)
    return {
        "algorithm": f"`{name}`",
        "classes": "yes" if traits.classification else "",
        "regression": "yes" if traits.regression else "",
        "several targets": "yes" if traits.multiple_targets else "",
        "missing values": "yes" if traits.missing_values else "",
        "texts": "yes" if traits.texts else "",
        "categories": "" if traits.images else "as such" if traits.native_categories else "as indicators",
        "weights": "yes" if traits.sample_weights else "",
    }


def lines_of(page: str, headers: tuple[str, ...]) -> list[dict[str, str]]:
    """Returns the lines of the table with these headers on a page, as cells by header."""
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in page.splitlines()]
    start = rows.index(list(headers)) + 2
    end = next((place for place, row in enumerate(rows) if place > start and len(row) != len(headers)), len(rows))
    return [dict(zip(headers, row, strict=True)) for row in rows[start:end]]


def main() -> int:
    """Measures everything and writes the page."""
    findings = []
    for name in OPTIONS:
        print(name, file=sys.stderr)
        findings += [
            {
                "algorithm": f"`{name}`",
                "task": task,
                "columns": data,
                "backend": found.backend,
                "largest difference": f"{found.difference:.0e}",
                "µs a row, of one": f"{found.alone:.0f}",
                "µs a row, of 1000": f"{found.together:.2g}" if found.together < 100 else f"{found.together:.0f}",
            }
            for task in tasks_of(name)
            for data in data_of(name)
            for found in [find_out(name, task, data)]
        ]
    parts = (
        _INTRODUCTION,
        _table(HEADERS, [cells_of(name) for name in OPTIONS]),
        _SECOND_PART,
        _table(FINDINGS, findings),
    )
    PAGE.write_text("\n".join(parts))
    return 0


def _table(headers: tuple[str, ...], lines: list[dict[str, str]]) -> str:
    rows = [headers, ["---"] * len(headers), *([line[header] for header in headers] for line in lines)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows).replace("| --- ", "|---").replace("--- |", "---|")


def _rows(task: Task, data: Data, traits: options_pb2.AlgorithmTraits) -> tuple[Rows, Schema]:
    if data == "categories":
        return _penguins(task)
    return _lines(task) if data == "texts" else _numbers(task, traits.images, traits.missing_values)


def _numbers(task: Task, images: bool, missing: bool) -> tuple[Rows, Schema]:
    """Returns real rows, 5 % of their values missing if asked for."""
    data = datasets.load_digits() if task == "classification" or images else datasets.load_diabetes()
    features: Floats = data.data.astype(np.float32)
    if missing:
        features[np.random.default_rng(0).random(features.shape) < 0.05] = np.nan
    if images:
        features = features.reshape(-1, 1, 8, 8)
    targets = data.target if task == "classification" else data.target.astype(np.float64)
    return Rows(features, targets), Schema([], "integer", [], missing)


def _penguins(task: Task) -> tuple[Rows, Schema]:
    """Returns penguins, with gaps and two columns of categories."""
    target = "species" if task == "classification" else "body_mass_g"
    penguins = load_penguins().dropna(subset=[target])
    columns, features = [], []
    for name in penguins.columns.drop(target):
        text = penguins[name].dtype.kind not in "if"
        codes, texts = penguins[name].factorize()
        columns.append(FeatureColumn(name, "category" if text else "number", list(texts) if text else []))
        features.append(np.where(codes < 0, np.nan, codes) if text else penguins[name].to_numpy(np.float64))
    targets = penguins[target].factorize()[0] if task == "classification" else penguins[target].to_numpy(np.float64)
    return Rows(np.stack(features, axis=1).astype(np.float32), targets), Schema([], "integer", columns, True)


def _lines(task: Task) -> tuple[Rows, Schema]:
    """Returns the lines of the descriptions of data, with their lengths."""
    lines = [
        (source, place, line)
        for source, name in enumerate(("breast_cancer", "diabetes", "digits", "iris", "linnerud", "wine"))
        for place, line in enumerate(
            filter(None, map(str.strip, getattr(datasets, f"load_{name}")().DESCR.splitlines()))
        )
    ]
    sources, places, written = zip(*lines, strict=True)
    features = np.array([[place, len(line)] for place, line in enumerate(written)], np.float32)
    columns = [FeatureColumn("line", "text", written), FeatureColumn("length", "integer")]
    targets = np.array(sources) if task == "classification" else np.array(places, np.float64)
    return Rows(features, targets), Schema([], "integer", columns, False)


Compute: TypeAlias = Callable[[Floats], object]


def _computer(exported: ladder.Exported, problem: Problem) -> Compute:
    """Returns what the backend of an exported model does with rows."""
    classes = problem.class_count
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, exported.file.name)
        path.write_bytes(exported.file.content)
        if exported.backend == "fil":
            options = Options("treelite_checkpoint", classes > 0, classes > 0, outputs=classes or 1)
            return Forest(path, options).scores
        if problem.texts:
            model = native.open_text_model(path)
            return lambda rows: model.scores(*texts.parted(rows, problem.texts))
        if exported.backend == "fitserve_native":
            return native.open_model(path).scores
        session = sessions.session_of(exported.file.content)
        return lambda rows: session.run([graph.SCORES], {graph.FEATURES: rows})


def _microseconds(compute: Compute, rows: Floats) -> float:
    """Returns the time of a prediction of all rows, the best of several."""
    times = []
    for _ in range(20):
        start = time.perf_counter()
        compute(rows)
        times.append(time.perf_counter() - start)
    return min(times) * 1e6


if __name__ == "__main__":
    limits.prepare_environment()
    sys.exit(main())
