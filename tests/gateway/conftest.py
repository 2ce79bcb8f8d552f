"""A gateway in front of the shared service."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.gateway_process import GatewayProcess
from tests.service_process import ServiceProcess

StartGateway = Callable[..., GatewayProcess]


@pytest.fixture(scope="session")
def gateway(service: ServiceProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway that the tests of one worker share."""
    process = GatewayProcess(tmp_path_factory.mktemp("gateway"), service.address)
    yield process
    assert process.stop() == 0


@pytest.fixture
def start_gateway(tmp_path: Path) -> Iterator[StartGateway]:
    """Starts gateways with settings of their own: `start_gateway(address, GATEWAY_GRACE_SECONDS="1")`."""
    started: list[GatewayProcess] = []

    def start(service: str, **settings: str) -> GatewayProcess:
        started.append(GatewayProcess(tmp_path, service, **settings))
        return started[-1]

    yield start
    for process in started:
        process.stop()
