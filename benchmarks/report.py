"""The results as JSON, as Markdown and on the terminal."""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.environments import HERE, EnvironmentFailed, python_of
from benchmarks.findings import Finding
from benchmarks.kept import Json, Measured
from benchmarks.latency import LatencyFigure
from benchmarks.plan import Found
from benchmarks.throughput import DISTURBED, Figure

Sections = Mapping[str, Measured]
"""What was measured, by section."""


def write(sections: Sections, directory: Path) -> None:
    """Writes latest.json and latest.md."""
    directory.mkdir(parents=True, exist_ok=True)
    Path(directory, "latest.json").write_text(json.dumps(as_json(sections), indent=2) + "\n")
    Path(directory, "latest.md").write_text(as_markdown(sections))


def draw(directory: Path) -> None:
    """Draws the plots of a latest.json as PNGs beside it. Raises EnvironmentFailed if matplotlib cannot be had."""
    plots = HERE / "plots"
    command = [python_of(plots), plots / "draw.py", directory / "latest.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EnvironmentFailed(done.stderr[-600:])


def as_json(sections: Sections) -> Json:
    """Returns the results as an object; its `ratios` are numbers by name, `findings` has all with what they come from."""
    found = _all_found(sections)
    return {
        "runs": {name: measured.run | {"machine": measured.machine} for name, measured in sections.items()},
        "ratios": {
            finding.goal.name: round(finding.value, 3) for finding in found.findings if finding.goal.unit == "x"
        },
        "findings": {finding.goal.name: _finding(finding) for finding in found.findings},
        "subjects": _joined(measured.subjects for measured in sections.values()),
        "missing": _joined(measured.missing for measured in sections.values()),
        "figures": [_figure(figure) for figure in found.figures],
        "latencies": [asdict(figure) for figure in found.latencies],
    }


def _all_found(sections: Sections) -> Found:
    """Returns what all sections have found. A finding that two have, as the sweep has some, is the first one's."""
    everything = Found()
    for measured in sections.values():
        known = {finding.goal.name for finding in everything.findings}
        new = [finding for finding in measured.found.findings if finding.goal.name not in known]
        everything.add(replace(measured.found, findings=new))
    return everything


def _joined(parts: Iterable[Mapping[str, str]]) -> dict[str, str]:
    return {name: text for part in parts for name, text in part.items()}


def _finding(finding: Finding) -> Json:
    return {
        "what": finding.goal.what,
        "against": finding.against,
        "value": round(finding.value, 3),
        "unit": finding.goal.unit,
        "goal": finding.goal.wanted,
        "met": finding.met,
        "rounds": [round(value, 3) for value in finding.rounds],
        **finding.details,
    }


def _figure(figure: Figure) -> Json:
    return {
        "section": figure.section,
        "subject": figure.subject,
        **asdict(figure.work),
        "unit": figure.unit,
        "median": None if figure.median is None else round(figure.median, 1),
        "rounds": [None if value is None else round(value, 1) for value in figure.rounds],
        "processor_us": {name: round(value, 2) for name, value in processor_medians(figure).items()},
        "others_share": [round(value, 3) for value in figure.foreign],
        "problem": figure.problem,
    }


def processor_medians(figure: Figure) -> dict[str, float]:
    """Returns microseconds of processor time a call, or a row of a stream, by who used it: medians of the rounds."""
    names = figure.processor[0] if figure.processor else {}
    return {name: statistics.median(one[name] for one in figure.processor) for name in names}


def as_markdown(sections: Sections) -> str:
    """Returns the results as a page with tables."""
    found = _all_found(sections)
    parts = ["# Results", findings_table(found.findings), "## What was measured when", _runs_table(sections)]
    for work, unit in dict.fromkeys((figure.work, figure.unit) for figure in found.figures):
        same = [figure for figure in found.figures if figure.work == work]
        parts += [f"## {work}", _throughput_table(same, unit)]
    for what in dict.fromkeys((figure.section, _load(figure)) for figure in found.latencies):
        same_load = [figure for figure in found.latencies if (figure.section, _load(figure)) == what]
        parts += [f"## {what[1]}", _latency_table(same_load)]
    subjects = _joined(measured.subjects for measured in sections.values())
    parts += ["## Who is who", "\n".join(f"* `{name}`: {about}" for name, about in subjects.items())]
    if missing := _joined(measured.missing for measured in sections.values()):
        parts += ["## Who is missing", "\n".join(f"* `{name}`: {why}" for name, why in missing.items())]
    return "\n\n".join(parts) + "\n"


def _runs_table(sections: Sections) -> str:
    """Returns a table of the sections' runs. Ratios are of one run; figures of different runs do not compare."""
    lines = ["| section | run | machine |", "|---|---|---|"]
    for name, measured in sections.items():
        run, machine = (
            ", ".join(f"{key} {value}" for key, value in facts.items()) for facts in (measured.run, measured.machine)
        )
        lines.append(f"| {name} | {run} | {machine} |")
    return "\n".join(lines)


def findings_table(findings: Iterable[Finding]) -> str:
    """Returns a Markdown table of the findings beside what is wanted."""
    lines = ["| figure | of | against | median | rounds | goal | |", "|---|---|---|---|---|---|---|"]
    for finding in findings:
        met = {None: "", True: "yes", False: "no"}[finding.met]
        rounds = " ".join(f"{value:.2f}" for value in finding.rounds)
        what = f"{finding.goal.name} | {finding.goal.what} | {finding.against}"
        errors = f", {finding.errors} errors" if finding.errors else ""
        lines.append(f"| {what} | {finding.value:.2f} | {rounds} | {finding.goal.wanted} | {met}{errors} |")
    return "\n".join(lines)


def _throughput_table(figures: Sequence[Figure], unit: str) -> str:
    lines = [f"| subject | {unit} | rounds | processor time, µs | |", "|---|---|---|---|---|"]
    for figure in sorted(figures, key=lambda figure: -(figure.median or 0.0)):
        median = "failed" if figure.median is None else f"{figure.median:,.0f}"
        rounds = " ".join("-" if value is None else f"{value:,.0f}" for value in figure.rounds)
        used = ", ".join(f"{name} {value:.4g}" for name, value in processor_medians(figure).items())
        disturbed = (
            f"disturbed: others used {max(figure.foreign):.0%}" if max(figure.foreign, default=0) > DISTURBED else ""
        )
        lines.append(f"| {figure.subject} | {median} | {rounds} | {used} | {figure.problem or disturbed} |")
    return "\n".join(lines)


def _load(figure: LatencyFigure) -> str:
    return figure.what.rpartition(", ")[0] if figure.section == "training" else figure.what


def _latency_table(figures: Sequence[LatencyFigure]) -> str:
    lines = ["| subject | calls/s | p50, ms | p90 | p99 | max | |", "|---|---|---|---|---|---|---|"]
    for figure in figures:
        who = figure.subject if figure.section != "training" else f"{figure.subject}, {figure.what.rpartition(', ')[2]}"
        rates = [rate for rate in figure.rate if rate]
        rate = f"{statistics.median(rates):,.0f}" if rates else ""
        names = ("p50", "p90", "p99", "max")
        values = [statistics.median(one[name] for one in figure.milliseconds) for name in names if figure.milliseconds]
        shown = " | ".join(f"{value:.2f}" for value in values) or " | | | "
        errors = f"{figure.errors} errors" if figure.errors else ""
        lines.append(f"| {who} | {rate} | {shown} | {figure.problem or errors} |")
    return "\n".join(lines)
