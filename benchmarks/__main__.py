"""The command line of the benchmark: `make bench`, or `python -m benchmarks --help`."""

from __future__ import annotations

import argparse
import datetime
import shutil
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import machine, plan, ratios, report
from benchmarks.environments import HERE
from benchmarks.server_process import ServerFailed
from benchmarks.stage import Stage
from benchmarks.throughput import measure

SECTIONS = tuple(dict.fromkeys(comparison.section for comparison in plan.COMPARISONS))


def main() -> int:
    """Runs the benchmark and returns the exit code: 0 when it has measured, whether or not goals are met."""
    options = _read_arguments(sys.argv[1:])
    if not shutil.which("h2load"):
        print("make bench needs h2load: apt-get install nghttp2-client", file=sys.stderr)
        return 2
    try:
        results = _run(options)
    except ServerFailed as error:
        print(error, file=sys.stderr)
        return 1
    report.write(results, options.results)
    print(report.ratio_table(results.ratios))
    return 0


def _read_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default="", metavar="SECTION,...", help=f"of {', '.join(SECTIONS)}; default: all")
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured (default: 5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long one load is (default: 3)")
    parser.add_argument("--subjects", default="", metavar="NAME,...", help="measure these only; default: everybody")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="where latest.json and latest.md go")
    options = parser.parse_args(arguments)
    options.only = options.only.split(",") if options.only else list(SECTIONS)
    if unknown := set(options.only) - set(SECTIONS):
        parser.error(f"there is no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    options.subjects = options.subjects.split(",") if options.subjects else list(plan.EVERYBODY)
    if unknown := set(options.subjects) - set(plan.EVERYBODY):
        parser.error(f"there is no subject {', '.join(unknown)}; there are {', '.join(plan.EVERYBODY)}")
    return options


def _run(options: argparse.Namespace) -> report.Results:
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {text}", flush=True)

    when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    wanted = [comparison for comparison in plan.COMPARISONS if comparison.section in options.only]
    with (
        tempfile.TemporaryDirectory(prefix="fitserve-bench-") as directory,
        Stage(Path(directory), options.subjects, say) as stage,
    ):
        figures = measure(stage, wanted, options.rounds, options.seconds, say)
        found = [ratios.find(ratio, figures) for ratio in plan.RATIOS]
        return report.Results(
            machine=machine.facts(),
            run={"when": when, "sections": options.only, "rounds": options.rounds, "seconds_a_load": options.seconds},
            subjects={name: subject.about for name, subject in stage.subjects.items()},
            missing=stage.missing,
            figures=figures,
            ratios=[one for one in found if one],
        )


if __name__ == "__main__":
    sys.exit(main())
