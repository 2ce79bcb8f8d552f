"""Who calls: the peer of the connection, or the one that a further process has passed a call on for."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import grpc.aio

RELAYED = "fitserve-relayed-for"
"""The header in which a further process says for whom it passes on a call: its token, a space, and the caller's peer."""

TOKEN = secrets.token_hex(16)
"""Known to this process and those that it starts. So nobody else can say who calls."""


def caller(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """Returns the peer of the caller, such as ipv4:127.0.0.1:40412. Any: the messages differ from method to method."""
    for key, value in context.invocation_metadata() or ():
        if key == RELAYED and isinstance(value, str):
            token, _, peer = value.partition(" ")
            if secrets.compare_digest(token.encode(), TOKEN.encode()):  # of texts it takes ASCII only
                return peer
    return context.peer()


def passed_on(context: grpc.aio.ServicerContext[Any, Any], token: str) -> Iterator[tuple[str, str | bytes]]:
    """Yields the metadata with which a call is passed on: the caller's own, and who that is."""
    for key, value in context.invocation_metadata() or ():
        if key not in (RELAYED, "user-agent"):  # gRPC sets its own user agent
            yield key, value
    yield RELAYED, f"{token} {context.peer()}"
