"""gRPC's own clients for Python: what arrives, and that each side waits for the other."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict

import grpc
import pytest

from tests.conformance.callers import Caller, SyncCaller, Watch, aio_channel_to, channel_to, method, new_name
from tests.conformance.conftest import Served
from tests.conformance.messages import (
    Ask,
    EchoStatus,
    Payload,
    ResponseParameters,
    SimpleRequest,
    StreamingInputCallRequest,
    StreamingOutputCallRequest,
)

pytestmark = pytest.mark.long

OK = grpc.StatusCode.OK
LARGE = 30_000_000
TOO_LARGE = 40_000_000
STREAMS = 200
MESSAGE = 2**16

METADATA = [
    ("x-text", "plain ~ text, with a comma"),
    ("x-several", "first"),
    ("x-several", "second"),
    ("x-bytes-bin", bytes(range(256))),
    ("x-bytes-bin", "Köln".encode()),
    ("x-bytes-bin", b"\x00"),
]
ECHOED = [("x-echo", "text"), ("x-echo-bin", b"\xff\xfe\x00"), ("x-echo-bin", b"\x80,\x81")]


def outputs(*sizes: int) -> StreamingOutputCallRequest:
    return StreamingOutputCallRequest(response_parameters=[ResponseParameters(size=size) for size in sizes])


async def test_metadata_arrives_as_it_was_sent_whatever_the_bytes(caller: Caller) -> None:
    ended = await caller.exchange("Metadata", [Ask()], metadata=METADATA, timeout=20)
    came = defaultdict(list)
    for key, value in json.loads(ended.replies[0].text):
        came[key].append(bytes.fromhex(value))
    sent = defaultdict(list)
    for key, value in METADATA:
        sent[key].append(value.encode() if isinstance(value, str) else value)
    assert {key: came[key] for key in sent} == sent


@pytest.mark.parametrize("value", [" before", "after ", " "])
async def test_metadata_may_have_blanks_around(caller: Caller, value: str) -> None:
    ended = await caller.exchange("Metadata", [Ask()], metadata=[("x-echo", value)], timeout=20)
    assert ended.code == OK
    assert [text.strip() for _, text in ended.trailing] == [value.strip()]  # they may be lost on the way


async def test_metadata_comes_back_after_the_messages(caller: Caller) -> None:
    ended = await caller.exchange("Metadata", [Ask()], metadata=[*METADATA, *ECHOED], timeout=20)
    assert (ended.code, sorted(ended.trailing)) == (OK, sorted(ECHOED))


async def test_metadata_may_have_8_kib(caller: Caller) -> None:
    large = [("x-echo", "a" * 2**12), ("x-echo-bin", bytes(range(256)) * 12)]
    ended = await caller.exchange("Metadata", [Ask()], metadata=large, timeout=20)
    assert (ended.code, sorted(ended.trailing)) == (OK, large)


async def test_metadata_that_is_too_large_costs_the_call_and_not_the_connection(caller: Caller) -> None:
    beside = asyncio.create_task(caller.exchange("Hold", [Ask(name=new_name(), count=1000)], timeout=20))
    ended = await caller.exchange("Metadata", [Ask()], metadata=[("x-large", "a" * 40_000)], timeout=20)
    assert ended.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await beside).code == OK


async def test_metadata_beyond_any_measure_costs_no_more_than_the_connection(caller: Caller) -> None:
    """From 64 KiB on libnghttp2 ends the connection: it defends itself against floods of headers."""
    ended = await caller.exchange("Metadata", [Ask()], metadata=[("x-large", "a" * 2**20)], timeout=20)
    assert ended.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert (await caller.exchange("Metadata", [Ask()], timeout=20, wait_for_ready=True)).code == OK


async def test_messages_of_30_mb_go_each_way(caller: Caller) -> None:
    request = SimpleRequest(payload=Payload(body=bytes(LARGE)), response_size=LARGE)
    ended = await caller.exchange("UnaryCall", [request], timeout=60)
    assert ended.code == OK
    assert len(ended.replies[0].payload.body) == LARGE


async def test_a_message_that_is_too_large_costs_the_call_and_not_the_connection(caller: Caller) -> None:
    beside = asyncio.create_task(caller.exchange("Hold", [Ask(name=new_name(), count=1000)], timeout=20))
    ended = await caller.exchange("UnaryCall", [SimpleRequest(payload=Payload(body=bytes(TOO_LARGE)))], timeout=60)
    assert ended.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await beside).code == OK


async def test_streams_of_messages_of_all_sizes_arrive_whole_and_in_order(caller: Caller) -> None:
    sizes = [0, 1, 16_379, 16_380, 16_384, 65_530, 65_535, 65_536, 3_000_000, 0, 7]
    collected = [StreamingInputCallRequest(payload=Payload(body=bytes(size))) for size in sizes]
    ended = await caller.exchange("StreamingInputCall", collected, timeout=20)
    assert (ended.code, ended.replies[0].aggregated_payload_size) == (OK, sum(sizes))
    for name in ("StreamingOutputCall", "FullDuplexCall"):
        ended = await caller.exchange(name, [outputs(*sizes)], timeout=20)
        assert [len(reply.payload.body) for reply in ended.replies] == sizes


async def test_a_client_that_has_sent_all_is_answered_for_as_long_as_it_takes(caller: Caller) -> None:
    late = StreamingOutputCallRequest(response_parameters=[ResponseParameters(size=5, interval_us=500_000)])
    ended = await caller.exchange("HalfDuplexCall", [outputs(1, 2), late, outputs(3, LARGE)], timeout=60)
    assert ended.code == OK
    assert [len(reply.payload.body) for reply in ended.replies] == [1, 2, 5, 3, LARGE]


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code != OK], ids=lambda code: code.name)
async def test_each_status_arrives_with_its_text(caller: Caller, code: grpc.StatusCode) -> None:
    status = EchoStatus(code=code.value[0], message=" 50% of\r\nKöln ☺ 😈\t ")
    ended = await caller.exchange("UnaryCall", [SimpleRequest(response_status=status)], timeout=20)
    assert (ended.code, ended.details) == (code, status.message)
    answered = [outputs(1), StreamingOutputCallRequest(response_status=status)]
    ended = await caller.exchange("FullDuplexCall", answered, timeout=20)
    assert (len(ended.replies), ended.code, ended.details) == (1, code, status.message)


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate], ids=lambda one: one.name)
async def test_compressed_messages_are_understood(caller: Caller, compression: grpc.Compression) -> None:
    body = b"all the same " * 100_000
    request = SimpleRequest(payload=Payload(body=body), response_size=len(body))
    ended = await caller.exchange("UnaryCall", [request], compression=compression, timeout=20)
    assert (ended.code, len(ended.replies[0].payload.body)) == (OK, len(body))
    sizes = [len(body), 0, 5, 100_000]
    requests = [StreamingInputCallRequest(payload=Payload(body=body[:size])) for size in sizes]
    ended = await caller.exchange("StreamingInputCall", requests, compression=compression, timeout=20)
    assert (ended.code, ended.replies[0].aggregated_payload_size) == (OK, sum(sizes))


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate], ids=lambda one: one.name)
async def test_a_message_counts_as_large_as_it_is_uncompressed(
    caller: Caller, compression: grpc.Compression, served: Served
) -> None:
    before, _ = served.memory(), served.peak()
    request = SimpleRequest(payload=Payload(body=bytes(300_000_000)))
    ended = await caller.exchange("UnaryCall", [request], compression=compression, timeout=60)
    assert ended.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert served.peak() - before < 100_000_000


async def test_1000_calls_are_at_work_on_one_connection(caller: Caller) -> None:
    name = new_name()
    calls = (caller.exchange("Meet", [Ask(name=name, count=1000)], timeout=60) for _ in range(1000))
    assert {ended.code for ended in await asyncio.gather(*calls)} == {OK}


async def test_slow_readers_cost_no_memory_and_do_not_hold_up_others(served: Served, watch: Watch) -> None:
    """200 streams of 26 MB each on one connection, of which at first nobody reads anything.

    The client takes no more than 64 KiB a stream unread; by default it would take gigabytes.
    """
    before, name = served.memory(), new_name()
    with channel_to(served.address, **{"http2.bdp_probe": 0, "http2.lookahead_bytes": MESSAGE}) as channel:
        calls = [method(channel, "Pour")(Ask(name=name, count=400, size=MESSAGE)) for _ in range(STREAMS)]
        written = await watch.written_when_still(name)
        assert written < STREAMS * 20
        assert served.memory() - before < STREAMS * 6 * MESSAGE
        assert method(channel, "UnaryCall")(SimpleRequest(response_size=LARGE), timeout=60).payload
        for call in calls:
            for _ in range(10):
                assert len(next(call).padding) == MESSAGE
        assert await watch.written_when_still(name) >= written + STREAMS * 5
        assert served.memory() - before < STREAMS * 6 * MESSAGE
        assert sum(1 for _ in calls[-1]) == 390
        assert calls[-1].code() == OK


async def test_callers_who_send_more_than_is_read_wait_and_cost_no_memory(served: Served, watch: Watch) -> None:
    """50 streams on one connection, each of which would send 30 MB to a handler that reads a message only."""
    before, _, names = served.memory(), served.peak(), [new_name() for _ in range(50)]
    async with aio_channel_to(served.address) as channel:
        calls = [method(channel, "HoldStream")() for _ in names]

        async def send(call: grpc.aio.StreamStreamCall, name: str) -> None:
            await call.write(Ask(name=name, count=-1))
            for _ in range(30):
                await call.write(Ask(padding=bytes(10**6)))

        sending = [asyncio.create_task(send(call, name)) for call, name in zip(calls, names, strict=True)]
        for name in names:
            await watch.until(name, "begun")
        _, waiting = await asyncio.wait(sending, timeout=3)  # in so long all would have sent all
        assert len(waiting) == len(sending)
        assert served.peak() - before < 50 * 2_500_000  # each a window, and a message that is being put together
        for task in sending:
            task.cancel()
        for call in calls:
            call.cancel()
    for name in names:
        await watch.until(name, "cancelled")


@pytest.mark.parametrize("name", ["AnswerEarly", "RefuseEarly", "RefuseStreamEarly"])
async def test_an_answer_before_all_is_sent_ends_the_call_and_the_connection_goes_on(served: Served, name: str) -> None:
    """So often that what is left unread would fill any window of the connection.

    Not with the client for asyncio: it calls a call INTERNAL that has ended while it was writing.
    """
    requests = [Ask(name="early"), *[Ask(padding=bytes(10**6))] * 20]
    caller = SyncCaller(served.address)
    for _ in range(20):
        ended = await caller.exchange(name, requests, timeout=20)
        if name == "AnswerEarly":
            assert (ended.code, ended.replies[0].text) == (OK, "early")
        else:
            assert (ended.code, ended.details) == (grpc.StatusCode.FAILED_PRECONDITION, "early")
    ended = await caller.exchange("UnaryCall", [SimpleRequest(payload=Payload(body=bytes(LARGE)))], timeout=20)
    assert ended.code == OK
    await caller.close()


async def test_a_caller_who_never_says_that_it_has_sent_all_is_answered(served: Served) -> None:
    async with aio_channel_to(served.address) as channel:
        call = method(channel, "AnswerEarly")(timeout=20)
        await call.write(Ask(name="early"))
        assert (await call).text == "early"
        call = method(channel, "RefuseStreamEarly")(timeout=20)
        await call.write(Ask(name="early"))
        assert (await call.read()).text == "early"
        assert (await call.code(), await call.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "early")
