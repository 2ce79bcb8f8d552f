"""One call of each kind, timed and told as ghz tells it (runner/worker.go, runner/stats_handler.go)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import grpc.aio
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor

from benchmarks.ghz.config import Config, ConfigError
from benchmarks.ghz.payload import Payload
from benchmarks.ghz.report import Result
from benchmarks.ghz.templates import CallData

# What grpc-go says where grpc's core says it otherwise.
GO_TEXTS = {
    (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"): "context deadline exceeded",
    (grpc.StatusCode.CANCELLED, "Locally cancelled by application!"): "context canceled",
}
# Any: grpc.aio types its calls by their messages, which are known only at run time.
Call = Any


def status_name(code: grpc.StatusCode) -> str:
    """Returns a code's name in Go: OK, Canceled, DeadlineExceeded."""
    if code in (grpc.StatusCode.OK, grpc.StatusCode.CANCELLED):
        return {grpc.StatusCode.OK: "OK", grpc.StatusCode.CANCELLED: "Canceled"}[code]
    return "".join(word.capitalize() for word in code.name.split("_"))


class Caller:
    """Makes calls of one method over one connection.

    Attributes:
        running: The calls that have not ended.
    """

    def __init__(self, config: Config, method: MethodDescriptor, payload: Payload, channel: grpc.aio.Channel) -> None:
        """Takes the method's description and what to send with it."""
        self._config = config
        self._payload = payload
        kind = ("stream" if method.client_streaming else "unary") + ("_stream" if method.server_streaming else "_unary")
        path = f"/{method.containing_service.full_name}/{method.name}"
        answer = message_factory.GetMessageClass(method.output_type)
        self._stub = getattr(channel, kind)(path, response_deserializer=answer.FromString)
        self._talk = {
            "unary_unary": self._unary,
            "unary_stream": self._server_stream,
            "stream_unary": self._client_stream,
            "stream_stream": self._bidirectional,
        }[kind]
        self._compression = grpc.Compression.Gzip if config.enable_compression else None
        self.running: set[Call] = set()

    async def call(self, data: CallData) -> Result:
        """Makes one call and waits for its end."""
        metadata = self._payload.metadata(data)
        timeout = self._config.timeout / 1e9

        def open(*request: bytes) -> Call:
            call = self._stub(*request, metadata=metadata, timeout=timeout, compression=self._compression)
            self.running.add(call)
            call.add_done_callback(self.running.discard)
            return call

        prepared = self._prepare(data)
        started = time.perf_counter_ns()
        call = await self._talk(open, prepared)
        code, details = await call.code(), await call.details()
        latency = time.perf_counter_ns() - started
        return Result(latency, time.time_ns(), status_name(code), _go_error(code, details or ""))

    def _prepare(self, data: CallData) -> Iterator[bytes]:
        if self._talk in (self._unary, self._server_stream):
            return iter((self._payload.message(data),))
        return self._payload.stream(data)

    async def _unary(self, open: Callable[..., Call], messages: Iterator[bytes]) -> Call:
        call = open(next(messages))
        await call.code()
        return call

    async def _server_stream(self, open: Callable[..., Call], messages: Iterator[bytes]) -> Call:
        call = open(next(messages))
        await self._read(call, self._config.stream_call_count, self._config.stream_call_duration)
        return call

    async def _client_stream(self, open: Callable[..., Call], messages: Iterator[bytes]) -> Call:
        call = open()
        await self._write(call, messages)
        return call

    async def _bidirectional(self, open: Callable[..., Call], messages: Iterator[bytes]) -> Call:
        call = open()
        writing = asyncio.ensure_future(self._write(call, messages))
        try:
            await self._read(call, 0, 0)
        finally:
            writing.cancel()
            await asyncio.wait([writing])
        if not writing.cancelled():
            writing.result()  # data that cannot be made ends the load
        return call

    async def _read(self, call: Call, count: int, duration: int) -> None:
        """Reads to the end; a limit of messages or of nanoseconds cancels the call at the first message that reaches it."""
        started, received = time.perf_counter_ns(), 0
        try:
            while await call.read() is not grpc.aio.EOF:
                received += 1
                if 0 < count <= received or 0 < duration <= time.perf_counter_ns() - started:
                    call.cancel()
        except grpc.aio.AioRpcError:
            pass  # the call's code tells it
        except asyncio.CancelledError:
            if not call.cancelled():
                raise

    async def _write(self, call: Call, messages: Iterator[bytes]) -> None:
        """Writes messages at the interval, until none is left or the call's time for them is over."""
        interval, limit = self._config.stream_interval / 1e9, self._config.stream_call_duration / 1e9
        ends = time.perf_counter() + limit if limit else float("inf")
        try:
            for number, message in enumerate(messages):
                if number and interval:
                    await asyncio.sleep(min(interval, max(0.0, ends - time.perf_counter())))
                if number and time.perf_counter() >= ends:
                    break
                await call.write(message)
            await call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, grpc.aio.UsageError):
            pass  # the server has ended the call; its code tells why
        except asyncio.CancelledError:
            if not call.cancelled():
                raise
        except ConfigError:
            call.cancel()
            raise


def _go_error(code: grpc.StatusCode, details: str) -> str:
    if code == grpc.StatusCode.OK:
        return ""
    return f"rpc error: code = {status_name(code)} desc = {GO_TEXTS.get((code, details), details)}"
