"""The results as JSON, as Markdown and on the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.ratios import RatioFound
from benchmarks.throughput import Figure
from benchmarks.work import Work

Json: TypeAlias = dict[str, Any]  # Any: what JSON may hold


@dataclass(frozen=True)
class Results:
    """All that one run has found.

    Attributes:
        machine: Facts of the machine.
        run: When, with how many rounds and seconds a load.
        subjects: What each is, by name.
        missing: Why others are not there, by name.
    """

    machine: Json
    run: Json
    subjects: dict[str, str]
    missing: dict[str, str]
    figures: Sequence[Figure]
    ratios: Sequence[RatioFound]


def write(results: Results, directory: Path) -> None:
    """Writes latest.json and latest.md."""
    directory.mkdir(parents=True, exist_ok=True)
    Path(directory, "latest.json").write_text(json.dumps(as_json(results), indent=2) + "\n")
    Path(directory, "latest.md").write_text(as_markdown(results))


def as_json(results: Results) -> Json:
    """Returns the results as an object; `ratios` is from name to number."""
    return {
        "machine": results.machine,
        "run": results.run,
        "ratios": {found.ratio.name: round(found.value, 3) for found in results.ratios},
        "goals": {found.ratio.name: _goal(found) for found in results.ratios if found.ratio.goal is not None},
        "ratio_rounds": {
            found.ratio.name: {"against": found.against, "rounds": [round(one, 3) for one in found.rounds]}
            for found in results.ratios
        },
        "subjects": results.subjects,
        "missing": results.missing,
        "figures": [_figure(figure) for figure in results.figures],
    }


def _goal(found: RatioFound) -> Json:
    goal = found.ratio.goal
    assert goal is not None
    return {"goal": goal, "value": round(found.value, 3), "met": found.value >= goal}


def _figure(figure: Figure) -> Json:
    rounds = [None if value is None else round(value, 1) for value in figure.rounds]
    median = None if figure.median is None else round(figure.median, 1)
    who = {"section": figure.section, "subject": figure.subject}
    return (
        who | asdict(figure.work) | {"unit": figure.unit, "median": median, "rounds": rounds, "problem": figure.problem}
    )


def as_markdown(results: Results) -> str:
    """Returns the results as a page with tables."""
    machine = ", ".join(f"{name} {value}" for name, value in results.machine.items())
    run = ", ".join(f"{name} {value}" for name, value in results.run.items())
    parts = [f"# Results\n\n{machine}.\n\n{run}.\n", ratio_table(results.ratios)]
    works = dict.fromkeys(figure.work for figure in results.figures)
    parts += [_work_table(work, [figure for figure in results.figures if figure.work == work]) for work in works]
    parts.append("## Who is who\n\n" + "\n".join(f"* `{name}`: {about}" for name, about in results.subjects.items()))
    if results.missing:
        parts.append("## Who is missing\n\n" + "\n".join(f"* `{name}`: {why}" for name, why in results.missing.items()))
    return "\n\n".join(parts) + "\n"


def ratio_table(ratios: Iterable[RatioFound]) -> str:
    """Returns a Markdown table of the ratios beside their goals."""
    lines = ["| ratio | of | against | median | rounds | goal | |", "|---|---|---|---|---|---|---|"]
    for found in ratios:
        goal = found.ratio.goal
        wanted = "" if goal is None else f">= {goal:g}"
        met = "" if goal is None else ("yes" if found.value >= goal else "no")
        rounds = " ".join(f"{value:.2f}" for value in found.rounds)
        what = f"{found.ratio.name} | {found.ratio.work} | {found.against}"
        lines.append(f"| {what} | {found.value:.2f} | {rounds} | {wanted} | {met} |")
    return "\n".join(lines)


def _work_table(work: Work, figures: Sequence[Figure]) -> str:
    lines = [f"## {work}", "", f"| subject | {figures[0].unit} | rounds |", "|---|---|---|"]
    for figure in sorted(figures, key=lambda figure: -(figure.median or 0.0)):
        median = "failed" if figure.median is None else f"{figure.median:,.0f}"
        rounds = " ".join("-" if value is None else f"{value:,.0f}" for value in figure.rounds)
        lines.append(f"| {figure.subject} | {median} | {figure.problem or rounds} |")
    return "\n".join(lines)
