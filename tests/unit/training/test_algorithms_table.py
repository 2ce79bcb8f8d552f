"""docs/algorithms.md says what is so. The times in it are measured by `make algorithms` only."""

from __future__ import annotations

import pytest

from scripts import algorithms_table as table
from training import parity

LINES = table.lines_of(table.PAGE.read_text())


def test_the_page_has_a_line_for_each_algorithm_in_the_order_of_the_contract() -> None:
    assert [line["algorithm"] for line in LINES] == [f"`{name}`" for name in table.OPTIONS]
    assert all(tuple(line) == table.HEADERS for line in LINES)


@pytest.mark.parametrize("name", table.OPTIONS)
def test_the_page_says_what_the_contract_says_and_a_difference_within_the_tolerance(name: str) -> None:
    line = next(line for line in LINES if line["algorithm"] == f"`{name}`")
    assert table.cells_of(name).items() <= line.items()
    assert float(line["largest difference"]) <= parity.TOLERANCE
    assert float(line["µs a row, of one"]) > 0 < float(line["µs a row, of 1000"])


@pytest.mark.parametrize(("name", "task"), [(name, task) for name in table.OPTIONS for task in table.tasks_of(name)])
def test_the_exported_model_is_as_near_to_the_librarys_as_the_page_says(name: str, task: str) -> None:
    line = next(line for line in LINES if line["algorithm"] == f"`{name}`")
    # Of the tolerance the page has used as many digits as floats of 32 bits have; another processor may use some more.
    assert table.find_out(name, task).difference <= max(10 * float(line["largest difference"]), 1e-6)  # type: ignore[arg-type]
