"""One batcher per loaded version: the rows of all waiting requests become one batch on one stream to Triton.

While a batch is in flight the next one fills. No timer is needed: what waits is sent as soon as there is room in flight, so
a lone request waits for nobody, and a busy service makes large batches, which cost it less.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from service.alertness import Alertness
from service.deadlines import Deadlines
from service.domain.entities import Floats
from service.domain.errors import Reason, ServiceError
from service.domain.named_tensors import TensorBatch, joined
from service.domain.ports import ModelCrashed
from service.domain.usage import Usage

log = logging.getLogger("fitserve.batcher")

PIPELINE_REQUESTS = 64
"""Below this many requests in flight a second batch may be sent, so that Triton computes while Python prepares.
With more, larger batches win (measured; see DESIGN.md section 8)."""

MAX_IN_FLIGHT = 2
"""Batches in flight at the most, for a model of one copy: one more than there are copies."""

BATCH_SECONDS = 60.0
"""A batch that has no answer after so long has none to come: the process of its model hangs. Batches are small, of 16 MB and
1024 rows at the most, and few are in flight, so it is the same for all of them."""

LONE_TRIES = 8
"""When so many members of a rejected batch were tried alone and none was answered, it is not the members: the others fail
without a try."""

RETRY_PAUSE = 1.0
"""Seconds from that until members of a rejected batch are tried alone again. So a model that always fails costs one try a
batch, and a few more each second."""

_NOBODY_WAITS_ALONE = nullcontext()

_SERVER_IS_AWAY = (Reason.TRITON_UNAVAILABLE, Reason.MODEL_LOADING)
"""Errors that say nothing of the rows."""


class Sliceable(Protocol):
    """Answers of some rows, of which `[start:stop]` are those of one request."""

    def __getitem__(self, rows: slice, /) -> Any:  # Any: numpy's arrays say it in their own way
        """Returns some rows."""


D = TypeVar("D")
S = TypeVar("S", bound=Sliceable)

Infer = Callable[[D, int], Awaitable[S]]
"""Sends a batch of so many rows, and returns its scores."""


T = TypeVar("T", contravariant=True)


class Asker(Protocol[T]):
    """Who waits for an answer: a future, or what costs less."""

    def done(self) -> bool:
        """Whether nobody waits any more."""

    def set_result(self, result: T, /) -> None:
        """Takes the answer."""

    def set_exception(self, exception: Exception, /) -> None:
        """Takes why there is none."""


@dataclass(slots=True, eq=False)
class Waiting(Generic[D, S]):
    """Rows that wait for their scores."""

    data: D
    rows: int
    asker: Asker[S]
    arrival_ns: int = field(default_factory=time.monotonic_ns)


def watched(infer: Infer[D, S], model: str, seconds: float = BATCH_SECONDS) -> Infer[D, S]:
    """Returns a function that does what `infer` does, and raises ModelCrashed if that takes longer than `seconds`.

    To be called inside of the event loop.
    """
    loop = asyncio.get_running_loop()
    late: set[asyncio.Task[Any]] = set()  # Any: of whatever sends batches

    def give_up(task: asyncio.Task[Any]) -> None:
        late.add(task)
        task.cancel()

    deadlines = Deadlines(seconds, give_up)

    async def infer_in_time(batch: D, rows: int) -> S:
        task = asyncio.current_task(loop)
        assert task is not None
        deadlines.begins(task)
        try:
            return await infer(batch, rows)
        except asyncio.CancelledError:
            if task not in late or task.uncancel() > 0:
                raise
        finally:
            deadlines.ends(task)
            late.discard(task)
        log.error("a batch of model %s has no answer after %.0f s", model, seconds)
        raise ModelCrashed(model)

    return infer_in_time


class Batcher(Generic[D, S]):
    """Collects rows into batches and splits their scores among the callers. Construct it inside of the event loop.

    Rows come in the form D and their scores in the form S; which ones they are the two classes below say.

    Attributes:
        usage: What was answered; the batcher notes the batches, its callers their requests.

    Args:
        model: The model's name, for messages.
        infer: Sends one batch.
        join: Makes one batch of the rows of several requests.
        max_batch_rows: The largest batch that the model takes.
        max_queued_rows: The most rows that may wait; more are refused at once.
    """

    def __init__(
        self,
        model: str,
        infer: Infer[D, S],
        join: Callable[[Sequence[D]], D],
        max_batch_rows: int,
        max_queued_rows: int,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._model = model
        self._infer = infer
        self._join = join
        self._max_batch_rows = max_batch_rows
        self._max_queued_rows = max_queued_rows
        self._queue: OrderedDict[Waiting[D, S], None] = OrderedDict()
        self._queued_rows = 0
        self._instances = 1
        self._requests_in_flight = 0
        self._batches: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._filling = False
        self._alertness = Alertness(self._loop.call_soon)
        self._no_retries_before = 0.0
        self.usage = Usage()

    @property
    def pending_requests(self) -> int:
        """The number of requests that wait or are in flight."""
        return len(self._queue) + self._requests_in_flight

    @property
    def max_batch_rows(self) -> int:
        """The largest number of rows that one call of `predict` may have."""
        return self._max_batch_rows

    async def predict(self, data: D, rows: int) -> S:
        """Returns the scores of at most `max_batch_rows` rows.

        Raises:
            ServiceError: PREDICTION_QUEUE_FULL, or what the stream says.
        """
        scores: asyncio.Future[S] = self._loop.create_future()
        waiting = self.submit(data, rows, scores)
        try:
            return await scores
        except asyncio.CancelledError:
            self.forget(waiting)
            raise
        finally:
            del scores, waiting  # else an error and this frame hold each other, and with them the rows of its callers

    def submit(self, data: D, rows: int, asker: Asker[S]) -> Waiting[D, S]:
        """Has somebody told the scores of at most `max_batch_rows` rows; `forget` takes back what it returns.

        Raises:
            ServiceError: PREDICTION_QUEUE_FULL; the asker is told everything else.
        """
        if self._queued_rows + rows > self._max_queued_rows and self._queue:
            raise ServiceError(
                Reason.PREDICTION_QUEUE_FULL,
                f"{self._queued_rows} rows wait for model {self._model!r} and at most {self._max_queued_rows} may; "
                "try again later, or raise PREDICTION_QUEUE_ROWS",
                {"model": self._model, "limit": str(self._max_queued_rows)},
            )
        waiting = Waiting(data, rows, asker)
        self._queue[waiting] = None
        self._queued_rows += rows
        self._idle.clear()
        self._fill()
        return waiting

    def resize(self, instances: int, max_batch_rows: int, max_queued_rows: int) -> None:
        """Sets how many copies of the model work in parallel, and the limits, from now on."""
        self._instances = instances
        self._max_batch_rows = max_batch_rows
        self._max_queued_rows = max_queued_rows
        if self._queue:
            self._fill()

    async def drained(self) -> None:
        """Returns when nothing waits and nothing is in flight."""
        await self._idle.wait()

    def forget(self, waiting: Waiting[D, S]) -> None:
        """Takes the rows of a caller who has gone off the queue, if they still wait: they hold no place and no memory."""
        if waiting in self._queue:
            del self._queue[waiting]
            self._queued_rows -= waiting.rows

    def _fill(self) -> None:
        """Has what waits sent at the end of this turn of the event loop, if there is room; those who come till then join."""
        if self._filling or self._full or not self._queue:
            return
        self._filling = True
        self._batches.add(self._loop.create_task(self._run()))

    @property
    def _full(self) -> bool:
        """Whether as many batches are in flight as may be: one a copy and, while few requests are, one that waits there."""
        more = MAX_IN_FLIGHT - 1 if self._requests_in_flight < PIPELINE_REQUESTS else 0
        return len(self._batches) >= self._instances + more

    def _next_members(self) -> list[Waiting[D, S]]:
        """Takes requests off the queue for one batch; those whose caller has just gone are dropped.

        Copies that have nothing to do share what waits. The first request is taken in any case: the limit may have been
        higher when it came.
        """
        members: list[Waiting[D, S]] = []
        rows = 0
        idle = max(1, self._instances - len(self._batches) + 1)  # this batch is one of them
        limit = min(self._max_batch_rows, -(-self._queued_rows // idle))
        while self._queue:
            waiting = next(iter(self._queue))
            if members and rows + waiting.rows > limit:
                break
            del self._queue[waiting]
            self._queued_rows -= waiting.rows
            if not waiting.asker.done():
                members.append(waiting)
                rows += waiting.rows
        return members

    async def _run(self) -> None:
        """Sends one batch of what waits and answers its members."""
        self._filling = False
        members: list[Waiting[D, S]] = []
        try:
            members = self._next_members()
            self._requests_in_flight += len(members)
            self._fill()  # there may be another copy for the rest
            if members:
                await self._answer(members)
        except Exception as error:  # such as no memory for the batch; without an answer its callers would wait for ever
            log.exception("a batch of model %s could not be put together, or taken apart", self._model)
            self._fail(members, error)
        finally:
            self._requests_in_flight -= len(members)
            if (task := asyncio.current_task(self._loop)) is not None:
                self._batches.discard(task)
            self._fill()
            if not self._queue and not self._requests_in_flight:
                self._idle.set()

    async def _answer(self, members: list[Waiting[D, S]]) -> bool:
        """Sends one batch and answers its members. Returns whether they have their scores."""
        data = members[0].data if len(members) == 1 else self._join([member.data for member in members])
        rows, sent_ns = sum([member.rows for member in members]), time.monotonic_ns()
        try:
            with self._alertness if self._requests_in_flight == 1 else _NOBODY_WAITS_ALONE:
                scores = await self._infer(data, rows)
        except ServiceError as error:
            await self._answer_rejected(members, error)
            return False
        except asyncio.CancelledError:
            self._fail(
                members, ServiceError(Reason.TRITON_UNAVAILABLE, f"model {self._model!r} was unloaded meanwhile")
            )
            raise
        except Exception as error:
            self._fail(members, error)
            return False
        waited_ns = sum(sent_ns - member.arrival_ns for member in members)
        self.usage.note_batch(rows, len(members), waited_ns, time.monotonic_ns() - sent_ns)
        start = 0
        for member in members:
            if not member.asker.done():
                member.asker.set_result(scores[start : start + member.rows])
            start += member.rows
        return True

    async def _answer_rejected(self, members: list[Waiting[D, S]], error: ServiceError) -> None:
        """Sends each member of a rejected batch alone, so that a bad one fails by itself."""
        now = self._loop.time
        if len(members) == 1 or error.reason in _SERVER_IS_AWAY or now() < self._no_retries_before:
            self._fail(members, error)
            return
        tries, answered = 0, False
        for member in members:
            if tries >= LONE_TRIES and not answered:
                self._no_retries_before = now() + RETRY_PAUSE
                self._fail(members, error)
                return
            if not member.asker.done():
                answered = await self._answer([member]) or answered
                tries += 1

    @staticmethod
    def _fail(members: list[Waiting[D, S]], error: Exception) -> None:
        for member in members:
            if not member.asker.done():
                member.asker.set_exception(error)


class FeatureBatcher(Batcher[bytes, Floats]):
    """Batches of rows of little-endian float32 features; the scores of a request are float32 [rows, outputs]."""

    def __init__(self, model: str, infer: Infer[bytes, Floats], max_batch_rows: int, max_queued_rows: int) -> None:
        super().__init__(model, infer, b"".join, max_batch_rows, max_queued_rows)


class TensorBatcher(Batcher[TensorBatch, TensorBatch]):
    """Batches of named tensors. Requests whose tensors differ in more than the number of rows are not joined."""

    def __init__(
        self, model: str, infer: Infer[TensorBatch, TensorBatch], max_batch_rows: int, max_queued_rows: int
    ) -> None:
        super().__init__(model, infer, joined, max_batch_rows, max_queued_rows)

    def _next_members(self) -> list[Waiting[TensorBatch, TensorBatch]]:
        """Takes requests off the queue for one batch; those that cannot be joined to the first go back to its front."""
        members = super()._next_members()
        alike = [one for one in members if one.data.kind == members[0].data.kind]
        for waiting in reversed([one for one in members if one.data.kind != members[0].data.kind]):
            self._queue[waiting] = None
            self._queue.move_to_end(waiting, last=False)
            self._queued_rows += waiting.rows
        return alike
