"""Runs a model of named tensors on values made for it: whether it computes, and whether each row is answered by itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from training.errors import invalid_field, is_out_of_memory
from training.importing.spec import SIGNATURE

Array: TypeAlias = NDArray[Any]  # Any: of each type that Triton serves
Dims: TypeAlias = tuple[int | str | None, ...]
"""The length of each dimension: a number, a symbol that has one length wherever it stands, or None if any is allowed."""

ROWS = 4
"""So many rows are computed, together and each alone."""

LENGTHS = (8, 1, 32, 224)
"""What is tried, in this order, for the lengths that the file leaves open."""

_MOST_VALUES = 2**22
_ALIKE = 1e-3
_TEXTS = ("0", "1", "2")


@dataclass(frozen=True)
class Input:
    """An input of a model.

    Attributes:
        dtype: The type of its elements, as numpy has it; object for texts.
        known: Values that the file itself compares it with; others might be refused by the model.
    """

    name: str
    dtype: np.dtype[Any]
    dims: Dims
    known: Sequence[str | int] = ()


@dataclass(frozen=True)
class Sample:
    """Values that the model computes.

    Attributes:
        inputs: They, by name.
        outputs: What it gives for them, in its order.
        rows: Whether the first dimension of all of them counts rows, whose answers are the same together and alone.
        row_count: How many they are, 1 if they have no rows.
    """

    inputs: Mapping[str, Array]
    outputs: Sequence[Array]
    rows: bool
    row_count: int


# Any: onnxruntime has no types.
def sample(session: Any, inputs: Sequence[Input]) -> Sample:
    """Returns values that a model computes, with what it gives for them.

    Args:
        session: The model, opened by onnxruntime.

    Raises:
        FitError: INVALID_FIELD; it computes none that were tried.
    """
    for rows, given in _tries(inputs):
        outputs = _run(session, given)
        if outputs is not None:
            together = rows > 1 and all(len(array) == rows for array in outputs if array.ndim)
            return Sample(given, outputs, together and _is_by_rows(session, given, outputs), max(rows, 1))
    raise invalid_field(
        f"{SIGNATURE}.inputs",
        f"onnxruntime computes nothing that was made for its inputs, with {', '.join(map(str, LENGTHS))} for open lengths; "
        "give the shapes of the inputs, or export it so that it takes any values",
    )


def _tries(inputs: Sequence[Input]) -> Iterator[tuple[int, dict[str, Array]]]:
    """Yields values for all inputs, with the number of their rows, or 0 if they cannot have rows."""
    have_rows = all(one.dims and not isinstance(one.dims[0], int) for one in inputs)
    for rows in (ROWS, 1) if have_rows else (0,):
        for length in LENGTHS:
            shapes = [_shape(one.dims, rows, length, _row_symbols(inputs) if rows else set()) for one in inputs]
            if sum(math.prod(shape) for shape in shapes) > _MOST_VALUES:
                continue
            for chance in (np.random.default_rng(0), None):
                yield rows, {one.name: _values(one, shape, chance) for one, shape in zip(inputs, shapes, strict=True)}


def _row_symbols(inputs: Sequence[Input]) -> set[str]:
    return {first for one in inputs if isinstance(first := one.dims[0], str)}


def _shape(dims: Dims, rows: int, length: int, row_symbols: set[str]) -> tuple[int, ...]:
    shape = [rows if one in row_symbols else one if isinstance(one, int) else length for one in dims]
    return (rows, *shape[1:]) if rows else tuple(shape)


def _values(one: Input, shape: tuple[int, ...], chance: np.random.Generator | None) -> Array:
    """Returns values of one input, random or all alike."""
    if one.dtype.kind == "f":
        return chance.normal(size=shape).astype(one.dtype) if chance else np.zeros(shape, one.dtype)
    choices = np.array(one.known or (_TEXTS if one.dtype.kind == "O" else (0, 1)), object)
    if chance is None:
        return np.full(shape, choices[0], one.dtype)
    return choices[chance.integers(0, len(choices), shape)].astype(one.dtype)


def _run(session: Any, given: Mapping[str, Array]) -> list[Array] | None:
    """Returns the outputs, None if the model refuses the values. Raises what says that memory is full."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.log_severity_level = 4  # what it refuses is tried on purpose, and is nothing for the log
    try:
        outputs: list[Array] = session.run(None, dict(given), options)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return None
    return [np.asarray(array) for array in outputs]


def _is_by_rows(session: Any, given: Mapping[str, Array], together: Sequence[Array]) -> bool:
    """Whether each row alone gets the answer that it got among others."""
    for row in range(ROWS):
        alone = _run(session, {name: array[row : row + 1] for name, array in given.items()})
        if alone is None:
            return False
        for one, all_rows in zip(alone, together, strict=True):
            if not all_rows.ndim or not _alike(one, all_rows[row : row + 1]):
                return False
    return True


def _alike(one: Array, other: Array) -> bool:
    if one.shape != other.shape or one.dtype.kind == "O":
        return bool(one.tolist() == other.tolist())
    return np.allclose(one.astype(np.float64), other.astype(np.float64), rtol=_ALIKE, atol=_ALIKE, equal_nan=True)


def difference(served: Sequence[Array], expected: Sequence[Array]) -> float:
    """Returns the largest difference of any number, each as a share of the largest of its tensor if that is above 1.

    It is infinite where texts, shapes, or what is no number differ.
    """
    return max(map(_difference, served, expected), default=0.0)


def _difference(served: Array, expected: Array) -> float:
    if served.shape != expected.shape or served.dtype != expected.dtype:
        return math.inf
    if served.dtype.kind == "O":
        return 0.0 if served.tolist() == expected.tolist() else math.inf
    one, other = served.astype(np.float64), expected.astype(np.float64)
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    if same.all():
        return 0.0
    largest = max(1.0, float(np.abs(other[np.isfinite(other)]).max(initial=0.0)))
    apart = float(np.abs(one[~same] - other[~same]).max()) / largest
    return math.inf if math.isnan(apart) else apart
