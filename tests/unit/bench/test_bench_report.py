"""The results as JSON and Markdown."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.findings import Finding, Goal
from benchmarks.kept import Measured, keep, read
from benchmarks.latency import LatencyFigure
from benchmarks.plan import Found
from benchmarks.report import as_json, as_markdown, write
from benchmarks.throughput import Figure
from benchmarks.work import Work

WORK = Work("forest", 1, 256)
RATIO = Finding(Goal("unary_vs_grpc_echo", str(WORK), "x", 0.75), [0.8, 0.7, 0.9], "grpc-echo")
LATENCY = Finding(Goal("clients_p99_ms", "p99", "ms", 50.0, least=False), [12.0], errors=3)
FAST = Figure("unary", "fitserve", WORK, "calls/s", [10.0, 30.0, 20.0], [{"fitserve": 90.0}] * 3, [0.0, 0.0, 0.3])
FAILED = Figure("unary", "peer", WORK, "calls/s", [None], problem="it does not answer")
LONE = LatencyFigure("lone", "fitserve", "one call", 0, [0.0], [{"p50": 1.0, "p90": 2.0, "p99": 3.0, "max": 4.0}])
SILENT = LatencyFigure("lone", "peer", "one call", problem="it does not answer")


def measured(found: Found) -> Measured:
    return Measured({"rounds": 3}, {"cores": 2}, {"fitserve": "FitServe."}, {"ray-serve": "no package"}, found)


def results() -> dict[str, Measured]:
    return {
        "unary": measured(Found([FAST, FAILED], [], [RATIO])),
        "lone": measured(Found([], [LONE, SILENT], [LATENCY])),
    }


def test_ratios_are_numbers_by_name_and_other_units_are_not_among_them() -> None:
    assert as_json(results())["ratios"] == {"unary_vs_grpc_echo": 0.8}


def test_a_finding_has_its_rounds_its_goal_and_whether_that_is_met() -> None:
    findings = as_json(results())["findings"]
    assert findings["unary_vs_grpc_echo"]["rounds"] == [0.8, 0.7, 0.9]
    assert findings["unary_vs_grpc_echo"]["goal"] == ">= 0.75"
    assert findings["unary_vs_grpc_echo"]["met"]
    assert not findings["clients_p99_ms"]["met"]


def test_what_was_written_is_json_and_names_who_is_missing_and_who_failed(tmp_path: Path) -> None:
    write(results(), tmp_path)
    written = json.loads((tmp_path / "latest.json").read_text())
    assert written["missing"] == {"ray-serve": "no package"}
    assert [figure["median"] for figure in written["figures"]] == [20.0, None]
    assert written["figures"][1]["problem"] == "it does not answer"


def test_the_page_shows_goals_failures_errors_and_disturbances() -> None:
    page = as_markdown(results())
    assert "| grpc-echo | 0.80 | 0.80 0.70 0.90 | >= 0.75 | yes |" in page
    assert "| no, 3 errors |" in page
    assert "| fitserve | 20 | 10 30 20 | fitserve 90 | disturbed: others used 30% |" in page
    assert "| peer | failed | - |  | it does not answer |" in page
    assert "| fitserve |  | 1.00 | 2.00 | 3.00 | 4.00 |  |" in page
    assert "`ray-serve`: no package" in page


def test_a_section_that_is_measured_again_leaves_those_of_the_others(tmp_path: Path) -> None:
    for section, one in results().items():
        keep(section, one, tmp_path)
    better = Finding(RATIO.goal, [0.9], "grpc-echo")
    keep("unary", measured(Found([FAST], [], [better])), tmp_path)
    again = read(tmp_path)
    assert as_json(again)["ratios"] == {"unary_vs_grpc_echo": 0.9}
    assert again["lone"] == results()["lone"]


def test_a_finding_that_two_sections_have_is_the_first_ones() -> None:
    sweep = measured(Found([], [], [Finding(RATIO.goal, [0.1], "grpc-echo")]))
    assert as_json(results() | {"sweep": sweep})["ratios"] == {"unary_vs_grpc_echo": 0.8}
