"""The containers of docker-compose.yml, as somebody outside of them sees them. Needs root, to kill their processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from tests.service_process import ROOT

UP_SECONDS = 300.0
BACK_SECONDS = 180.0
SERVICES = ("triton", "service", "gateway")


class Stack:
    """The project, on ports of its own, with the room that the demo wants.

    Attributes:
        grpc: host:port of the service.
        rest: The gateway's address.
    """

    def __init__(self) -> None:
        ports = free_ports(2)
        self.grpc, self.rest = f"127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}"
        self._environment = os.environ | {
            "COMPOSE_PROJECT_NAME": f"fitserve-test-{os.getpid()}",
            "SERVICE_PORT": str(ports[0]),
            "GATEWAY_PORT": str(ports[1]),
            "MAX_LOADED_MODELS": "4",
            "TRAINING_CORES": "2",
            "GRACE_SECONDS": "10",
            # Compose 1.29 hands builds to docker's own builder otherwise, which some engines have none of.
            "COMPOSE_DOCKER_CLI_BUILD": "0",
        }
        self._containers: dict[str, str] = {}

    def compose(self, *arguments: str) -> str:
        """Runs compose and returns what it prints on standard output."""
        has_plugin = subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0
        command = ["docker", "compose"] if has_plugin else [str(shutil.which("docker-compose"))]
        return run([*command, *arguments], env=self._environment)

    def container(self, service: str) -> str:
        """Returns the id of a service's container, which it keeps while it stops and starts."""
        if service not in self._containers:
            self._containers[service] = self.compose("ps", "-q", service).strip()
        return self._containers[service]

    def inspect(self, service: str) -> dict[str, Any]:
        """Returns all that the engine says about a service's container."""
        found: dict[str, Any] = json.loads(run(["docker", "inspect", self.container(service)]))[0]
        return found

    def crash(self, service: str) -> None:
        """Kills a container's first process from outside, and returns when the engine has started it again."""
        before = self.inspect(service)
        os.kill(before["State"]["Pid"], signal.SIGKILL)
        wait_until(lambda: self.inspect(service)["RestartCount"] > before["RestartCount"])
        wait_until(lambda: self.inspect(service)["State"]["Running"])

    def is_healthy(self, service: str) -> bool:
        """Whether a container's own check says so."""
        healthy: bool = self.inspect(service)["State"]["Health"]["Status"] == "healthy"
        return healthy

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Makes a REST call and returns its answer. Raises urllib.error.HTTPError."""
        request = urllib.request.Request(
            f"{self.rest}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.load(reply)


def run(command: list[str], **options: Any) -> str:
    """Runs a command and returns its output; fails with all that it said."""
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, **options)
    assert done.returncode == 0, f"{command}: exit code {done.returncode}\n{done.stdout[-5000:]}\n{done.stderr[-5000:]}"
    return done.stdout


def wait_until(condition: Callable[[], bool], seconds: float = BACK_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the state did not come"
        time.sleep(0.2)


def free_ports(count: int) -> list[int]:
    """Returns ports that stay the same when their container starts again, as ports of the engine's choice would not."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
