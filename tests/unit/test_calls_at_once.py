"""Calls that are answered without a task: whoever ends them, and however, nothing of them is left."""

from __future__ import annotations

import asyncio
import gc
import gzip
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, NoReturn, cast

import grpc
import pytest

from service.domain.errors import Reason, ServiceError
from service.domain.predictor import Prediction
from service.http2 import server as http2_server
from service.http2.server import Server, ServerCall
from service.rpc import prediction_servicer
from service.rpc.boundary import LARGE_BYTES, Boundary, CallAtOnce
from service.rpc.replies import Replies
from tests.unit.http2.peer import DATA, END_STREAM, RST_STREAM, Peer, begun, connected, frame, message

METHOD = "/a/b"
PATH = METHOD.encode()
CANCEL = (8).to_bytes(4, "big")


class Work:
    """What is done for a call."""

    def __init__(self, request: bytes, call: CallAtOnce) -> None:
        self.request = request
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Side:
    """A server of one method, with room for one call; what it has begun at once, and what it is told of tasks.

    Attributes:
        begun: What was begun without a task.
        in_tasks: The requests that were answered in tasks.
        needs_task: Whether requests are left to tasks.
        error: What is raised in place of beginning.
    """

    def __init__(self) -> None:
        self.begun: list[Work] = []
        self.in_tasks: list[bytes] = []
        self.needs_task = False
        self.error: Exception | None = None
        handler = grpc.unary_unary_rpc_method_handler(self._answer, _decoded, bytes)
        boundary = Boundary({METHOD: handler}, 1, 2**20, begin={METHOD: self._begin})
        self.server = Server(boundary, 2**20)

    def _begin(self, request: bytes, call: CallAtOnce) -> Work | None:
        if self.error is not None:
            raise self.error
        if self.needs_task:
            return None
        self.begun.append(Work(request, call))
        return self.begun[-1]

    async def _answer(self, request: bytes, context: Any) -> bytes:  # Any: grpcio's contexts have no type
        self.in_tasks.append(request)
        return b"by a task"

    async def begun_works(self, number: int) -> list[Work]:
        """Returns what was begun, when there are so many."""
        await until(lambda: len(self.begun) == number)
        return self.begun


def _decoded(data: bytes) -> bytes:
    return data


async def until(holds: Callable[[], bool]) -> None:
    """Waits for a state."""
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 nothing tells
            await asyncio.sleep(0.005)


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Side, Peer]]:
    """Yields a server, and a caller who is connected to it."""
    side = Side()
    port = side.server.add_insecure_port("127.0.0.1:0")
    await side.server.start()
    try:
        async with connected(port) as peer:
            yield side, peer
    finally:
        await side.server.stop(None)


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[tuple[grpc.StatusCode, str]]:
    """How calls have ended, with what their callers are told."""
    seen: list[tuple[grpc.StatusCode, str]] = []
    end = ServerCall.end

    def noted(call: ServerCall, code: grpc.StatusCode, details: str = "") -> None:
        if not call.done():
            seen.append((code, details))
        end(call, code, details)

    monkeypatch.setattr(ServerCall, "end", noted)
    return seen


@pytest.fixture
def uncollected() -> Iterator[Callable[[], int]]:
    """Counts the calls that are there, while the garbage collector collects none."""
    gc.collect()
    gc.disable()
    yield lambda: sum(type(one) is ServerCall for one in gc.get_objects())
    gc.enable()


def call_of(data: bytes, stream: int, *, packed: bool = False) -> bytes:
    """Returns a call with one message."""
    more = [(b"grpc-encoding", b"gzip")] if packed else []
    whole = message(data, packed=packed)
    parts = [whole[start : start + 2**14] for start in range(0, len(whole), 2**14)]
    frames = [frame(DATA, 0, stream, part) for part in parts[:-1]]
    return begun(stream, PATH, more) + b"".join(frames) + frame(DATA, END_STREAM, stream, parts[-1])


async def test_a_call_that_has_come_whole_is_answered_without_a_task(uncollected: Callable[[], int]) -> None:
    async with serving() as (side, peer):
        peer.send(call_of(b"rows", 1))
        [work] = await side.begun_works(1)
        assert (work.request, work.call.done(), side.server.tasks) == (b"rows", False, set())
        work.call.answer(b"scores")
        assert await peer.until_ended(1) == message(b"scores")
        assert work.call.done()
        assert not work.cancelled
        side.begun.clear()
        del work
        await until(lambda: uncollected() == 0)
    assert side.in_tasks == []


@pytest.mark.parametrize("how", ["in two reads", "packed", "large", "as the work wants"])
async def test_a_call_of_another_kind_is_answered_in_a_task(how: str) -> None:
    data = bytes(LARGE_BYTES) if how == "large" else b"rows"
    async with serving() as (side, peer):
        side.needs_task = True
        peer.send(call_of(b"", 1))
        assert await peer.until_ended(1) == message(b"by a task")  # with it the windows are agreed on
        side.needs_task = how == "as the work wants"
        for stream in (3, 5):  # of which the first leaves the one slot to the second
            if how == "in two reads":
                peer.send(begun(stream, PATH))
                await until(lambda: len(side.server.tasks) == 1)
                peer.send(frame(DATA, END_STREAM, stream, message(data)))
            elif how == "large":
                peer.send(call_of(data, stream))
            else:
                peer.send(call_of(gzip.compress(data) if how == "packed" else data, stream, packed=how == "packed"))
            assert await peer.until_ended(stream) == message(b"by a task")
        assert (side.begun, side.in_tasks) == ([], [b"", data, data])


async def end_by_deadline(side: Side, peer: Peer) -> grpc.StatusCode:
    """Lets the deadline of a call pass."""
    peer.send(begun(1, PATH, [(b"grpc-timeout", b"50m")]) + frame(DATA, END_STREAM, 1, message(b"rows")))
    await peer.until_ended(1)
    return grpc.StatusCode.DEADLINE_EXCEEDED


async def end_by_error(side: Side, peer: Peer) -> grpc.StatusCode:
    """Has the work fail for a reason that the caller is told."""
    peer.send(call_of(b"rows", 1))
    [work] = await side.begun_works(1)
    work.call.fail(ServiceError(Reason.TRITON_UNAVAILABLE, "try again"))
    await peer.until_ended(1)
    return grpc.StatusCode.UNAVAILABLE


async def end_by_failure(side: Side, peer: Peer) -> grpc.StatusCode:
    """Has the work fail by a mistake of ours."""
    peer.send(call_of(b"rows", 1))
    [work] = await side.begun_works(1)
    work.call.fail(RuntimeError("a secret"))
    await peer.until_ended(1)
    return grpc.StatusCode.INTERNAL


async def end_by_refusal(side: Side, peer: Peer) -> grpc.StatusCode:
    """Has the work not begin."""
    side.error = ServiceError(Reason.MODEL_NOT_FOUND, "there is none")
    peer.send(call_of(b"rows", 1))
    await peer.until_ended(1)
    side.error = None
    return grpc.StatusCode.NOT_FOUND


async def end_by_reset(side: Side, peer: Peer) -> None:
    """Has the caller take the call back."""
    peer.send(call_of(b"rows", 1))
    [work] = await side.begun_works(1)
    peer.send(frame(RST_STREAM, 0, 1, CANCEL))
    await until(lambda: work.cancelled)


@pytest.mark.parametrize("end", [end_by_deadline, end_by_error, end_by_failure, end_by_refusal, end_by_reset])
async def test_however_it_ends_its_slot_is_free_and_nothing_is_left(
    end: Callable[[Side, Peer], Any], ends: list[tuple[grpc.StatusCode, str]], uncollected: Callable[[], int]
) -> None:  # Any: what coroutines could be sent
    async with serving() as (side, peer):
        code = await end(side, peer)
        assert [one for one, _ in ends] == ([code] if code else [])
        assert all("secret" not in details for _, details in ends)
        assert all(work.cancelled == (end in (end_by_deadline, end_by_reset)) for work in side.begun)
        side.begun.clear()
        peer.send(call_of(b"more rows", 3) + call_of(b"even more", 5))
        await peer.until_ended(5)
        assert ends[-1][0] is grpc.StatusCode.RESOURCE_EXHAUSTED, "one slot is free, not two"
        [work] = side.begun
        work.call.answer(b"scores")
        assert await peer.until_ended(3) == message(b"scores")
        side.begun.clear()
        del work
        await until(lambda: uncollected() == 0)


async def test_a_call_beyond_the_limit_is_refused_at_once(ends: list[tuple[grpc.StatusCode, str]]) -> None:
    async with serving() as (side, peer):
        peer.send(call_of(b"rows", 1) + call_of(b"rows", 3))
        await peer.until_ended(3)
        [(code, details)] = ends
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "MAX_CALLS" in details
        [work] = side.begun
        work.call.answer(b"scores")
        assert await peer.until_ended(1) == message(b"scores")


async def test_a_stop_waits_for_it_and_cuts_it_off_after_the_grace(ends: list[tuple[grpc.StatusCode, str]]) -> None:
    async with serving() as (side, peer):
        peer.send(call_of(b"rows", 1))
        [work] = await side.begun_works(1)
        stopping = asyncio.create_task(side.server.stop(0.2))
        await asyncio.sleep(0.05)
        assert (work.cancelled, stopping.done()) == (False, False)
        await peer.until_ended(1)
        await stopping
        assert work.cancelled
        assert ends == [(grpc.StatusCode.UNAVAILABLE, "the service is stopping")]


async def test_a_stop_lets_it_be_answered_within_the_grace() -> None:
    async with serving() as (side, peer):
        peer.send(call_of(b"rows", 1))
        [work] = await side.begun_works(1)
        stopping = asyncio.create_task(side.server.stop(20.0))
        await asyncio.sleep(0.05)
        work.call.answer(b"scores")
        assert await peer.until_ended(1) == message(b"scores")
        async with asyncio.timeout(5):
            await stopping
        assert not work.cancelled


async def test_a_reply_that_cannot_be_written_ends_its_call_only_and_frees_its_slot(
    ends: list[tuple[grpc.StatusCode, str]],
) -> None:
    async with serving() as (side, peer):
        peer.send(call_of(b"rows", 1))
        [work] = await side.begun_works(1)
        with pytest.raises(TypeError) as raised:
            work.call.answer(None)
        work.call.fail(raised.value)
        await peer.until_ended(1)
        assert [code for code, _ in ends] == [grpc.StatusCode.INTERNAL]
        peer.send(call_of(b"rows", 3))
        [_, other] = await side.begun_works(2)
        peer.send(call_of(b"rows", 5))
        await peer.until_ended(5)
        assert ends[-1][0] is grpc.StatusCode.RESOURCE_EXHAUSTED, "one slot is free, not two"
        other.call.answer(b"scores")
        assert await peer.until_ended(3) == message(b"scores")


@pytest.mark.parametrize("last", ["reset", "cut"])
async def test_a_call_that_ends_in_the_read_that_brings_it_is_not_begun(last: str) -> None:
    async with serving() as (side, peer):
        if last == "reset":
            peer.send(call_of(b"rows", 1) + frame(RST_STREAM, 0, 1, CANCEL) + call_of(b"rows", 3))
        else:
            peer.send(begun(1, PATH) + frame(DATA, END_STREAM, 1, b"\0\0") + call_of(b"rows", 3))
        [work] = await side.begun_works(1)  # for which there is the one slot
        work.call.answer(b"scores")
        assert await peer.until_ended(3) == message(b"scores")
    assert side.in_tasks == []


async def test_a_reply_that_is_not_taken_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2_server, "UNTAKEN_SECONDS", 0.1)
    async with serving() as (side, peer):
        peer.send(call_of(b"rows", 1))
        [work] = await side.begun_works(1)
        work.call.answer(bytes(200_000))  # more than the window of a caller who has not asked for a larger one
        assert len(await peer.until_ended(1)) < 200_000
        assert [call for one in side.server.connections for call in one.streams] == []


class Failing(Replies):
    """Replies that cannot be written."""

    def write(self, *_: object) -> NoReturn:
        raise MemoryError


def test_a_prediction_whose_reply_cannot_be_written_fails_alone() -> None:
    """Whoever has the scores has those of other callers too, and goes on."""
    failures: list[Exception] = []

    class Call:
        done, answer, fail = bool, failures.append, failures.append

    asker = prediction_servicer._Asker(Failing(), "tensor", False, cast("CallAtOnce", Call()))
    asker.set_result(cast("Prediction", None))
    assert [type(one) for one in failures] == [MemoryError]
