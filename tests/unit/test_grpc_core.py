"""What the service sets of gRPC's core is known to the gRPC that is installed, and gives way to the operator."""

from __future__ import annotations

import os
import subprocess
import sys

START = """
import asyncio, os
from service import grpc_core
grpc_core.set_up()
import grpc.aio
async def main():
    server = grpc.aio.server()
    server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await server.stop(None)
asyncio.run(main())
print(os.environ["GRPC_EXPERIMENTS"])
"""


def started(**settings: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "GRPC_EXPERIMENTS"}
    return subprocess.run(
        [sys.executable, "-c", START], env=inherited | settings, capture_output=True, text=True, check=True
    )


def test_grpc_knows_the_experiments_that_are_switched_off() -> None:
    assert "Unknown experiment" in started(GRPC_EXPERIMENTS="-no_such_thing").stderr

    assert "Unknown experiment" not in started().stderr


def test_what_the_operator_says_to_grpc_counts() -> None:
    assert started(GRPC_EXPERIMENTS="event_engine_listener").stdout == "event_engine_listener\n"
