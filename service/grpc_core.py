"""How gRPC's core works in the processes of the service; to be set before grpc is imported."""

from __future__ import annotations

import os

EXPERIMENTS = "-event_engine_listener,-event_engine_client"
"""Has the thread that waits for gRPC's events read the connections itself, as gRPC's core did before it had an event engine.
With that engine a call crosses threads about twice as often (23 context switches instead of 11 for a lone prediction), which
costs 0.1 to 0.3 ms where it is dear to wake another core, as on virtual machines. The embedded Triton inherits it, and
answers no slower."""


def set_up() -> None:
    """Sets gRPC's environment variables, unless the operator has."""
    # The service never forks a process that goes on in Python; gRPC's handlers for that only warn and cost time.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    os.environ.setdefault("GRPC_EXPERIMENTS", EXPERIMENTS)
