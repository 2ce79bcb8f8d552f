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

from benchmarks import kept, machine, plan, report
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
        found = _run(options)
    except ServerFailed as error:
        print(error, file=sys.stderr)
        return 1
    if options.plots:
        try:
            report.draw(options.results)
        except EnvironmentFailed as error:
            print(f"no plots: {error}", file=sys.stderr)
    print(report.findings_table(found.findings))
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


def _run(options: argparse.Namespace) -> plan.Found:
    """Measures the sections that were asked for and returns what they have found."""
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {text}", flush=True)

    sections = {name: plan.SECTIONS[name] for name in options.only}
    needed = {subject for section in sections.values() for subject in section.subjects} & set(options.subjects)
    everything = plan.Found()
    with tempfile.TemporaryDirectory(prefix="fitserve-bench-") as folder, Stage(Path(folder), needed, say) as stage:
        for name, section in sections.items():
            say(section.about)
            found = section.run(Setting(stage, options.rounds, options.seconds, say), Path(folder))
            everything.add(found)
            kept.keep(name, _measured(options, section, stage, found), options.results)
            report.write(kept.read(options.results), options.results)  # a run that is broken off leaves what it has
    return everything


def _measured(options: argparse.Namespace, section: plan.Section, stage: Stage, found: plan.Found) -> kept.Measured:
    when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return kept.Measured(
        run={"when": when, "commit": machine.commit(), "rounds": options.rounds, "seconds_a_load": options.seconds},
        machine=machine.facts(),
        subjects={name: subject.about for name, subject in stage.subjects.items() if name in section.subjects},
        missing={name: why for name, why in stage.missing.items() if name in section.subjects},
        found=found,
    )


if __name__ == "__main__":
    sys.exit(main())
