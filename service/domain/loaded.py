"""A loaded version: its stream to Triton, its batcher, and when it was last used."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from service.domain.batcher import Batcher, watched
from service.domain.entities import Capacity, Floats, Manifest
from service.domain.ports import Inference, ModelCrashed
from service.domain.shared_state import Work
from service.domain.usage import Usage

DRAIN_SECONDS = 30.0
"""How long an unload waits for requests in flight."""

BATCH_BYTES = 16 * 2**20
"""The most bytes of features in one batch; keeps the memory of Triton's stub small for images."""

BATCH_ROWS = 1024
"""The most rows in one batch."""

_serials = itertools.count(1)


def max_batch_rows(row_bytes: int) -> int:
    """Returns the largest batch for rows of this size: the `max_batch_size` of the model's configuration."""
    return max(1, min(BATCH_ROWS, BATCH_BYTES // row_bytes))


class LoadedVersion:
    """A version that answers.

    Attributes:
        serial: The number of this load; no other one of this process has it.
        elsewhere: The work of other processes with it, as far as it is known.

    Args:
        manifest: The version.
        inference: The server that has it loaded.
        queue_rows: The most rows that may wait, unless the capacity says otherwise.
        capacity: How much of it may be at work.
        loaded_by: Who asked for it.
        load_time: When it was loaded.
        on_crash: Called once, with this object, when the server has lost the version.
    """

    def __init__(
        self,
        manifest: Manifest,
        inference: Inference,
        queue_rows: int,
        capacity: Capacity,
        loaded_by: str,
        load_time: datetime,
        on_crash: Callable[[LoadedVersion], None],
    ) -> None:
        self.serial = next(_serials)
        self.elsewhere: Sequence[Work] = ()
        self.manifest = manifest
        self.loaded_by = loaded_by
        self.load_time = load_time
        self.last_used = time.monotonic()
        row_bytes = manifest.signature.row_bytes
        self._stream = inference.open_stream(manifest)
        self._send = watched(self._stream.infer, manifest.model)
        self._on_crash = on_crash
        self._crashed = False
        self._keepers = 0
        self._let_go = asyncio.Event()
        self._queue_rows = queue_rows
        self.batcher = Batcher(manifest.model, self._infer, row_bytes, max_batch_rows(row_bytes), queue_rows)
        self.resize(capacity)

    def resize(self, capacity: Capacity) -> None:
        """Lets so much be at work from now on."""
        most = max_batch_rows(self.manifest.signature.row_bytes)
        self.batcher.resize(
            capacity.instances,
            min(most, capacity.max_batch_rows or most),
            capacity.max_queue_rows or self._queue_rows,
        )

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keeps the version from going for a block, in which a request for it is read: it waits nowhere yet."""
        self._keepers += 1
        try:
            yield
        finally:
            self._keepers -= 1
            if not self._keepers:
                self._let_go.set()

    @property
    def pending_requests(self) -> int:
        """The number of requests that wait or are in flight, in all processes."""
        return self.batcher.pending_requests + sum(work.pending for work in self.elsewhere)

    @property
    def last_use(self) -> float:
        """When it was last used by any process, in seconds of the monotonic clock."""
        return max(self.last_used, *(work.last_used for work in self.elsewhere), 0.0)

    @property
    def usage(self) -> Usage:
        """What all processes have answered with it."""
        return Usage.sum([self.batcher.usage, *(work.usage for work in self.elsewhere)])

    @property
    def work(self) -> Work:
        """What this process has to do, and has done, with it."""
        return Work(self.batcher.pending_requests, self.last_used, self.batcher.usage)

    def touch(self) -> None:
        """Notes that the version is in use."""
        self.last_used = time.monotonic()

    async def _infer(self, batch: bytes, rows: int) -> Floats:
        """Sends one batch. After a crash nothing is sent: it would only wait for what is gone."""
        if self._crashed:
            raise ModelCrashed(self.manifest.model)
        try:
            return await self._send(batch, rows)
        except ModelCrashed:
            if not self._crashed:
                self._crashed = True
                self._on_crash(self)
            raise

    async def drain(self) -> None:
        """Lets the requests in flight finish, for `DRAIN_SECONDS` at most, and closes the stream."""
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while self._keepers:
                    self._let_go.clear()
                    await self._let_go.wait()
                await self.batcher.drained()
        except TimeoutError:
            pass  # closing fails what is left, with UNAVAILABLE
        await self._stream.close()

    async def close(self) -> None:
        """Closes the stream at once; what waits or is in flight fails with TRITON_UNAVAILABLE."""
        await self._stream.close()
