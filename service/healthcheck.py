"""`python -m service.healthcheck`: asks the service at LISTEN whether it serves; for a container's health check.

Exit codes: 0 if it does, 1 if not. It reads LISTEN alone and imports little, since it runs every few seconds.
"""

from __future__ import annotations

import os
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SECONDS = 3.0


def main() -> int:
    """Prints what is wrong, if anything, and returns the exit code."""
    host, _, port = os.environ.get("LISTEN", "127.0.0.1:50051").rpartition(":")
    if host in ("0.0.0.0", "[::]"):
        host = "localhost"
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
        except grpc.RpcError as error:
            print(f"{host}:{port} does not answer: {error.code().name}", file=sys.stderr)
            return 1
    name: str = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
    print(name)
    return 0 if reply.status == health_pb2.HealthCheckResponse.SERVING else 1


if __name__ == "__main__":
    sys.exit(main())
