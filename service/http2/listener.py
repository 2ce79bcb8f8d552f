"""The addresses that callers connect to: taken before anything slow is started, and accepted at once afterwards."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from typing import Any

log = logging.getLogger("fitserve.http2")

BACKLOG = 1024
"""So many connections may wait to be accepted."""

NO_ROOM_SECONDS = 1.0
"""The time until connections are accepted again, if the process or the machine had no room for one more."""

_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Listener:
    """Accepts connections. Construct it inside of the event loop.

    Args:
        take: Given each connection, which does not block; it is to be closed by whoever has it.
    """

    def __init__(self, take: Callable[[socket.socket], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._take = take
        self._sockets: list[socket.socket] = []
        self._pauses: dict[socket.socket, asyncio.TimerHandle] = {}

    def add(self, address: str) -> int:
        """Takes an address: callers can connect, and are accepted after the start.

        Args:
            address: host:port, with port 0 for a free one, or unix-abstract:NAME.

        Returns:
            The port; 1 for a name.

        Raises:
            OSError: The address is taken, or is not this machine's.
        """
        if address.startswith("unix-abstract:"):
            named = socket.socket(socket.AF_UNIX)
            named.bind("\0" + address.removeprefix("unix-abstract:"))
            named.listen(BACKLOG)
            self._sockets.append(named)
            return 1
        name, _, port = address.rpartition(":")
        number = int(port)
        missing: OSError | None = None
        taken: list[socket.socket] = []
        for family, host in _places(name.strip("[]")):
            try:
                listening = _listen(family, (host, number))
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:
                    for listening in taken:
                        listening.close()
                    raise
                missing = error  # a name may lead to addresses that this machine has not
                continue
            number = listening.getsockname()[1]
            taken.append(listening)
        if missing is not None and not taken:
            raise missing
        self._sockets += taken
        return number

    def start(self) -> None:
        """Accepts connections from now on."""
        for listening in self._sockets:
            listening.setblocking(False)
            self._loop.add_reader(listening, self._accept, listening)

    def stop(self) -> None:
        """Accepts no more, and gives the addresses back."""
        for pause in self._pauses.values():
            pause.cancel()
        for listening in self._sockets:
            self._loop.remove_reader(listening)
            listening.close()
        self._sockets, self._pauses = [], {}

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(BACKLOG):  # then it is the others' turn
            try:
                connection, _ = listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    return  # what was wrong with one connection (accept(2)); the others are tried in the next turn
                log.error("no connection can be accepted for %.0f s: %s", NO_ROOM_SECONDS, error)
                self._loop.remove_reader(listening)
                self._pauses[listening] = self._loop.call_later(
                    NO_ROOM_SECONDS, self._loop.add_reader, listening, self._accept, listening
                )
                return
            connection.setblocking(False)
            self._take(connection)


def _listen(family: int, place: tuple[Any, int]) -> socket.socket:
    dual = family == socket.AF_INET6 and place[0] == "::" and socket.has_dualstack_ipv6()
    return socket.create_server(place, family=family, backlog=BACKLOG, dualstack_ipv6=dual)


def _places(name: str) -> set[tuple[int, str]]:
    """Returns the families and addresses that a host's name leads to. Raises OSError if it is not known."""
    if name == "::" and not socket.has_ipv6:
        name = "0.0.0.0"
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return {(family, str(place[0])) for family, _, _, _, place in found}
