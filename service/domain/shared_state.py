"""What the process that keeps the models tells those that follow it, and what they tell it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from service.domain.entities import Capacity
from service.domain.usage import Usage


@dataclass(frozen=True)
class SharedModel:
    """What answers of one model.

    Attributes:
        serving: The version that answers requests which name none; 0 if there is none.
        aliases: The version that each alias names, be it loaded or not.
        versions: The loaded versions, each with the serial number of its load: one that was loaded again has another.
        own_configs: The digests of the configurations that an operator's versions were loaded with; no other model has any.
    """

    name: str
    serving: int
    capacity: Capacity
    aliases: Mapping[str, int]
    versions: Mapping[int, int]
    own_configs: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SharedState:
    """All that a process needs to answer predictions.

    Attributes:
        triton: The host:port of Triton, or "" while it is away.
        leaving: The serial numbers of versions whose last calls are to be answered; what else is gone is gone at once.
    """

    triton: str
    models: Sequence[SharedModel]
    leaving: Sequence[int] = ()


@dataclass(frozen=True)
class Work:
    """What a process has to do, and has done, with one loaded version.

    Attributes:
        pending: The requests that wait or are in flight.
        last_used: When it was last used, in seconds of the machine's monotonic clock.
    """

    pending: int = 0
    last_used: float = 0.0
    usage: Usage = field(default_factory=Usage)
