"""The demo from the first call to the last, one step a paragraph."""

from __future__ import annotations

import fitserve
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from demo import steps
from demo.exercises import Exercise, Labels, difference, exercises
from demo.figures import Figures, ModelFigures, Refusal
from demo.service import DemoService, RunningService


def run(service: DemoService | RunningService, console: Console) -> tuple[Figures, list[str]]:
    """Runs all steps against a service, and stops it if it is the demo's own.

    Returns:
        The figures, and what is wrong with the predictions.

    Raises:
        DemoFailed, FitServeError: A step did not do what it should.
    """
    work = exercises()
    service.wait_until_serving()
    with fitserve.Client(service.address) as client:
        status = client.status()
        console.print(
            f"  gRPC on {service.address}, Triton {status.triton.version}; importing the libraries, once for all"
        )
        steps.wait_for_interpreter(client)
        console.print(f"[bold]Fitting {len(work)} models at the same time[/], each in a process of its own")
        training = steps.fit_all(client, work, console)
        console.print("[bold]Loading them into Triton[/]")
        console.print(f"  {steps.load_all(client, work)}")
        console.print("[bold]Predicting[/]")
        predictions = {e.model: client.predict(e.model, e.test[0]) for e in work}
        milliseconds = {e.model: steps.single_row_milliseconds(client, e) for e in work}
        console.print(f"  {steps.SINGLE_ROWS} single rows a model, one call each")
        rows, seconds = steps.stream(client, work[1])
        console.print(f"  {rows:,} rows of {work[1].model} over one stream: {rows / seconds:,.0f} rows a second")
        console.print("[bold]Asking for more than there is room for[/]")
        refusals = steps.refusals(client, work, status.training.total_cores)
        _show(refusals, console)
        steps.take_down(client, work)
    console.print(service.stop())
    console.print("[bold]Training the same in the libraries alone[/], to compare the scores on held-out rows")
    references = _references(work)
    models = [
        _line(e, training.seconds[e.model], predictions[e.model], references[e.model], milliseconds[e.model])
        for e in work
    ]
    wrong = [text for e in work for text in difference(e, predictions[e.model], references[e.model])]
    return Figures(models, training.in_parallel, rows, round(rows / seconds, 1), refusals), wrong


def _line(
    exercise: Exercise, seconds: float, predictions: Labels, reference: Labels, milliseconds: float
) -> ModelFigures:
    return ModelFigures(
        exercise.model,
        exercise.algorithm,
        exercise.task,
        fit_seconds=round(seconds, 3),
        score=exercise.score(predictions),
        reference_score=exercise.score(reference),
        single_row_ms_p50=round(milliseconds, 3),
    )


def _show(refusals: list[Refusal], console: Console) -> None:
    for refusal in refusals:
        console.print(f"  {refusal.what}: {refusal.code}, {refusal.reason}", soft_wrap=True)
        console.print(Padding(Text(refusal.message, style="dim"), (0, 0, 0, 4), expand=False))


def _references(work: list[Exercise]) -> dict[str, Labels]:
    # PyTorch and XGBoost take seconds to import, which must not fall into what is timed.
    from demo.reference import reference_predictions

    return {exercise.model: reference_predictions(exercise) for exercise in work}
