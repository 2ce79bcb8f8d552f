"""A service that answers as a test tells it to, and each client connected to it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import cast

import fitserve
import pytest

from tests.unit.client.fake_service import Blocking, FakeService, run


@pytest.fixture
def service() -> Iterator[FakeService]:
    """A service without handlers."""
    fake = FakeService()
    yield fake
    fake.stop()


@pytest.fixture(params=["sync", "async"])
def client(request: pytest.FixtureRequest, service: FakeService) -> Iterator[fitserve.Client]:
    """Each client in turn, connected to the service."""
    if request.param == "sync":
        with fitserve.Client(service.target, timeout=10, metadata={"x-api-key": "k"}) as plain:
            yield plain
        return
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def make() -> fitserve.AsyncClient:
        return fitserve.AsyncClient(service.target, timeout=10, metadata={"x-api-key": "k"})

    wrapped = run(loop, make())
    yield cast("fitserve.Client", Blocking(wrapped, loop))
    run(loop, wrapped.close())
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
