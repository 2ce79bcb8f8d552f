"""Whether somebody listens on an address. A port that several processes share takes further ones without an error."""

from __future__ import annotations

import errno
import socket


def is_taken(address: str) -> bool:
    """Whether an address, host:port, cannot be had by a server that shares it with nobody."""
    host, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return False  # gRPC says what is wrong with it
    return any(_is_taken(family, place) for family, _, _, _, place in found)


def _is_taken(family: int, place: tuple[object, ...]) -> bool:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(
                socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
            )  # as gRPC: the last server's connections may linger
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            probe.bind(place)
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return False
