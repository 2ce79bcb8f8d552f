"""Predictions: find the loaded version, check the rows against its signature, batch them, give back the scores."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from functools import partial
from math import isfinite
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from service.domain.batcher import Asker, FeatureBatcher, Waiting
from service.domain.entities import Choice, Floats, Signature
from service.domain.errors import Reason, ServiceError, invalid
from service.domain.loaded import LoadedVersion
from service.domain.named_tensors import TensorBatch, joined

T = TypeVar("T")

MAX_BYTES = 512 * 2**20
"""The bytes of rows that may wait or be at work unless the settings say otherwise."""

FEW_VALUES = 64
"""So many values are looked at by Python, which is faster for them than numpy."""

PARTS_AT_WORK = 4
"""So many parts of one request that is larger than a batch wait or are in flight, so that it leaves room for others."""


class Prediction(NamedTuple):
    """The scores [rows, outputs] of some rows, and what they mean."""

    model: str
    version: int
    signature: Signature
    scores: Floats


class Request:
    """A request of one batch, from its arrival until its asker has the answer: what the batcher tells."""

    __slots__ = ("_asker", "_began_ns", "_loaded", "_predictor", "_size", "done", "waiting")

    waiting: Waiting[bytes, Floats] | None
    """The request in the batcher; None when it has ended, since it refers to this object."""

    def __init__(self, predictor: Predictor, loaded: LoadedVersion, size: int, asker: Asker[Prediction]) -> None:
        self._predictor = predictor
        self._loaded = loaded
        self._size = size
        self._asker = asker
        self._began_ns = time.monotonic_ns()
        self.done = asker.done

    def set_result(self, scores: Floats) -> None:
        """See `Asker`."""
        self._end()
        loaded = self._loaded
        loaded.batcher.usage.success.add(time.monotonic_ns() - self._began_ns)
        manifest = loaded.manifest
        self._asker.set_result(Prediction(manifest.model, manifest.version, manifest.signature, scores))

    def set_exception(self, error: Exception) -> None:
        """See `Asker`."""
        self.failed(error)
        self._asker.set_exception(error)

    def failed(self, error: Exception) -> None:
        """Notes that there is no answer."""
        self._end()
        if isinstance(error, ServiceError):
            self._loaded.batcher.usage.failure.add(time.monotonic_ns() - self._began_ns)

    def cancel(self) -> None:
        """Takes the request back: nobody waits for it any more, as `done` of its asker says."""
        waiting = self.waiting
        self._end()
        if waiting is not None:
            self._loaded.features.forget(waiting)

    def _end(self) -> None:
        self._predictor.give_back(self._size)
        self._size = 0  # who is cancelled may have been answered just before
        self.waiting = None


class TensorPrediction(NamedTuple):
    """The outputs of a model of named tensors: one batch, or one for each request of a model without rows."""

    model: str
    version: int
    signature: Signature
    outputs: Sequence[TensorBatch]


class LoadedVersions(Protocol):
    """Knows the loaded versions: the registry, and in a process that follows it what it was told."""

    def serving(self, name: str, choice: Choice) -> LoadedVersion:
        """Returns the version that answers a prediction; raises what the caller is told if there is none."""


class Predictor:
    """Answers prediction requests with loaded versions. Construct it inside of the event loop.

    Args:
        registry: Knows the loaded versions.
        max_bytes: The most bytes of rows that may wait or be at work, of all models together; more are refused at once.
    """

    def __init__(self, registry: LoadedVersions, max_bytes: int = MAX_BYTES) -> None:
        self._loop = asyncio.get_running_loop()
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
        if len(rows) <= loaded.features.max_batch_rows:
            prediction: asyncio.Future[Prediction] = self._loop.create_future()
            request = self.begin(loaded, rows, prediction, data)
            try:
                return await prediction
            except asyncio.CancelledError:
                request.cancel()
                raise
            finally:
                del prediction, request  # else an error and this frame hold each other
        model, signature = loaded.manifest.model, loaded.manifest.signature
        check_rows(rows, signature)
        loaded.touch()
        size = rows.nbytes
        self._take_room(size, model)
        try:
            scores = await _counted(loaded, _scores_in_parts(loaded, rows))
        finally:
            self.give_back(size)
        return Prediction(model, loaded.manifest.version, signature, scores)

    def begin(
        self, loaded: LoadedVersion, rows: Floats, asker: Asker[Prediction], data: bytes | None = None
    ) -> Request:
        """Has somebody told the scores of float32 rows that fit into one batch of a version, as `predict` returns them.

        Raises:
            ServiceError: As `predict`, but for those of the stream, which the asker is told.
        """
        check_rows(rows, loaded.manifest.signature)
        loaded.touch()
        size = rows.nbytes
        self._take_room(size, loaded.manifest.model)
        request = Request(self, loaded, size, asker)
        try:
            request.waiting = loaded.features.submit(rows.tobytes() if data is None else data, len(rows), request)
        except Exception as error:
            request.failed(error)
            raise
        return request

    async def predict_tensors(self, loaded: LoadedVersion, batches: Sequence[TensorBatch]) -> TensorPrediction:
        """Returns the outputs for named tensors that fit the version's signature.

        Args:
            batches: One; of a model without rows, as many as its answers are wanted of.

        Raises:
            ServiceError: PREDICTION_QUEUE_FULL, and those of the stream.
        """
        model, signature = loaded.manifest.model, loaded.manifest.signature
        loaded.touch()
        size = sum(batch.nbytes for batch in batches)
        self._take_room(size, model)
        try:
            outputs = await _counted(loaded, self._outputs(loaded, batches))
        finally:
            self.give_back(size)
        return TensorPrediction(model, loaded.manifest.version, signature, outputs)

    def _take_room(self, size: int, model: str) -> None:
        """Refuses rows of so many bytes if there is no room for them; one request that is alone always has room."""
        if self._bytes and self._bytes + size > self._max_bytes:
            raise ServiceError(
                Reason.PREDICTION_QUEUE_FULL,
                f"rows of {self._bytes} bytes wait or are at work and at most {self._max_bytes} bytes may; try again later, "
                "send smaller batches, or raise PREDICTION_QUEUE_BYTES",
                {"model": model, "limit": str(self._max_bytes), "setting": "PREDICTION_QUEUE_BYTES"},
            )
        self._bytes += size

    def give_back(self, size: int) -> None:
        """Gives the room of a request back that has ended."""
        self._bytes -= size

    @staticmethod
    async def _outputs(loaded: LoadedVersion, batches: Sequence[TensorBatch]) -> list[TensorBatch]:
        """Returns the outputs of each batch, in parts if it has more rows than one batch may hold."""
        batcher = loaded.tensors
        limit = batcher.max_batch_rows
        if len(batches) == 1 and batches[0].rows <= limit:
            return [await batcher.predict(batches[0], batches[0].rows)]
        parts = (batch[start : start + limit] for batch in batches for start in range(0, batch.rows, limit))
        with loaded.kept():
            answers = await _few_at_once(partial(batcher.predict, part, part.rows) for part in parts)
        return answers if len(batches) > 1 else [joined(answers)]


async def _scores_in_parts(loaded: LoadedVersion, rows: Floats) -> Floats:
    batcher = loaded.features
    limit = batcher.max_batch_rows
    parts = (rows[start : start + limit] for start in range(0, len(rows), limit))
    with loaded.kept():  # the version, until the last part is answered
        return np.concatenate(await _few_at_once(partial(_scores_of, batcher, part) for part in parts))


def _scores_of(batcher: FeatureBatcher, part: Floats) -> Coroutine[Any, Any, Floats]:
    return batcher.predict(part.tobytes(), len(part))


async def _counted(loaded: LoadedVersion, work: Awaitable[T]) -> T:
    """Returns what work returns, and notes that the request was answered, or failed."""
    began_ns = time.monotonic_ns()
    try:
        answer = await work
    except ServiceError:
        loaded.batcher.usage.failure.add(time.monotonic_ns() - began_ns)
        raise
    loaded.batcher.usage.success.add(time.monotonic_ns() - began_ns)
    return answer


async def _few_at_once(parts: Iterable[Callable[[], Coroutine[Any, Any, T]]]) -> list[T]:
    """Returns the answers to all parts of a request, of which PARTS_AT_WORK at the most wait or are in flight.

    Each part is made when its turn has come: a request may have millions.
    """
    numbered = enumerate(parts)
    answers: dict[int, T] = {}

    async def work() -> None:
        for place, part in numbered:
            answers[place] = await part()

    workers = [asyncio.ensure_future(work()) for _ in range(PARTS_AT_WORK)]
    try:
        await asyncio.gather(*workers)
    finally:
        while workers:  # after a failure nobody wants the rest, and its error is not to be held by this frame
            workers.pop().cancel()
    return [answers[place] for place in range(len(answers))]


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
    if not _all_finite(rows):
        check_missing(rows, signature)


def _all_finite(rows: Floats) -> bool:
    if rows.size <= FEW_VALUES:  # a sum is finite only if all its parts are, and of 32-bit floats it does not overflow
        return isfinite(sum(rows.ravel().tolist()))
    return bool(np.isfinite(rows).all())


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
