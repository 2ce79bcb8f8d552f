"""How gRPC's core works in the processes of the service; to be set before grpc is imported."""

from __future__ import annotations

import os


def set_up() -> None:
    """Sets gRPC's environment variable, unless the operator has.

    The service never forks a process that goes on in Python; gRPC's handlers for that only warn and cost time.
    """
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
