"""What a loaded version has answered since its load: counts and times, as the tools of inference servers read them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Tally:
    """How often something happened, and the nanoseconds that it took altogether."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        """Adds `count` times that took `ns` together."""
        self.count += count
        self.ns += ns

    def include(self, other: Tally) -> None:
        """Adds what another one has counted."""
        self.add(other.ns, other.count)


@dataclass(slots=True)
class Usage:
    """The work of one loaded version.

    Attributes:
        success: Callers' requests that were answered, from their arrival to their answer.
        failure: Callers' requests that failed after they were found good.
        queue: The waiting of requests for their batch to be sent.
        compute: The time that requests' batches were in Triton; each request of a batch counts the whole time of it.
        batches: The batches by their number of rows.
        last_inference_ms: The time of the last answered batch, in milliseconds since 1970; 0 before the first.
    """

    success: Tally = field(default_factory=Tally)
    failure: Tally = field(default_factory=Tally)
    queue: Tally = field(default_factory=Tally)
    compute: Tally = field(default_factory=Tally)
    batches: dict[int, Tally] = field(default_factory=dict)
    last_inference_ms: int = 0

    @property
    def rows(self) -> int:
        """The number of rows answered."""
        return sum(rows * tally.count for rows, tally in self.batches.items())

    @property
    def executions(self) -> int:
        """The number of batches that it took."""
        return sum(tally.count for tally in self.batches.values())

    def note_batch(self, rows: int, requests: int, waited_ns: int, took_ns: int) -> None:
        """Notes an answered batch: its size, how long its requests had waited together, and how long it took."""
        self.queue.add(waited_ns, requests)
        self.compute.add(took_ns * requests, requests)
        self.batches.setdefault(rows, Tally()).add(took_ns)
        self.last_inference_ms = time.time_ns() // 1_000_000

    @classmethod
    def sum(cls, usages: Iterable[Usage]) -> Usage:
        """Returns the work of several processes on the same version as one."""
        whole = cls()
        for one in usages:
            whole.success.include(one.success)
            whole.failure.include(one.failure)
            whole.queue.include(one.queue)
            whole.compute.include(one.compute)
            for rows, tally in one.batches.items():
                whole.batches.setdefault(rows, Tally()).include(tally)
            whole.last_inference_ms = max(whole.last_inference_ms, one.last_inference_ms)
        return whole
