"""Command line of the launcher."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from triton_runtime.supervise import Settings, supervise


def main() -> int:
    """Read the arguments, run Triton until it or its owner ends, and return the exit code.

    With `install MODEL_DIR/NAME` it installs what an operator's model needs instead, with `missing` it prints what it lacks.
    """
    if sys.argv[1:2] in (["install"], ["missing"]):
        return _require(sys.argv[1], [Path(model) for model in sys.argv[2:]])
    return supervise(_read_arguments(sys.argv[1:]))


def _require(command: str, models: list[Path]) -> int:
    """Install what models need, or print it, one requirement a line; return the exit code."""
    # What it needs is Triton's environment; without one the launcher still has to say so.
    from triton_runtime import requirements

    try:
        for model in models:
            for requirement in requirements.install(model) if command == "install" else requirements.missing(model):
                print(requirement)
    except requirements.RequirementsError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _read_arguments(arguments: list[str]) -> Settings:
    parser = argparse.ArgumentParser(prog="python -m triton_runtime", description=__doc__)
    parser.add_argument("--model-repository", type=Path, required=True, metavar="DIR")
    parser.add_argument("--host", default="127.0.0.1", help="address that Triton listens on")
    parser.add_argument("--grpc-port", type=int, default=0, help="0, or a port that is taken: any free one")
    parser.add_argument(
        "--http-port",
        type=int,
        default=0,
        help="a loopback port for HTTP, where a container's health check asks /v2/health/ready; 0: none",
    )
    parser.add_argument(
        "--stop-when-stdin-closes",
        action="store_true",
        help="end Triton when standard input reaches its end, which is how the death of the owner shows",
    )
    parser.add_argument(
        "--stop-timeout",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="how long Triton may take to finish what is in flight; 0 ends it at once",
    )
    found = parser.parse_args(arguments)
    if not found.model_repository.is_dir():
        parser.error(f"the model repository {found.model_repository} is not a folder; create it first")
    return Settings(
        model_repository=found.model_repository.resolve(),
        host=found.host,
        grpc_port=found.grpc_port,
        http_port=found.http_port,
        stop_when_stdin_closes=found.stop_when_stdin_closes,
        stop_timeout=found.stop_timeout,
    )


if __name__ == "__main__":
    sys.exit(main())
