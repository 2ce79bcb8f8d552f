"""Looks at the numbers in a file of CatBoost that it follows without a look at the bounds of its arrays.

A file is the word CBM1, the model as a flatbuffer, whose schema is CatBoost's model.fbs, and the tables of statistics of
categories, each a flatbuffer of ctr_data.fbs. A field of a flatbuffer has the place in its table that the schema gives it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from training.errors import FitError
from training.importing import found

_HEADER = 8
_TABLES = b"static_provider_v1"
_MOST_DEPTH = 31
_NO_HASH = 2**64 - 1
_BUCKET = np.dtype([("hash", "<u8"), ("place", "<u4")])
_BORDERS, _BUCKETS, _MEANS = 0, 1, (2, 3)
"""The kinds of statistics: counts of each class, and means; the others are one count."""

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class _Table:
    """A table in a flatbuffer, whose fields are asked for by their places in the schema; ValueError where it has an end."""

    buffer: bytes
    place: int

    @staticmethod
    def root(buffer: bytes) -> _Table:
        """Returns the table that a flatbuffer starts with."""
        return _Table(buffer, _number(buffer, "<I", 0))

    def number(self, field: int, form: str, default: int = 0) -> int:
        """Returns a number, given its form in the words of `struct`."""
        place = self._field(field)
        return default if place is None else _number(self.buffer, form, place)

    def table(self, field: int) -> _Table:
        """Returns a table that must be there."""
        place = self._field(field)
        if place is None:
            raise ValueError(f"a table has no field {field}")
        return _Table(self.buffer, place + _number(self.buffer, "<I", place))

    def tables(self, field: int) -> list[_Table]:
        """Returns the tables in a list."""
        start, count = self._list(field, 4)
        places = range(start, start + 4 * count, 4)
        return [_Table(self.buffer, place + _number(self.buffer, "<I", place)) for place in places]

    def numbers(self, field: int, form: str) -> Integers:
        """Returns the integers in a list, given the form of one in the words of numpy."""
        start, count = self._list(field, np.dtype(form).itemsize)
        return np.frombuffer(self.buffer, form, count, start).astype(np.int64)

    def pairs(self, field: int) -> Integers:
        """Returns the pairs of 16-bit integers in a list, [pairs, 2]."""
        start, count = self._list(field, 4)
        return np.frombuffer(self.buffer, "<u2", 2 * count, start).astype(np.int64).reshape(count, 2)

    def count(self, field: int, width: int) -> int:
        """Returns the number of the elements in a list, each of so many bytes."""
        return self._list(field, width)[1]

    def content(self, field: int) -> bytes:
        """Returns the bytes in a list, or of a text."""
        start, count = self._list(field, 1)
        return self.buffer[start : start + count]

    def _list(self, field: int, width: int) -> tuple[int, int]:
        place = self._field(field)
        if place is None:
            return 0, 0
        start = place + _number(self.buffer, "<I", place)
        count = _number(self.buffer, "<I", start)
        if start + 4 + count * width > len(self.buffer):
            raise ValueError(f"a list of {count} elements is longer than what holds it")
        return start + 4, count

    def _field(self, field: int) -> int | None:
        known = self.place - _number(self.buffer, "<i", self.place)
        entry = 4 + 2 * field
        if entry >= _number(self.buffer, "<H", known):
            return None
        offset = _number(self.buffer, "<H", known + entry)
        return self.place + offset if offset else None


def _number(buffer: bytes, form: str, place: int) -> int:
    if not 0 <= place <= len(buffer) - struct.calcsize(form):
        raise ValueError(f"a number at {place} is not there")
    number: int = struct.unpack_from(form, buffer, place)[0]
    return number


def check(content: bytes) -> None:
    """Refuses a file whose trees, columns or tables of statistics lead out of one another.

    Raises:
        FitError: INVALID_FIELD.
        ValueError: It is no such file.
    """
    size = _number(content, "<I", 4)
    core = _Table.root(content[_HEADER : _HEADER + size])
    trees = core.table(1)
    _check_columns(trees)
    _check_trees(trees)
    classes: dict[int, int] = {}
    if core.count(3, 4) and _TABLES in content[_HEADER : _HEADER + size]:
        classes = _check_statistics(content, _HEADER + size)
    for feature in trees.tables(7):
        _check_border(feature.table(0), classes)


def _check_columns(trees: _Table) -> None:
    """Checks that each column of a row is one of the numbers, categories, texts or embeddings, and counted once."""
    kinds = [(5, 1), (4, 0), (12, 0), (18, 0)]  # the list of a kind, and the field of a column's place in it
    columns: list[int] = []
    for kind, field in kinds:
        found_there = trees.tables(kind)
        places = [column.number(field, "<i", -1) for column in found_there]
        if places != list(range(len(places))):
            raise _damaged("its columns are not in order")
        columns += [column.number(field + 1, "<i", -1) for column in found_there]
    if sorted(columns) != list(range(len(columns))):
        raise _damaged("its columns are not those of a row")
    categories = trees.count(4, 4)
    if any(not 0 <= feature.number(0, "<i", -1) < categories for feature in trees.tables(6)):
        raise _damaged("a category is of a column that is none")


def _check_trees(trees: _Table) -> None:
    """Checks that the splits are there, and that each way ends at a leaf with values."""
    lists = [(5, 3), (6, 1), (7, 1), (13, 3)]  # the columns of a kind, and the field of what they are compared with
    conditions = sum(column.count(field, 4) for kind, field in lists for column in trees.tables(kind))
    splits, sizes, starts = (trees.numbers(field, "<i4") for field in (1, 2, 3))
    values, dimension = trees.count(8, 8), trees.number(0, "<i")
    if dimension < 1 or len(splits) != sizes.sum() or (sizes < 0).any():
        raise _damaged("its trees have not the splits that they say")
    if not np.array_equal(starts, np.cumsum(sizes) - sizes):
        raise _damaged("its trees do not follow one another")
    steps = trees.pairs(10)  # how far it is from each node to its two children, 0 where there is none
    inner = np.ones(len(splits), np.bool_) if not len(steps) else steps.any(axis=1)
    if ((splits[inner] < 0) | (splits[inner] >= conditions)).any():
        raise _damaged(f"a split is none of its {conditions}")
    if len(steps):
        _check_steps(steps, trees.numbers(11, "<u4"), np.append(starts, len(splits)), values - dimension)
    elif (sizes > _MOST_DEPTH).any() or values != dimension * int((1 << sizes).sum()):
        raise _damaged("its leaves have not the values that they need")


def _check_steps(steps: Integers, leaves: Integers, starts: Integers, last: int) -> None:
    """Checks trees that branch: children come after their parents, in the same tree, and ways end at leaves."""
    if len(steps) != starts[-1] or len(leaves) != len(steps):
        raise _damaged("its trees have not the nodes that they say")
    for start, end in pairwise(starts.tolist()):
        places = np.arange(start, end)[:, None]
        if start == end or (places + steps[start:end] >= end).any():
            raise _damaged("a node's child is in no tree, or in another")
    ends = (steps == 0).any(axis=1)
    if (leaves[ends] > last).any():
        raise _damaged("a leaf has no values")


def _check_statistics(content: bytes, start: int) -> dict[int, int]:
    """Checks the tables of statistics of categories; returns the fewest classes that those of a kind count."""
    classes: dict[int, int] = {}
    place = start + 4
    for _ in range(_number(content, "<I", start)):
        size = _number(content, "<I", place)
        if place + 4 + size > len(content):
            raise ValueError("a table is cut off")
        table = _Table.root(content[place + 4 : place + 4 + size])
        kind, counted = table.table(0).number(1, "<b"), table.number(4, "<i")
        _check_statistic(table, kind, counted)
        classes[kind] = min(counted, classes.get(kind, counted))
        place += 4 + size
    return classes


def _check_statistic(table: _Table, kind: int, counted: int) -> None:
    """Checks that each category has its statistics, and that the search for one that is not there comes to an end."""
    combination = table.table(0).table(0)
    for field, width in ((0, 4), (1, 8), (2, 8)):
        combination.count(field, width)
    raw = table.content(1)
    buckets = np.frombuffer(raw, _BUCKET, len(raw) // _BUCKET.itemsize)
    known = buckets["hash"] != _NO_HASH
    count = len(buckets)
    if not count or count & (count - 1) or len(raw) % _BUCKET.itemsize or known.all():
        raise _damaged("a table of categories has no room for the search")
    width = 8 if kind in _MEANS else 4
    if kind in (_BORDERS, _BUCKETS):
        if counted < 1:
            raise _damaged("statistics of classes count no class")
        width *= max(2, counted) if kind == _BORDERS else counted
    if (buckets["place"][known] >= table.count(2, 1) // width).any():
        raise _damaged("a category has no statistics")


def _check_border(statistic: _Table, classes: dict[int, int]) -> None:
    kind, border = statistic.table(0).number(1, "<b"), statistic.number(1, "<i")
    if kind in (_BORDERS, _BUCKETS) and not 0 <= border < classes.get(kind, 0):
        raise _damaged(f"statistics are asked for the class {border}, which is none")


def _damaged(problem: str) -> FitError:
    return found.part_damaged("CatBoost model", problem)
