"""`python -m service`: read the settings, run, exit code.

Exit codes: 0 after a stop by signal, 1 if the service cannot start or fails, 2 for a wrong setting.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.settings import Settings


def main() -> int:
    """Runs the service and returns its exit code."""
    # What is imported here is all that --help costs.
    from service import __version__
    from service.settings import help_text, read_settings

    parser = argparse.ArgumentParser(
        prog="python -m service",
        description="FitServe: trains models and serves them through Triton, over gRPC.",
        epilog="settings, as environment variables or in a file .env:\n\n" + help_text(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.parse_args()
    try:
        settings = read_settings()
    except ValueError as error:
        print(f"fitserve: {error}; see python -m service --help", file=sys.stderr)
        return 2
    return _run(settings)


def _run(settings: Settings) -> int:
    from service import grpc_core

    grpc_core.set_up()
    import uvloop

    from service import logs, memory, open_files
    from service.adapters.journal import DatabaseNotUsable
    from service.adapters.repository import RepositoryInUse
    from service.domain.errors import ServiceError
    from service.http2 import Nghttp2Missing

    try:
        from service.lifecycle import CannotListen, serve
    except Nghttp2Missing as error:
        print(f"fitserve: {error}", file=sys.stderr)
        return 1

    memory.keep_small()
    open_files.allow_all()  # the processes that it starts inherit it
    logs.set_up(settings.log_level)
    try:
        uvloop.run(serve(settings))
    except (CannotListen, RepositoryInUse, DatabaseNotUsable, ServiceError) as error:
        print(f"fitserve: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
