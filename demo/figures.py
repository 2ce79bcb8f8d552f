"""The figures of the demo: what they are, what they must be, and the table of them."""

from __future__ import annotations

from dataclasses import dataclass

from rich import box
from rich.table import Table

STREAM_ROWS = 100_000
REFUSALS = [("RESOURCE_EXHAUSTED", "TOO_MANY_LOADED_MODELS"), ("RESOURCE_EXHAUSTED", "NO_FREE_CORES")]


@dataclass(frozen=True)
class ModelFigures:
    """The line of one model.

    Attributes:
        score: The accuracy, or R2 for regression, of the service's predictions for rows held out by the demo.
        reference_score: The same of the library's own model.
        single_row_ms_p50: The median time of a call with one row, in milliseconds.
    """

    model: str
    algorithm: str
    task: str
    fit_seconds: float
    score: float
    reference_score: float
    single_row_ms_p50: float


@dataclass(frozen=True)
class Refusal:
    """A call that the service has refused, as it should."""

    what: str
    code: str
    reason: str
    message: str


@dataclass(frozen=True)
class Figures:
    """All figures of the demo."""

    models: list[ModelFigures]
    fits_in_parallel: int
    stream_rows: int
    stream_rows_per_second: float
    refusals: list[Refusal]


def check(figures: Figures) -> list[str]:
    """Returns what is wrong with the figures, but for the scores, which `exercises.difference` judges."""
    wrong = [
        f"{model.model}: a time is not above 0"
        for model in figures.models
        if not (model.fit_seconds > 0 and model.single_row_ms_p50 > 0)
    ]
    if figures.fits_in_parallel < 2:
        wrong.append(f"{figures.fits_in_parallel} training processes were seen at one time; at least 2 were wanted")
    if figures.stream_rows != STREAM_ROWS or not figures.stream_rows_per_second > 0:
        wrong.append(f"{figures.stream_rows} of {STREAM_ROWS} rows came back")
    if [(refusal.code, refusal.reason) for refusal in figures.refusals] != REFUSALS:
        wrong.append(f"the refusals are {figures.refusals}, not {REFUSALS}")
    return wrong


def table(figures: Figures) -> Table:
    """Returns the figures of the models as a table that fits 80 columns."""
    lines = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("model", "algorithm", "task"):
        lines.add_column(heading, no_wrap=True)
    for heading in ("fit s", "score", "library", "row ms"):
        lines.add_column(heading, justify="right", no_wrap=True)
    for m in figures.models:
        numbers = (f"{m.fit_seconds:.2f}", f"{m.score:.4f}", f"{m.reference_score:.4f}", f"{m.single_row_ms_p50:.2f}")
        lines.add_row(m.model, m.algorithm, m.task, *numbers)
    return lines
