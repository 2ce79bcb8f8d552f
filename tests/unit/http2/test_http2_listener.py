"""Who connects is accepted, also after a time in which there was no room for it."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from service.http2 import listener as module
from service.http2.listener import Listener


@contextmanager
def no_room() -> Iterator[None]:
    """Lets the process open no further files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
async def accepted() -> asyncio.Queue[socket.socket]:
    """The connections that were accepted."""
    return asyncio.Queue()


@pytest.fixture
async def listener(accepted: asyncio.Queue[socket.socket]) -> Listener:
    """A listener that has not started."""
    return Listener(accepted.put_nowait)


async def test_who_connects_before_the_start_is_accepted_after_it(
    listener: Listener, accepted: asyncio.Queue[socket.socket]
) -> None:
    port = listener.add("127.0.0.1:0")
    with socket.create_connection(("127.0.0.1", port)) as caller:
        await asyncio.sleep(0.05)
        assert accepted.empty()
        listener.start()
        with await asyncio.wait_for(accepted.get(), 5) as connection:
            assert connection.getpeername() == caller.getsockname()
            assert connection.getblocking() is False
    listener.stop()


async def test_after_the_stop_nobody_connects_and_the_address_is_free(
    listener: Listener, accepted: asyncio.Queue[socket.socket]
) -> None:
    port = listener.add("127.0.0.1:0")
    listener.start()
    listener.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    socket.create_server(("127.0.0.1", port)).close()


async def test_an_address_that_is_taken_is_refused(listener: Listener) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(OSError, match="in use"):
        listener.add(f"127.0.0.1:{other.getsockname()[1]}")


@pytest.mark.parametrize("stops", [False, True])
async def test_who_comes_while_no_file_can_be_opened_is_accepted_later(
    listener: Listener,
    accepted: asyncio.Queue[socket.socket],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    stops: bool,
) -> None:
    monkeypatch.setattr(module, "NO_ROOM_SECONDS", 0.05)
    port = listener.add("127.0.0.1:0")
    listener.start()
    with socket.socket() as caller, caplog.at_level(logging.ERROR):
        with no_room():
            caller.connect(("127.0.0.1", port))
            await asyncio.sleep(0.12)
            assert accepted.empty()
            assert "Too many open files" in caplog.text
            if stops:
                listener.stop()
        if stops:
            await asyncio.sleep(0.1)
            assert accepted.empty()
        else:
            (await asyncio.wait_for(accepted.get(), 5)).close()
            listener.stop()
