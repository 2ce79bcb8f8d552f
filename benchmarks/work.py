"""What is measured: the work, how one call of it looks on the wire, and who answers it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks.server_process import Server

Features: TypeAlias = NDArray[np.float32]
Predictions: TypeAlias = NDArray[Any]  # the type of the labels is the model's

STREAM_MESSAGES = 100
"""The messages of one stream, so many that its start and end do not count."""


@dataclass(frozen=True)
class Work:
    """One kind of work, the same for all who are compared in it.

    Attributes:
        model: The name of the model.
        rows: The rows of one message.
        in_flight: The calls, or streams, that are open at one time.
        stream: Whether the messages go over streams of `STREAM_MESSAGES` each, or each in a call of its own.
    """

    model: str
    rows: int
    in_flight: int
    stream: bool = False

    def __str__(self) -> str:
        """Returns the work in words, such as "forest, 32 rows a call, 256 in flight"."""
        how = ("message", "at a time") if self.stream else ("call", "in flight")
        what = "streams of " if self.stream else ""
        return f"{self.model}, {what}{self.rows} row{'s' * (self.rows > 1)} a {how[0]}, {self.in_flight} {how[1]}"


@dataclass(frozen=True)
class Call:
    """One call on the wire.

    Attributes:
        transport: HTTP/2 with gRPC's framing, or HTTP/1.1 as JSON services speak it.
        url: http://host:port/path.
        messages: The messages of a gRPC call, without their framing; the body of an HTTP call, which is one.
        read: Returns the predictions of one reply message. Raises ValueError if it holds none.
    """

    transport: Literal["grpc", "http1"]
    url: str
    messages: Sequence[bytes]
    read: Callable[[bytes], Predictions]


class Subject(Protocol):
    """Somebody who answers calls: FitServe, a limit, or a peer."""

    @property
    def name(self) -> str:
        """The name in results, such as "fitserve"."""

    @property
    def about(self) -> str:
        """One sentence that says what it is and how it is set up."""

    @property
    def servers(self) -> Sequence[Server]:
        """What must run so that it answers."""

    def call(self, work: Work) -> Call | None:
        """Returns the call of a work, or None if this subject cannot do it."""
