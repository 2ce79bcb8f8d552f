"""The plate picker in Triton: raw records in, the probabilities of negative and positive out."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import triton_python_backend_utils as triton
from catboost import CatBoostClassifier, Pool

# The stub's own classes come without types.
Request = Any
Response = Any

MODEL_FILE = "micromodel.cbm"


class TritonPythonModel:
    """One copy of the model; Triton calls its methods."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the model file beside this one."""
        directory = Path(args["model_repository"], args["model_version"])
        if not (directory / MODEL_FILE).is_file():
            raise triton.TritonModelException(f"{MODEL_FILE} is missing; copy it into {directory}")
        self._model = CatBoostClassifier()
        self._model.load_model(str(directory / MODEL_FILE))
        self._row_of = _features(directory).row_maker(self._model.feature_names_)
        self._texts = {
            one["name"] for one in json.loads(args["model_config"])["input"] if one["data_type"] == "TYPE_STRING"
        }

    def execute(self, requests: Sequence[Request]) -> list[Response]:
        """Answer all requests with one call of CatBoost."""
        bounds, rows = [0], []
        for request in requests:
            rows += [self._row_of(record) for record in self._records(request)]
            bounds.append(len(rows))
        model = self._model
        pool = Pool(rows, cat_features=model.get_cat_feature_indices(), text_features=model.get_text_feature_indices())
        found = model.predict_proba(pool, thread_count=1)
        return [
            triton.InferenceResponse(
                [
                    triton.Tensor(name, found[start:stop, column : column + 1])
                    for column, name in enumerate(("negative", "positive"))
                ]
            )
            for start, stop in pairwise(bounds)
        ]

    def _records(self, request: Request) -> list[dict[str, Any]]:
        """Return a request's rows as records from the name of an input to its value."""
        columns = {tensor.name(): tensor.as_numpy().ravel().tolist() for tensor in request.inputs()}
        for name in self._texts:
            columns[name] = [text.decode() for text in columns[name]]
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _features(directory: Path) -> Any:  # a module, which has a name of its own in each version
    spec = importlib.util.spec_from_file_location("plate_features", directory / "features.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
