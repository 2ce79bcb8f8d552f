"""`python -m demo [--json] [--address HOST:PORT]`: runs the demo, and exits non-zero if any figure is wrong."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from dataclasses import asdict

import fitserve
from rich.console import Console

from demo.service import LEAST_CORES, DemoFailed, DemoService, RunningService

MODEL_COUNT = 4
"""The number of exercises, known before the libraries that make them are imported."""


def main() -> int:
    """Runs the demo and returns its exit code: 0, or 1 if a figure is wrong, or 130 if it was interrupted."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON holding the figures")
    parser.add_argument("--address", help="use the empty service that runs there, not one of the demo's own")
    arguments = parser.parse_args()
    # A SIGTERM unwinds as Ctrl-C does, so that the service is stopped with the demo.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(highlight=False)
    try:
        return demo(console, arguments.json, arguments.address)
    except KeyboardInterrupt:
        console.print("Interrupted; the demo's service is stopped.")
        return 130
    except (DemoFailed, fitserve.FitServeError) as error:
        console.print(f"The demo failed: {error}", style="bold red", markup=False, soft_wrap=True)
        return 1


def demo(console: Console, wants_json: bool, address: str | None) -> int:
    """Runs the demo, prints its figures, and returns the exit code."""
    start = time.perf_counter()
    with _service(console, address) as service:
        # scikit-learn takes seconds to import, as the service takes to start.
        from demo import figures
        from demo.run import run

        result, wrong = run(service, console)
    console.print()
    console.print(figures.table(result))
    wrong += figures.check(result)
    for line in wrong:
        console.print(f"wrong: {line}", style="bold red", markup=False, soft_wrap=True)
    verdict = "Something is wrong." if wrong else "All figures are as they should be."
    console.print(f"\n[bold]{verdict}[/] ({time.perf_counter() - start:.0f} s)")
    if wants_json:
        print(json.dumps(asdict(result)))
    return 1 if wrong else 0


def _service(console: Console, address: str | None) -> DemoService | RunningService:
    if address:
        console.print(f"[bold]Using the FitServe at {address}[/]")
        return RunningService(address, max_loaded=MODEL_COUNT)
    cores = max(LEAST_CORES, os.cpu_count() or LEAST_CORES)
    console.print(f"[bold]Starting FitServe[/] with a Triton of its own and {cores} training cores")
    return DemoService(cores, max_loaded=MODEL_COUNT)


if __name__ == "__main__":
    sys.exit(main())
