"""gRPC's own client for Python, with and without asyncio, behind one interface."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from tests.conformance.messages import Answer, Ask, SimpleResponse, StreamingInputCallResponse
from tests.conformance.messages import StreamingOutputCallResponse as Output
from tests.conformance.services import PROBE, TEST_SERVICE

OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_metadata_size", 2**15)]
KINDS = {
    "UnaryCall": "unary_unary",
    "StreamingInputCall": "stream_unary",
    "StreamingOutputCall": "unary_stream",
    "HalfDuplexCall": "stream_stream",
    "FullDuplexCall": "stream_stream",
    "HoldStream": "stream_stream",
    "Pour": "unary_stream",
    "AnswerEarly": "stream_unary",
    "RefuseEarly": "stream_unary",
    "RefuseStreamEarly": "stream_stream",
}
"""The kinds of the methods; any other is unary."""

REPLIES = {"UnaryCall": SimpleResponse, "StreamingInputCall": StreamingInputCallResponse, "StreamingOutputCall": Output}
REPLIES |= {"HalfDuplexCall": Output, "FullDuplexCall": Output}
"""What the methods of TestService answer; those of the probe an Answer."""

_numbers = itertools.count()

# Any, in all of this module: messages are made at run time, and the two clients' types have nothing in common.


@dataclass(frozen=True)
class Ended:
    """A call that has ended.

    Attributes:
        replies: The messages that came.
        code: Its status.
        details: The status's text.
        trailing: The metadata after the messages.
    """

    replies: list[Any]
    code: grpc.StatusCode
    details: str
    trailing: list[tuple[str, str | bytes]]


def new_name() -> str:
    """Returns a name for a call that no other one has."""
    return f"call-{next(_numbers)}"


def method(channel: Any, name: str) -> Callable[..., Any]:
    """Returns what calls a method on a channel of either client."""
    service = TEST_SERVICE if name in REPLIES else PROBE
    return getattr(channel, KINDS.get(name, "unary_unary"))(  # type: ignore[no-any-return]  # chosen by name
        f"/{service}/{name}", lambda message: message.SerializeToString(), REPLIES.get(name, Answer).FromString
    )


def channel_to(address: str, **options: int) -> grpc.Channel:
    """Returns a channel with a connection of its own; the options are gRPC's, with underscores after "grpc."."""
    given = [(f"grpc.{name}", value) for name, value in options.items()]
    return grpc.insecure_channel(address, [*OPTIONS, ("grpc.use_local_subchannel_pool", 1), *given])


def aio_channel_to(address: str) -> grpc.aio.Channel:
    """Returns a channel of the client for asyncio with a connection of its own."""
    return grpc.aio.insecure_channel(address, [*OPTIONS, ("grpc.use_local_subchannel_pool", 1)])


class SyncCaller:
    """The client that blocks, a thread a call."""

    def __init__(self, address: str) -> None:
        self._channel = channel_to(address)
        self._threads = ThreadPoolExecutor(1000)

    async def exchange(self, name: str, messages: Sequence[Any], **options: Any) -> Ended:
        """Calls a method with all messages, reads all replies."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._exchange, name, messages, options)

    def _exchange(self, name: str, messages: Sequence[Any], options: dict[str, Any]) -> Ended:
        kind = KINDS.get(name, "unary_unary")
        sent = iter(messages) if kind.startswith("stream") else messages[0]
        call = method(self._channel, name)
        replies: list[Any] = []
        try:
            if kind.endswith("unary"):
                reply, ended = call.with_call(sent, **options)  # type: ignore[attr-defined]  # all of the kind have it
                replies.append(reply)
            else:
                ended = call(sent, **options)
                replies.extend(ended)
        except grpc.RpcError as error:
            ended = error
        return Ended(replies, ended.code(), ended.details() or "", list(ended.trailing_metadata() or ()))

    async def close(self) -> None:
        """Closes the connection."""
        self._channel.close()
        self._threads.shutdown()


class AioCaller:
    """The client for asyncio."""

    def __init__(self, address: str) -> None:
        self._channel = aio_channel_to(address)

    async def exchange(self, name: str, messages: Sequence[Any], **options: Any) -> Ended:
        """Calls a method with all messages, reads all replies."""
        kind = KINDS.get(name, "unary_unary")
        call = method(self._channel, name)(iter(messages) if kind.startswith("stream") else messages[0], **options)
        replies: list[Any] = []
        with suppress(grpc.aio.AioRpcError):
            if kind.endswith("unary"):
                replies.append(await call)
            else:
                async for reply in call:
                    replies.append(reply)  # noqa: PERF401  # those before an error count too
        return Ended(replies, await call.code(), await call.details() or "", list(await call.trailing_metadata() or ()))

    async def close(self) -> None:
        """Closes the connection."""
        await self._channel.close()


Caller = SyncCaller | AioCaller


class Watch:
    """Looks at the calls of others, over a connection of its own."""

    def __init__(self, address: str) -> None:
        self._channel = channel_to(address)

    async def _calls(self) -> Any:
        reply = await asyncio.to_thread(method(self._channel, "Calls"), Ask(), timeout=20)
        return json.loads(reply.text)

    async def until(self, name: str, state: str, seconds: float = 10.0) -> None:
        """Returns as soon as a call is in a state; fails if that takes too long."""
        end = asyncio.get_running_loop().time() + seconds
        while (found := (await self._calls())["calls"].get(name)) != state:
            assert asyncio.get_running_loop().time() < end, f"{name} is {found}, not {state}"
            await asyncio.sleep(0.02)

    async def until_all_have_ended(self, seconds: float = 20.0) -> None:
        """Returns as soon as no call with a name is at work; fails if that takes too long."""
        end = asyncio.get_running_loop().time() + seconds
        while left := [name for name, state in (await self._calls())["calls"].items() if state == "begun"]:
            assert asyncio.get_running_loop().time() < end, f"{len(left)} calls are still at work"
            await asyncio.sleep(0.02)

    async def written_when_still(self, name: str) -> int:
        """Returns how many messages the calls of a name have written, as soon as it is no more for a second."""
        last, since = -1, 0
        while since < 10:
            written = int((await self._calls())["written"].get(name, 0))
            last, since = written, since + 1 if written == last else 0
            await asyncio.sleep(0.1)
        return last

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()
