"""docs/algorithms.md says what is so. The times in it are measured by `make algorithms` only."""

from __future__ import annotations

import pytest

from scripts import algorithms_table as table
from training import parity

PAGE = table.PAGE.read_text()
LINES = table.lines_of(PAGE, table.HEADERS)
FINDINGS = table.lines_of(PAGE, table.FINDINGS)
CASES = [(name, task, data) for name in table.OPTIONS for task in table.tasks_of(name) for data in table.data_of(name)]


def test_the_page_has_a_line_for_each_algorithm_in_the_order_of_the_contract_and_says_what_it_says() -> None:
    assert [table.cells_of(name) for name in table.OPTIONS] == LINES


def test_the_page_has_a_line_for_each_task_and_kind_of_columns() -> None:
    keys = [(line["algorithm"], line["task"], line["columns"]) for line in FINDINGS]
    assert keys == [(f"`{name}`", task, data) for name, task, data in CASES]
    assert all(float(line["largest difference"]) <= parity.TOLERANCE for line in FINDINGS)
    assert all(float(line["µs a row, of one"]) > 0 < float(line["µs a row, of 1000"]) for line in FINDINGS)


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_the_ladder_chooses_what_the_page_says_and_is_as_near_to_the_library(case: tuple[str, str, str]) -> None:
    line = FINDINGS[CASES.index(case)]  # type: ignore[arg-type]
    found = table.find_out(*case)  # type: ignore[arg-type]
    assert found.backend == line["backend"]
    # Of the tolerance the page has used as many digits as floats of 32 bits have; another processor may use some more.
    assert found.difference <= max(10 * float(line["largest difference"]), 2e-6)
