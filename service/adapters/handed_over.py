"""Callers' connections that one process accepts and another answers: their descriptors go over a pair of sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

_NOTE = b"+"
"""A descriptor cannot be sent without data."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Returns the end where connections are given, and the one where they are taken."""
    giving, taking = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    giving.setblocking(False)
    return giving, taking


def give(giving: socket.socket, connection: socket.socket) -> bool:
    """Gives a connection away; the caller's copy is still open. Returns False if the other side does not take any now."""
    try:
        socket.send_fds(giving, [_NOTE], [connection.fileno()])
    except OSError:  # it is gone, or has not taken many that were given before
        return False
    return True


def take_connections(descriptor: int, take: Callable[[socket.socket], None], lost: Callable[[], None]) -> None:
    """Has the event loop take the connections that come, until the other side is gone.

    Args:
        descriptor: The end where they are taken.
        take: Given each connection, which does not block.
        lost: Called for each that this process has no room for: it may open no more files. Its caller has lost it.
    """
    taking = socket.socket(fileno=descriptor)
    taking.setblocking(False)
    loop = asyncio.get_running_loop()

    def come() -> None:
        while True:
            try:
                note, descriptors, _, _ = socket.recv_fds(taking, len(_NOTE), 1)
            except BlockingIOError:
                return
            if not note:
                loop.remove_reader(taking)
                taking.close()
                return
            if not descriptors:
                lost()
                continue
            connection = socket.socket(fileno=descriptors[0])
            connection.setblocking(False)
            take(connection)

    loop.add_reader(taking, come)
