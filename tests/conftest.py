"""Fixtures that all tests share: a running service, and clients of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import fitserve
import pytest

from tests.service_process import ServiceProcess

StartService = Callable[..., ServiceProcess]
_numbers = itertools.count()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A service that the tests of one worker share; each test uses model names of its own."""
    process = ServiceProcess(tmp_path_factory.mktemp("service"))
    yield process
    assert process.stop() == 0


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[StartService]:
    """Starts services with settings of their own: `start_service(MAX_LOADED_MODELS="1")`; they end with the test."""
    started: list[ServiceProcess] = []

    def start(directory: str = "service", **settings: str) -> ServiceProcess:
        started.append(ServiceProcess(tmp_path / directory, **settings))
        return started[-1]

    yield start
    for process in started:
        process.stop()


@pytest.fixture
def client(service: ServiceProcess) -> Iterator[fitserve.Client]:
    """A client of the shared service."""
    with fitserve.Client(service.address) as client:
        yield client


@pytest.fixture
def name(request: pytest.FixtureRequest) -> Iterator[str]:
    """A model name that no other test uses. The shared service forgets the model after the test, for its memory."""
    name = f"model-{next(_numbers)}"
    service = request.getfixturevalue("service") if "service" in request.fixturenames else None
    yield name
    if isinstance(service, ServiceProcess):
        with fitserve.Client(service.address) as client, suppress(fitserve.FitServeError):
            client.remove(name, force=True, timeout=10)
