"""The command line of the benchmark: `make bench`, or `python -m benchmarks --help`."""

from __future__ import annotations

import argparse
import datetime
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import machine, plan, report
from benchmarks.environments import HERE, EnvironmentFailed
from benchmarks.latency import Setting
from benchmarks.server_process import ServerFailed
from benchmarks.stage import Stage


def main() -> int:
    """Runs the benchmark and returns the exit code: 0 when it has measured, whether or not goals are met."""
    options = _read_arguments(sys.argv[1:])
    # What is started is ended on the way out, so SIGTERM must be a way out too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if not shutil.which("h2load"):
        print("make bench needs h2load: apt-get install nghttp2-client", file=sys.stderr)
        return 2
    try:
        results = _run(options)
    except ServerFailed as error:
        print(error, file=sys.stderr)
        return 1
    if options.plots:
        try:
            report.draw(options.results)
        except EnvironmentFailed as error:
            print(f"no plots: {error}", file=sys.stderr)
    print(report.findings_table(results.found.findings))
    return 0


def _read_arguments(arguments: list[str]) -> argparse.Namespace:
    sections = "\n".join(f"  {name:10} {section.about}" for name, section in plan.SECTIONS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"Measures FitServe, its limits and its peers side by side.\n\nsections:\n{sections}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", metavar="SECTION,...", help="measure these sections; default: all")
    parser.add_argument("--subjects", metavar="NAME,...", help="measure these subjects; default: everybody")
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured (default: 5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long one load is (default: 3)")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="where latest.json and latest.md go")
    parser.add_argument("--no-plots", dest="plots", action="store_false", help="draw no PNGs")
    options = parser.parse_args(arguments)
    options.only = _names(parser, "section", options.only, list(plan.SECTIONS))
    options.subjects = _names(parser, "subject", options.subjects, list(plan.EVERYBODY))
    return options


def _names(parser: argparse.ArgumentParser, what: str, given: str | None, known: list[str]) -> list[str]:
    """Returns the names that were given, or all. Ends the program if one is unknown."""
    names = given.split(",") if given else known
    if unknown := [name for name in names if name not in known]:
        parser.error(f"there is no {what} {', '.join(unknown)}; there are {', '.join(known)}")
    return names


def _run(options: argparse.Namespace) -> report.Results:
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {text}", flush=True)

    when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    sections = [plan.SECTIONS[name] for name in options.only]
    needed = {subject for section in sections for subject in section.subjects} & set(options.subjects)
    with tempfile.TemporaryDirectory(prefix="fitserve-bench-") as folder, Stage(Path(folder), needed, say) as stage:
        found = plan.Found()
        for section in sections:
            say(section.about)
            found.add(section.run(Setting(stage, options.rounds, options.seconds, say), Path(folder)))
            results = _results(options, when, stage, found)
            report.write(results, options.results)  # a run that is broken off leaves what it has
        return results


def _results(options: argparse.Namespace, when: str, stage: Stage, found: plan.Found) -> report.Results:
    run = {"when": when, "sections": " ".join(options.only), "rounds": options.rounds}
    return report.Results(
        machine=machine.facts(),
        run=run | {"seconds_a_load": options.seconds},
        subjects={name: subject.about for name, subject in stage.subjects.items()},
        missing=stage.missing,
        found=found,
    )


if __name__ == "__main__":
    sys.exit(main())
