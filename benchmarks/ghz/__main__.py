"""`python -m benchmarks.ghz --config load.json HOST`: runs a load as `ghz --config load.json -O json HOST` does.

Exit code 0: done, and within the thresholds if some were named; 1: outside of them; 2: the configuration cannot be run.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.ghz.config import Config, ConfigError, load_config
from benchmarks.ghz.report import write
from benchmarks.ghz.run import run
from benchmarks.ghz.slo import Slo, load_slo


def main() -> int:
    """Runs the load that the command line names and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ghz", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="a configuration file of ghz, as JSON")
    parser.add_argument(
        "--output", type=Path, help="where the report goes; else the configuration's output, else stdout"
    )
    parser.add_argument("--slo", type=Path, help="a TOML file with thresholds to check")
    parser.add_argument("host", nargs="?", default="", help="host:port; else the configuration's host")
    arguments = parser.parse_args()
    try:
        config = load_config(arguments.config)
        config = config.model_copy(update={"host": arguments.host}) if arguments.host else config
        slo = load_slo(arguments.slo) if arguments.slo else Slo(max_error_rate=1.0)
        report = uvloop.run(_run(config))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    output = arguments.output or (Path(config.output.strip()) if config.output.strip() else None)
    text = write(report, config.format)
    if output:
        output.write_text(text)
    else:
        print(text)
    violations = slo.violations(report)
    for violation in violations:
        print(violation, file=sys.stderr)
    return 1 if violations else 0


async def _run(config: Config) -> dict[str, Any]:  # Any: a report is JSON
    interrupted = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupted.set)
    return await run(config, interrupted)


if __name__ == "__main__":
    sys.exit(main())
