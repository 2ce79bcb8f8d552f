"""Memory that is given back while the process stops."""

from __future__ import annotations

import asyncio
import logging

import pytest
import uvloop

from service import memory
from service.memory import Trimmer


def test_a_trim_that_comes_due_while_the_loop_ends_makes_no_noise(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(memory, "FIRST_TRIM_SECONDS", 0.01)

    async def stop_after_a_large_message() -> None:
        Trimmer().large_message()
        loop = asyncio.get_running_loop()
        await loop.shutdown_default_executor()
        trimmed = loop.create_future()
        loop.call_later(2 * memory.FIRST_TRIM_SECONDS, trimmed.set_result, None)
        await trimmed

    with caplog.at_level(logging.ERROR):
        uvloop.run(stop_after_a_large_message())
    assert not caplog.records
