"""`python -m demo [--json]`: runs the steps, prints the table, and exits non-zero if any figure is wrong."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, dataclass

import fitserve
from rich import box
from rich.console import Console
from rich.table import Table

from demo import steps
from demo.exercises import Exercise, exercises
from demo.reference import reference_score
from demo.service import DemoFailed, DemoService


@dataclass(frozen=True)
class ModelFigures:
    """The line of one model."""

    model: str
    algorithm: str
    task: str
    fit_seconds: float
    score: float
    reference_score: float
    single_row_ms_p50: float


@dataclass(frozen=True)
class Figures:
    """All figures of the demo."""

    models: list[ModelFigures]
    fits_in_parallel: int
    stream_rows: int
    stream_rows_per_second: float
    refusals: list[steps.Refusal]


def run(console: Console) -> Figures:
    """Runs the demo and returns its figures. Raises DemoFailed at the first thing that is wrong."""
    work = exercises()
    cores = max(2, os.cpu_count() or 2)
    console.print(f"Starting FitServe with a Triton of its own and {cores} training cores.")
    with DemoService(cores, max_loaded=len(work)) as service, fitserve.Client(service.address) as client:
        console.print(f"It serves on {service.address}. The training libraries are being imported, once for all fits.")
        steps.wait_for_interpreter(client)
        console.print(f"Fitting {len(work)} models at the same time on real data:")
        training = steps.fit_all(client, work, console)
        console.print(f"Up to {training.in_parallel} trained at one time. Loading and predicting:")
        for exercise in work:
            client.load(exercise.model)
        scores = steps.scores(client, work)
        milliseconds = {exercise.model: steps.single_row_milliseconds(client, exercise) for exercise in work}
        rows, seconds = steps.stream(client, work[1])
        console.print(f"  {rows:,} rows of {work[1].model} over one stream: {rows / seconds:,.0f} rows a second")
        pool = client.status().models
        loaded = ", ".join(f"{model.model} v{model.version}" for model in pool.loaded)
        console.print(
            f"  loaded, {len(pool.loaded)} of {pool.limit}: {loaded}\nAsking for more than there is room for:"
        )
        refusals = steps.refusals(client, work, cores)
        for refusal in refusals:
            console.print(
                f"  {refusal.what}: {refusal.code} {refusal.reason}: {refusal.message}", highlight=False, soft_wrap=True
            )
        steps.take_down(client, work)
        service.stop()
    console.print("Unloaded, removed, stopped; nothing is left. Training the same models in their own libraries:")
    models = [
        ModelFigures(
            exercise.model,
            exercise.algorithm,
            exercise.task,
            round(training.seconds[exercise.model], 3),
            scores[exercise.model],
            reference_score(exercise),
            round(milliseconds[exercise.model], 3),
        )
        for exercise in work
    ]
    return Figures(models, training.in_parallel, rows, round(rows / seconds, 1), refusals)


def check(figures: Figures, work: list[Exercise]) -> list[str]:
    """Returns what is wrong with the figures."""
    wrong = []
    for model, exercise in zip(figures.models, work, strict=True):
        if model.score < exercise.least_score:
            wrong.append(f"{model.model}: the score is {model.score:.4f}, at least {exercise.least_score} was wanted")
        if abs(model.score - model.reference_score) > exercise.tolerance + 1e-5:
            wrong.append(f"{model.model}: the score is {model.score:.4f}, the library's is {model.reference_score:.4f}")
    if figures.stream_rows != steps.STREAM_ROWS:
        wrong.append(f"{figures.stream_rows} of {steps.STREAM_ROWS} rows came back")
    if [refusal.reason for refusal in figures.refusals] != ["TOO_MANY_LOADED_MODELS", "NO_FREE_CORES"]:
        wrong.append(f"the refusals are {[refusal.reason for refusal in figures.refusals]}")
    return wrong


def table(figures: Figures) -> Table:
    """Returns the figures of the models as a table: `library` is the library's own score, `row ms` the median of one row."""
    lines = Table("model", "algorithm", "task", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("fit s", "score", "library", "row ms"):
        lines.add_column(heading, justify="right")
    for m in figures.models:
        numbers = (f"{m.fit_seconds:.2f}", f"{m.score:.4f}", f"{m.reference_score:.4f}", f"{m.single_row_ms_p50:.2f}")
        lines.add_row(m.model, m.algorithm, m.task, *numbers)
    return lines


def main() -> int:
    """Runs the demo and returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON holding the figures")
    wants_json = parser.parse_args().json
    console = Console()
    start = time.perf_counter()
    try:
        figures = run(console)
    except (DemoFailed, fitserve.FitServeError) as error:
        console.print(f"The demo failed: {error}", style="bold red", markup=False)
        return 1
    console.print(table(figures))
    wrong = check(figures, exercises())
    for line in wrong:
        console.print(f"wrong: {line}", style="bold red")
    verdict = "Something is wrong." if wrong else "All figures are as they should be."
    console.print(f"{verdict} ({time.perf_counter() - start:.0f} s)")
    if wants_json:
        print(json.dumps(asdict(figures)))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
