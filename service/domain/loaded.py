"""A loaded version: its stream to Triton, its batcher, and when it was last used."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from service.domain.batcher import Batcher, D, FeatureBatcher, Infer, S, watched
from service.domain.entities import Capacity, Manifest, Signature
from service.domain.lone_tries import LoneTriesBatcher
from service.domain.ports import Inference, InferenceStream, ModelCrashed, TensorStream
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


def _most_rows(signature: Signature) -> int:
    """Returns the largest batch that a version takes. Tensors without rows go alone, each request as one row."""
    return max(1, signature.max_batch_size) if signature.inputs else max_batch_rows(signature.row_bytes)


class LoadedVersion:
    """A version that answers.

    Attributes:
        batcher: What waits and is in flight, in either of the two forms: rows of features, or named tensors.
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
        self._on_crash = on_crash
        self._crashed = False
        self._keepers = 0
        self._let_go = asyncio.Event()
        self._queue_rows = queue_rows
        self._open(inference)
        self.resize(capacity)

    def _open(self, inference: Inference) -> None:
        """Opens the stream, and the batcher of what is written to it."""
        model, rows = self.manifest.model, _most_rows(self.manifest.signature)
        self._stream: InferenceStream | TensorStream
        if self.manifest.signature.inputs:
            self._stream = stream = inference.open_tensor_stream(self.manifest)
            self.tensors = LoneTriesBatcher(model, self._noticing_crashes(stream.infer), rows, self._queue_rows)
            self.batcher: Batcher[Any, Any] = self.tensors
        else:
            self._stream = plain = inference.open_stream(self.manifest)
            self.features = FeatureBatcher(model, self._noticing_crashes(plain.infer), rows, self._queue_rows)
            self.batcher = self.features

    def resize(self, capacity: Capacity) -> None:
        """Lets so much be at work from now on."""
        most = _most_rows(self.manifest.signature)
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

    def _noticing_crashes(self, infer: Infer[D, S]) -> Infer[D, S]:
        """Returns a function that sends one batch. After a crash nothing is sent: it would only wait for what is gone."""
        send = watched(infer, self.manifest.model)

        async def infer_unless_crashed(batch: D, rows: int) -> S:
            if self._crashed:
                raise ModelCrashed(self.manifest.model)
            try:
                return await send(batch, rows)
            except ModelCrashed:
                if not self._crashed:
                    self._crashed = True
                    self._on_crash(self)
                raise

        return infer_unless_crashed

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
