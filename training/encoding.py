"""From the rows that serving sends to the matrix that a family learns from: in training, and as a part of the model's graph.

Of named columns serving sends numbers, truth values as 0 and 1, and categories as codes: the position among the categories
that the model was trained on, or `UNKNOWN`. NaN is a missing value everywhere. What a family wants of it stands in the
traits of its message in the contract:

* One that splits by categories itself (`native_categories`) gets their codes; an unknown one is a missing value. Any other
  gets an indicator, 0 or 1, for each category, and one for missing where a row trained on lacks the value; an unknown
  category is none of them, so all are 0.
* One that takes missing values (`missing_values`) gets them; for any other the median of the rows trained on stands for a
  missing number.

Both forms of an encoding only choose and compare values, so they are equal to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from fitserve.v1 import options_pb2
from numpy.typing import NDArray
from onnx import TensorProto, helper

from training.algorithms.base import Categories, HasNativeFile, Learner, NativeFile
from training.data import FeatureColumn, Floats, Integers, Rows, Schema
from training.errors import CannotExport, invalid_field
from training.export import graph
from training.progress import Progress
from training.spec import Json

UNKNOWN = -1.0
"""The code of a category that the model was not trained on."""

MOST_CATEGORY_BYTES = 4 << 20
"""How long the texts of all categories together may be: a service has those of all its models in memory."""


def learn_columns(schema: Schema, train: Rows, validation: Rows, field: str) -> Schema:
    """Returns what the columns have in the rows to train on, and writes the codes of these categories into both parts.

    Args:
        schema: What the rows mean; their codes are those of the dataset.
        train: The rows to train on.
        validation: The rows held out.
        field: The path of the request's field that the features came in.

    Raises:
        FitError: INVALID_FIELD; the categories are too long.
    """
    columns = [
        replace(
            column,
            categories=column.categories
            if column.kind == "text"
            else _learn_categories(column.categories, place, train, validation),
            missing_values=bool(np.isnan(train.features[:, place]).any()),
        )
        for place, column in enumerate(schema.columns)
    ]
    categories = [column.categories for column in columns if column.kind == "category"]
    size = sum(len(text.encode()) for texts in categories for text in texts)
    if size > MOST_CATEGORY_BYTES:
        raise invalid_field(
            field,
            f"the different texts of all columns take {size} bytes together and {MOST_CATEGORY_BYTES} are allowed; "
            "shorten them, leave columns of free text out, or name these in text_columns for catboost",
        )
    return replace(schema, columns=columns)


def _learn_categories(vocabulary: Sequence[str], place: int, train: Rows, validation: Rows) -> tuple[str, ...]:
    """Returns the categories of a column in the order of their texts, and rewrites the codes in both parts."""
    if not vocabulary:
        return ()
    codes = train.features[:, place]
    seen = np.unique(codes[~np.isnan(codes)]).astype(np.int64).tolist()
    seen.sort(key=vocabulary.__getitem__)
    table = np.full(len(vocabulary), UNKNOWN, np.float32)
    table[seen] = np.arange(len(seen))
    for part in (train, validation):
        known = ~np.isnan(part.features[:, place])
        part.features[known, place] = table[part.features[known, place].astype(np.int64)]
    return tuple(vocabulary[code] for code in seen)


@dataclass(frozen=True)
class Encoder:
    """What becomes of the rows that serving sends.

    Attributes:
        columns: The columns; empty for a matrix without names, which stays as it is.
        native: Whether the family takes the codes of categories.
        fill: What stands for a missing value of each column, NaN where it stays missing; [columns].
    """

    columns: Sequence[FeatureColumn]
    native: bool
    fill: Floats

    @classmethod
    def of(cls, schema: Schema, traits: options_pb2.AlgorithmTraits, train: Rows) -> Encoder:
        """Returns the encoder of a family with these traits, for the rows to train on."""
        fill = np.full(len(schema.columns), np.nan, np.float32)
        for place, column in enumerate(schema.columns):
            if column.kind == "category" and not traits.native_categories:
                fill[place] = len(column.categories) if column.missing_values else UNKNOWN
            elif column.kind != "category" and schema.missing_values and not traits.missing_values:
                fill[place] = _median(train.features[:, place])
        return cls(schema.columns, traits.native_categories, fill)

    @property
    def categories(self) -> tuple[Categories, ...]:
        """The columns of the encoded matrix that hold codes."""
        if not self.native:
            return ()
        return tuple(
            Categories(place, column.name, len(column.categories))
            for place, column in enumerate(self.columns)
            if column.kind == "category"
        )

    def shape(self, rows: Rows) -> tuple[int, ...]:
        """Returns the shape of one encoded row."""
        sources, _ = self._indicators()
        if not len(sources):
            return rows.features.shape[1:]
        return (len(self._numbers()) + len(sources),)

    def wrap(self, learner: Learner) -> Learner:
        """Returns a learner that takes the rows that serving sends, from one that takes them encoded."""
        if not len(self._filled()) and not any(column.kind == "category" for column in self.columns):
            return learner
        return Encoded(learner, self)

    def describe(self) -> list[dict[str, Json]]:
        """Returns the columns as the manifest keeps them."""
        described: list[dict[str, Json]] = []
        for place, column in enumerate(self.columns):
            entry: dict[str, Json] = {
                "name": column.name,
                "kind": column.kind,
                "missing_values": column.missing_values,
            }
            if column.kind == "category":
                entry["categories"] = list(column.categories)
                entry["unknown_category"] = "missing" if self.native else "none"
            elif not np.isnan(self.fill[place]):
                # The shortest digits of the 32-bit float.
                entry["fill"] = float(str(self.fill[place]))
            described.append(entry)
        return described

    def apply(self, features: Floats) -> Floats:
        """Returns rows [rows, columns] as the family takes them."""
        filled = np.where(np.isnan(features), self.fill, features)
        if self.native:
            low, high = self._limits()
            return np.where((filled >= low) & (filled < high), filled, np.float32(np.nan))
        sources, codes = self._indicators()
        indicators = (filled[:, sources] == codes).astype(np.float32)
        return np.concatenate([filled[:, self._numbers()], indicators], axis=1)

    def put_before(self, model: onnx.ModelProto) -> None:
        """Puts what `apply` does before the operations of a model, which then takes the rows that serving sends."""
        nodes, constants = self._graph()
        graph.put_before(model, nodes, constants, (len(self.columns),))

    def _graph(self) -> tuple[list[onnx.NodeProto], dict[str, NDArray[np.generic]]]:
        """Returns the operations from the features to `graph.ENCODED`, and their constants."""
        nodes: list[onnx.NodeProto] = []
        constants: dict[str, NDArray[np.generic]] = {}

        # Any: make_node takes attributes of all types.
        def add(operation: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
            nodes.append(helper.make_node(operation, inputs, [output], **attributes))
            return output

        def constant(name: str, value: NDArray[np.generic]) -> str:
            constants[name] = value
            return name

        value = graph.FEATURES
        if len(self._filled()):
            missing = add("IsNaN", [value], "missing")
            value = add("Where", [missing, constant("fill", self.fill), value], "filled")
        if self.native:
            low, high = self._limits()
            above = add("GreaterOrEqual", [value, constant("low", low)], "above")
            below = add("Less", [value, constant("high", high)], "below")
            known = add("And", [above, below], "known")
            add("Where", [known, value, constant("nan", np.array(np.nan, np.float32))], graph.ENCODED)
            return nodes, constants
        sources, codes = self._indicators()
        numbers = add("Gather", [value, constant("numbers", self._numbers())], "kept", axis=1)
        chosen = add("Gather", [value, constant("sources", sources)], "chosen", axis=1)
        equal = add("Equal", [chosen, constant("codes", codes)], "equal")
        indicators = add("Cast", [equal], "indicators", to=TensorProto.FLOAT)
        add("Concat", [numbers, indicators], graph.ENCODED, axis=1)
        return nodes, constants

    def _filled(self) -> Integers:
        return np.flatnonzero(~np.isnan(self.fill))

    def _numbers(self) -> Integers:
        return np.array([place for place, column in enumerate(self.columns) if column.kind != "category"], np.int64)

    def _indicators(self) -> tuple[Integers, Floats]:
        """Returns the column that each indicator looks at, and the code that it looks for."""
        if self.native:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        counts = [
            len(column.categories) + column.missing_values if column.kind == "category" else 0
            for column in self.columns
        ]
        codes = [np.arange(count, dtype=np.float32) for count in counts]
        return np.repeat(np.arange(len(counts)), counts), np.concatenate([np.empty(0, np.float32), *codes])

    def _limits(self) -> tuple[Floats, Floats]:
        """Returns the lowest code of each column and the number after the highest: all numbers are within."""
        low, high = np.full(self.fill.shape, -np.inf, np.float32), np.full(self.fill.shape, np.inf, np.float32)
        for column in self.categories:
            low[column.place], high[column.place] = 0, column.count
        return low, high


class Encoded:
    """A learner behind its encoder. Implements `Learner`.

    Args:
        learner: What learns from encoded rows.
        encoder: Encodes them.
    """

    def __init__(self, learner: Learner, encoder: Encoder) -> None:
        self._learner = learner
        self._encoder = encoder

    def fit(self, train: Rows, validation: Rows, progress: Progress) -> None:
        """Trains the model."""
        self._learner.fit(self._encoded(train), self._encoded(validation), progress)

    def predict(self, features: Floats) -> NDArray[np.float64]:
        """Returns the library's own predictions for the rows that serving sends."""
        return self._learner.predict(self._encoder.apply(features))

    def export(self) -> onnx.ModelProto:
        """Returns the trained model with the encoding before it."""
        model = self._learner.export()
        self._encoder.put_before(model)
        return model

    def native(self) -> NativeFile:
        """Returns the model in its library's own format, which must take categories and missing values as they are."""
        if not (self._encoder.native and isinstance(self._learner, HasNativeFile)):
            raise CannotExport("its library's format cannot hold what becomes of the columns")
        return self._learner.native()

    def _encoded(self, rows: Rows) -> Rows:
        return replace(rows, features=self._encoder.apply(rows.features))


def _median(values: Floats) -> np.float32:
    """Returns the median of what is not missing, 0 if all is."""
    known = values[~np.isnan(values)]
    return np.float32(np.median(known.astype(np.float64))) if len(known) else np.float32(0)
