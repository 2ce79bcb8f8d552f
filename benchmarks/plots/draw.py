"""Draws the plots of a latest.json beside it: `python draw.py RESULTS/latest.json`. It has an environment of its own."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot

OURS, LIMIT, PEER = "#0b7a75", "#b8b8b8", "#d98032"
COLOURS = {"fitserve": OURS, "fitserve-2": OURS, "triton": LIMIT, "grpc-echo": LIMIT, "grpc-echo-uvloop": LIMIT}
PERCENTILES = ("p50", "p99")
SHOWN_TIMES = 10.0
"""So many times as good as its goal, or as bad, is a ratio shown at the most."""
Figures = list[dict[str, Any]]  # Any: JSON


def main(path: Path) -> None:
    """Draws all plots that the results have figures for."""
    results = json.loads(path.read_text())
    _ratios(results["findings"], path.with_name("ratios.png"))
    unary = [figure for figure in results["figures"] if figure["section"] == "unary" and figure["median"]]
    _throughput(unary, path.with_name("throughput.png"))
    swept = [figure for figure in results["figures"] if figure["section"] == "sweep" and figure["median"]]
    _sweep(swept, path.with_name("sweep.png"))
    for section, title in (("lone", "One call after the other"), ("half", "Half of the saturating rate")):
        latencies = [one for one in results["latencies"] if one["section"] == section and one["milliseconds"]]
        _latency(latencies, title, path.with_name(f"latency-{section}.png"))


def _ratios(findings: dict[str, dict[str, Any]], path: Path) -> None:
    """Draws each ratio as a share of its goal, to the right what is better; beyond ten times the goal a bar is cut off.

    What has to stay below a bound is turned over.
    """
    shares = {}
    for name, finding in findings.items():
        if finding["goal"] and finding["value"] > 0:
            comparison, bound, *_ = finding["goal"].split()
            share = finding["value"] / float(bound)
            shares[f"{name}\n{finding['value']:.3g} {finding['unit']} (goal {finding['goal']})"] = (
                share if comparison == ">=" else 1 / share
            )
    if not shares:
        return
    figure, axes = pyplot.subplots(figsize=(9, 0.7 * len(shares) + 1.2))
    colours = [OURS if share >= 1 else PEER for share in shares.values()]
    axes.set_xscale("log")
    axes.barh(list(shares), [share - 1 for share in shares.values()], left=1.0, color=colours)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xlim(1 / SHOWN_TIMES, SHOWN_TIMES)
    axes.set_xticks([0.1, 0.2, 0.5, 1, 2, 5, 10], ["0.1", "0.2", "0.5", "1", "2", "5", "10"])
    axes.set_xlabel("times as good as the goal (right is better)")
    axes.invert_yaxis()
    _save(figure, path)


def _throughput(figures: Figures, path: Path) -> None:
    works = list(dict.fromkeys(_work(figure) for figure in figures))
    if not works:
        return
    figure, grid = pyplot.subplots(1, len(works), figsize=(5 * len(works), 5), squeeze=False)
    for axes, work in zip(grid[0], works, strict=True):
        same = sorted((one for one in figures if _work(one) == work), key=lambda one: one["median"])
        axes.barh([one["subject"] for one in same], [one["median"] for one in same], color=_colours(same))
        for row, one in enumerate(same):
            axes.text(one["median"], row, f" {one['median']:,.0f}", va="center", fontsize=8)
        axes.set_title(work, fontsize=10)
        axes.set_xlabel("calls a second")
        axes.margins(x=0.15)
    _save(figure, path)


def _sweep(figures: Figures, path: Path) -> None:
    models, rows = _values(figures, "model"), _values(figures, "rows")
    if not models:
        return
    figure, grid = pyplot.subplots(len(models), len(rows), figsize=(4 * len(rows), 3 * len(models)), squeeze=False)
    for line, model in zip(grid, models, strict=True):
        for axes, count in zip(line, rows, strict=True):
            same = [one for one in figures if one["model"] == model and one["rows"] == count]
            for subject in _values(same, "subject"):
                points = sorted((one["in_flight"], one["median"]) for one in same if one["subject"] == subject)
                axes.plot(*zip(*points, strict=True), marker="o", label=subject)
            axes.set(xscale="log", yscale="log", title=f"{model}, {count} row(s) a call", xlabel="in flight")
            axes.set_ylabel("calls a second")
    grid[0][0].legend(fontsize=8)
    _save(figure, path)


def _latency(figures: Figures, title: str, path: Path) -> None:
    if not figures:
        return
    figure, axes = pyplot.subplots(figsize=(8, 0.55 * len(figures) + 1.5))
    names = [one["subject"] for one in figures]
    for offset, name in enumerate(PERCENTILES):
        values = [statistics.median(each[name] for each in one["milliseconds"]) for one in figures]
        places = [row + 0.4 * offset - 0.2 for row in range(len(names))]
        axes.barh(places, values, height=0.38, label=name, color=_colours(figures), alpha=1.0 - 0.45 * offset)
    axes.set(yticks=range(len(names)), yticklabels=names, xscale="log", xlabel="milliseconds")
    axes.set_title(f"{title}: p50 (full), p99 (pale)")
    axes.invert_yaxis()
    _save(figure, path)


def _work(figure: dict[str, Any]) -> str:
    return f"{figure['model']}, {figure['rows']} row(s) a call, {figure['in_flight']} in flight"


def _values(figures: Figures, key: str) -> list[Any]:
    return list(dict.fromkeys(figure[key] for figure in figures))


def _colours(figures: Sequence[dict[str, Any]]) -> list[str]:
    return [COLOURS.get(figure["subject"], PEER) for figure in figures]


def _save(figure: Any, path: Path) -> None:  # Any: matplotlib is only in this script's own environment
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
