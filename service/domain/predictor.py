"""Predictions: find the loaded version, check the rows against its signature, batch them, give back the scores."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from service.domain.batcher import Batcher
from service.domain.entities import Choice, Floats, Signature
from service.domain.errors import Reason, ServiceError, invalid
from service.domain.loaded import LoadedVersion

MAX_BYTES = 512 * 2**20
"""The bytes of rows that may wait or be at work unless the settings say otherwise."""

PARTS_AT_WORK = 4
"""So many parts of one request that is larger than a batch wait or are in flight, so that it leaves room for others."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """The scores [rows, outputs] of some rows, and what they mean."""

    model: str
    version: int
    signature: Signature
    scores: Floats


class LoadedVersions(Protocol):
    """Knows the loaded versions: the registry, and in a process that follows it what it was told."""

    def serving(self, name: str, choice: Choice) -> LoadedVersion:
        """Returns the version that answers a prediction; raises what the caller is told if there is none."""


class Predictor:
    """Answers prediction requests with loaded versions.

    Args:
        registry: Knows the loaded versions.
        max_bytes: The most bytes of rows that may wait or be at work, of all models together; more are refused at once.
    """

    def __init__(self, registry: LoadedVersions, max_bytes: int = MAX_BYTES) -> None:
        self._registry = registry
        self._max_bytes = max_bytes
        self._bytes = 0

    def find(self, model: str, choice: Choice) -> LoadedVersion:
        """Returns the version that answers a request: all of it, so that its columns and its scores mean the same.

        Raises:
            ServiceError: MODEL_NOT_FOUND, VERSION_NOT_FOUND, ALIAS_NOT_FOUND, MODEL_NOT_LOADED, MODEL_LOADING,
                TRITON_UNAVAILABLE.
        """
        return self._registry.serving(model, choice)

    async def predict(self, loaded: LoadedVersion, rows: Floats, data: bytes | None = None) -> Prediction:
        """Returns the scores of float32 rows [rows, *signature.shape].

        Args:
            loaded: The version, as `find` has returned it.
            data: The bytes of the rows, if the caller has them already: they are sent as they are.

        Raises:
            ServiceError: INVALID_FIELD naming `inputs` if the rows do not fit the model, PREDICTION_QUEUE_FULL, and those
                of the stream.
        """
        model, signature = loaded.manifest.model, loaded.manifest.signature
        check_rows(rows, signature)
        loaded.touch()
        size = rows.nbytes
        self._check_room_for(size, model)
        self._bytes += size
        try:
            scores = await self._counted_scores(loaded.batcher, rows, data)
        finally:
            self._bytes -= size
        return Prediction(model, loaded.manifest.version, signature, scores)

    def _check_room_for(self, size: int, model: str) -> None:
        """Refuses rows of so many bytes if there is no room for them; one request that is alone always has room."""
        if self._bytes and self._bytes + size > self._max_bytes:
            raise ServiceError(
                Reason.PREDICTION_QUEUE_FULL,
                f"rows of {self._bytes} bytes wait or are at work and at most {self._max_bytes} bytes may; try again later, "
                "send smaller batches, or raise PREDICTION_QUEUE_BYTES",
                {"model": model, "limit": str(self._max_bytes), "setting": "PREDICTION_QUEUE_BYTES"},
            )

    async def _counted_scores(self, batcher: Batcher, rows: Floats, data: bytes | None) -> Floats:
        """Returns the scores of rows, and notes that the request was answered, or failed."""
        began_ns = time.monotonic_ns()
        try:
            scores = await self._scores(batcher, rows, data)
        except ServiceError:
            batcher.usage.failure.add(time.monotonic_ns() - began_ns)
            raise
        batcher.usage.success.add(time.monotonic_ns() - began_ns)
        return scores

    @staticmethod
    async def _scores(batcher: Batcher, rows: Floats, data: bytes | None) -> Floats:
        """Returns the scores of rows, in parts if they are more than one batch may hold."""
        limit = batcher.max_batch_rows
        if len(rows) <= limit:
            return await batcher.predict(rows.tobytes() if data is None else data, len(rows))
        window = asyncio.Semaphore(PARTS_AT_WORK)

        async def scores_of(part: Floats) -> Floats:
            async with window:
                return await batcher.predict(part.tobytes(), len(part))

        parts = [rows[start : start + limit] for start in range(0, len(rows), limit)]
        work = [asyncio.ensure_future(scores_of(part)) for part in parts]
        try:
            return np.concatenate(await asyncio.gather(*work))
        finally:
            while work:  # after a failure nobody wants the rest, and its error is not to be held by this frame
                work.pop().cancel()


def check_rows(rows: Floats, signature: Signature) -> None:
    """Checks that rows fit a signature.

    Raises:
        ServiceError: INVALID_FIELD naming `inputs`, with the shape that was given and the one that is wanted.
    """
    if rows.shape[1:] != signature.shape:
        wanted = ", ".join(map(str, signature.shape))
        given = ", ".join(map(str, rows.shape))
        raise invalid("inputs", f"the shape is [{given}] but the model takes [rows, {wanted}]")
    if len(rows) == 0:
        raise invalid("inputs", "there are no rows; send at least one")
    if not np.isfinite(rows).all():
        check_missing(rows, signature)


def check_missing(rows: Floats, signature: Signature) -> None:
    """Checks the not finite values of rows: infinity never fits, NaN only where the training data had some.

    Raises:
        ServiceError: INVALID_FIELD naming the first bad place.
    """
    bad = np.isinf(rows) if signature.missing_values else ~np.isfinite(rows)
    if not bad.any():
        return
    place = np.unravel_index(int(np.argmax(bad)), rows.shape)
    value = rows[place]
    why = (
        "the model's training data had no missing values, so it takes none"
        if np.isnan(value)
        else "infinity (or a number too large for 32-bit floats) is not allowed"
    )
    column = f" (column {signature.columns[place[1]].name!r})" if signature.columns else ""
    raise invalid(f"inputs[{', '.join(str(int(i)) for i in place)}]{column}", f"the value is {value}; {why}")
