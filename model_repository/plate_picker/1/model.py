"""The plate picker in Triton: raw records in, the probabilities of negative and positive out."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from itertools import accumulate, pairwise
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
        self._features = _features(directory)
        self._row_of = self._features.row_maker(self._model.feature_names_)
        self._texts = {
            one["name"] for one in json.loads(args["model_config"])["input"] if one["data_type"] == "TYPE_STRING"
        }

    def execute(self, requests: Sequence[Request]) -> list[Response]:
        """Answer all requests with one call of CatBoost; one that it cannot take is told what is wrong with it."""
        made = [self._rows_of(request) for request in requests]
        found = iter(self._probabilities([rows for rows in made if not isinstance(rows, str)]))
        return [_refused(rows) if isinstance(rows, str) else _answered(next(found)) for rows in made]

    def _rows_of(self, request: Request) -> list[list[object]] | str:
        """Return a request's rows of features, or what is wrong with its first bad record."""
        rows: list[list[object]] = []
        try:
            for record in self._records(request):
                rows += [self._row_of(record)]
        except self._features.InvalidRecord as problem:
            return f"row {len(rows)}, {problem}"
        return rows

    def _probabilities(self, made: Sequence[list[list[object]]]) -> list[Any]:
        """Return the probabilities of each request's rows."""
        bounds = list(accumulate(map(len, made), initial=0))
        if not made:
            return []
        model = self._model
        pool = Pool(
            [row for rows in made for row in rows],
            cat_features=model.get_cat_feature_indices(),
            text_features=model.get_text_feature_indices(),
        )
        found = model.predict_proba(pool, thread_count=1)
        return [found[start:stop] for start, stop in pairwise(bounds)]

    def _records(self, request: Request) -> list[dict[str, Any]]:
        """Return a request's rows as records from the name of an input to its value."""
        columns = {tensor.name(): tensor.as_numpy().ravel().tolist() for tensor in request.inputs()}
        for name in self._texts:
            try:
                columns[name] = [text.decode() for text in columns[name]]
            except UnicodeDecodeError:
                raise self._features.InvalidRecord(f"{name}: a text is no UTF-8") from None
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _answered(probabilities: Any) -> Response:
    """Return the answer to one request, of whose rows these are the probabilities."""
    columns = enumerate(("negative", "positive"))
    return triton.InferenceResponse(
        [triton.Tensor(name, probabilities[:, column : column + 1]) for column, name in columns]
    )


def _refused(problem: str) -> Response:
    """Return the answer to a request whose inputs are wrong: INVALID_ARG is what its caller is told."""
    return triton.InferenceResponse(error=triton.TritonError(problem, triton.TritonError.INVALID_ARG))


def _features(directory: Path) -> Any:  # a module, which has a name of its own in each version
    spec = importlib.util.spec_from_file_location("plate_features", directory / "features.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
