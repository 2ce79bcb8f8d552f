"""`python -m training serve --socket-fd N` and `python -m training fit SPEC`."""

from __future__ import annotations

import argparse
import os
import select
import sys
import time
from pathlib import Path

from training import limits


def main() -> int:
    """Runs the fork server, or one training in the foreground; returns the exit code.

    In the foreground the events go to standard output and everything else to standard error. The exit codes are 0 for
    a written version, 1 TRAINING_FAILED, 2 INVALID_FIELD, 3 TRAINER_OOM, 4 EXPORT_NOT_EQUAL, 5 DISK_FULL.
    """
    parser = argparse.ArgumentParser(prog="python -m training", description="Trains models.")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="fork one process for each training that is asked for on a socket")
    serve.add_argument("--socket-fd", type=int, required=True, help="one end of a SOCK_SEQPACKET pair")
    fit = commands.add_parser("fit", help="run one training in the foreground")
    fit.add_argument("spec", type=Path, help="a file with a serialized TrainingSpec")
    arguments = parser.parse_args()

    start = time.monotonic()
    limits.prepare_environment()
    if arguments.command == "serve":
        return _serve(arguments.socket_fd, start)
    return _fit(arguments.spec)


def _serve(socket_fd: int, start: float) -> int:
    # First of all: the imports take seconds, in which the service may end.
    limits.end_with_parent(os.getppid())
    if _has_hung_up(socket_fd):  # it ended before it could be seen to
        return 0
    from training import fork_server

    return fork_server.serve(socket_fd, start)


def _has_hung_up(socket_fd: int) -> bool:
    """Returns whether nobody holds the other end of a socket."""
    poll = select.poll()
    poll.register(socket_fd, 0)  # a hang-up is always told
    return bool(poll.poll(0))


def _fit(spec: Path) -> int:
    from training import run, warm_up

    events = os.dup(1)
    os.dup2(2, 1)
    warm_up.import_libraries()
    return run.execute(spec, events)


if __name__ == "__main__":
    sys.exit(main())
