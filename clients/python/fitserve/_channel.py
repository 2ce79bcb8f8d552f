"""The channel's options: sizes, keepalive and the retry policy of service_config.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import resources
from typing import TypeAlias

import fitserve

Metadata: TypeAlias = Mapping[str, str | bytes] | Iterable[tuple[str, str | bytes]]
"""Pairs sent with each call, such as {"authorization": "Bearer KEY"}."""

DEFAULT_TIMEOUT = 60.0
"""How many seconds a call that is no stream may take, unless the client or the call says otherwise."""


def options() -> list[tuple[str, str | int]]:
    """Returns the options of every channel, synchronous or not."""
    config = resources.files("fitserve").joinpath("service_config.json").read_text(encoding="utf-8")
    return [
        ("grpc.service_config", config),
        ("grpc.enable_retries", 1),
        # The service bounds what it takes; the client takes what the service gives.
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        # A watch can be silent for long. Pings find out that the other side is gone, also behind a NAT.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        # A service that comes back is found within seconds, not within gRPC's two minutes.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        ("grpc.primary_user_agent", f"fitserve-python/{fitserve.__version__}"),
    ]


def pairs(metadata: Metadata | None) -> tuple[tuple[str, str | bytes], ...]:
    """Returns metadata as gRPC takes it, with keys in lower case."""
    items = metadata.items() if isinstance(metadata, Mapping) else metadata or ()
    return tuple((key.lower(), value) for key, value in items)
