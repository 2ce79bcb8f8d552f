"""The event loops of the asynchronous tests here: a module's own `LOOP_FACTORIES`, or that of asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest


def pytest_asyncio_loop_factories(
    item: pytest.Function,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Returns the loops under which a test runs, by name."""
    factories: Mapping[str, Callable[[], asyncio.AbstractEventLoop]] = getattr(
        item.module, "LOOP_FACTORIES", {"asyncio": asyncio.new_event_loop}
    )
    return factories
