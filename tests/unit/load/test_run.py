"""Loads against a small server in the same process: what each key does to the calls."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from fitserve.v1 import prediction_service_pb2 as prediction
from google.protobuf import descriptor_pb2

from benchmarks.ghz.config import Config, ConfigError
from benchmarks.ghz.run import run

SERVICE = "fitserve.v1.PredictionService"
Start = Callable[..., Any]


class Server:
    """Answers Predict and PredictStream, and notes what it saw.

    Attributes:
        seconds: How long Predict takes.
        peers: The callers' addresses.
        most: The most calls that were at work at a time.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.peers: set[str] = set()
        self.metadata: list[dict[str, str | bytes]] = []
        self.models: list[str] = []
        self.working = self.most = 0

    async def predict(
        self, request: prediction.PredictRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> prediction.PredictResponse:
        self.peers.add(context.peer())
        self.metadata.append(dict(context.invocation_metadata() or ()))
        self.models.append(request.model)
        self.working += 1
        self.most = max(self.most, self.working)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.working -= 1
        return prediction.PredictResponse(model=request.model)

    async def stream(
        self, requests: AsyncIterator[prediction.PredictStreamRequest], context: object
    ) -> AsyncIterator[prediction.PredictStreamResponse]:
        async for request in requests:
            self.models.append(request.config.model)
            yield prediction.PredictStreamResponse()

    def handler(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Predict": grpc.unary_unary_rpc_method_handler(
                    self.predict,
                    prediction.PredictRequest.FromString,
                    prediction.PredictResponse.SerializeToString,
                ),
                "PredictStream": grpc.stream_stream_rpc_method_handler(
                    self.stream,
                    prediction.PredictStreamRequest.FromString,
                    prediction.PredictStreamResponse.SerializeToString,
                ),
            },
        )

    @contextlib.asynccontextmanager
    async def serving(self, credentials: grpc.ServerCredentials | None = None) -> AsyncIterator[str]:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((self.handler(),))
        port = (
            server.add_secure_port("127.0.0.1:0", credentials)
            if credentials
            else server.add_insecure_port("127.0.0.1:0")
        )
        await server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await server.stop(None)


@pytest.fixture
def protoset(tmp_path: Path) -> str:
    """The contract, compiled, since the small server has no reflection."""
    files: dict[str, descriptor_pb2.FileDescriptorProto] = {}

    def add(file: Any) -> None:
        for dependency in file.dependencies:
            add(dependency)
        files[file.name] = descriptor_pb2.FileDescriptorProto.FromString(file.serialized_pb)

    add(prediction.DESCRIPTOR)
    path = tmp_path / "contract.protoset"
    path.write_bytes(descriptor_pb2.FileDescriptorSet(file=files.values()).SerializeToString())
    return str(path)


def config(host: str, protoset: str, method: str = "Predict", **keys: Any) -> Config:
    values = {
        "host": host,
        "protoset": protoset,
        "call": f"{SERVICE}/{method}",
        "data": {"model": "a"},
        "insecure": True,
    }
    values |= {name.replace("_", "-"): value for name, value in keys.items()}
    values = {"data": values["data"]} | values
    if method == "PredictStream" and "data" not in keys:
        values["data"] = [{"config": {"model": name}} for name in "abc"]
    return Config.model_validate(values)


async def test_all_calls_are_made_over_the_connections_by_the_workers(protoset: str) -> None:
    server = Server(seconds=0.01)
    async with server.serving() as host:
        report = await run(config(host, protoset, total=60, concurrency=6, connections=3))
    assert report["statusCodeDistribution"] == {"OK": 60}
    assert (len(server.peers), server.most) == (3, 6)


async def test_asynchronous_workers_do_not_wait(protoset: str) -> None:
    server = Server(seconds=0.2)
    async with server.serving() as host:
        report = await run(config(host, protoset, total=20, concurrency=1, **{"async": True}))
    assert (report["count"], server.most) == (20, 20)


async def test_metadata_and_templates_reach_the_server(protoset: str) -> None:
    server = Server()
    data = {"model": "m{{.RequestNumber}}"}
    async with server.serving() as host:
        await run(
            config(host, protoset, total=5, concurrency=2, data=data, metadata={"who": "{{.WorkerID}}"}, name="x")
        )
    assert sorted(server.models) == ["m0", "m1", "m2", "m3", "m4"]
    assert {seen["who"] for seen in server.metadata} <= {"x:g0c0", "x:g1c0"}


async def test_a_late_answer_is_a_deadline_exceeded_in_go_s_words(protoset: str) -> None:
    async with Server(seconds=5).serving() as host:
        report = await run(config(host, protoset, total=2, concurrency=2, timeout="50ms"))
    assert report["errorDistribution"] == {
        "rpc error: code = DeadlineExceeded desc = context deadline exceeded": 2,
    }
    assert report["details"][0]["status"] == "DeadlineExceeded"


@pytest.mark.parametrize(("action", "statuses"), [("close", {"Unavailable": 3}), ("wait", {"OK": 3}), ("ignore", {})])
async def test_calls_at_work_when_the_time_is_over(protoset: str, action: str, statuses: dict[str, int]) -> None:
    async with Server(seconds=1).serving() as host:
        report = await run(config(host, protoset, concurrency=3, duration="300ms", duration_stop=action))
    assert report["endReason"] == "timeout"
    assert report["statusCodeDistribution"] == statuses


async def test_an_interrupt_ends_the_load(protoset: str) -> None:
    interrupted = asyncio.Event()
    async with Server(seconds=30).serving() as host:
        asyncio.get_running_loop().call_later(0.3, interrupted.set)
        report = await run(config(host, protoset, concurrency=2), interrupted)
    assert (report["endReason"], report["statusCodeDistribution"]) == ("cancel", {"Unavailable": 2})


async def test_workers_that_all_stop_end_the_load(protoset: str) -> None:
    schedule = {"schedule": "step", "start": 2, "end": 0, "step": -1, "step_duration": "100ms"}
    keys = {f"concurrency_{name}": value for name, value in schedule.items()}
    async with Server(seconds=0.01).serving() as host:
        report = await asyncio.wait_for(run(config(host, protoset, total=100_000, **keys)), 20)
    assert 0 < report["count"] < 100_000
    assert report["total"] >= 200_000_000


async def test_a_stream_sends_its_list_and_reads_the_answers(protoset: str) -> None:
    server = Server()
    async with server.serving() as host:
        report = await run(config(host, protoset, "PredictStream", total=2, concurrency=1))
    assert report["statusCodeDistribution"] == {"OK": 2}
    assert server.models == ["a", "b", "c"] * 2


async def test_stream_interval_and_stream_call_duration_bound_what_a_stream_sends(protoset: str) -> None:
    server = Server()
    keys = {"stream_interval": "100ms", "stream_call_duration": "250ms", "stream_call_count": 100}
    async with server.serving() as host:
        report = await run(config(host, protoset, "PredictStream", total=1, concurrency=1, **keys))
    assert report["statusCodeDistribution"] == {"OK": 1}
    assert 1 <= len(server.models) <= 3
    assert report["slowest"] >= 240_000_000


async def test_data_that_cannot_be_made_ends_the_load_with_its_reason(protoset: str) -> None:
    data = [{"config": {"model": "a{{randomInt .RequestNumber 2}}"}}]
    async with Server().serving() as host:
        with pytest.raises(ConfigError, match="randomInt 2 2: the first must be below the second"):
            await asyncio.wait_for(run(config(host, protoset, "PredictStream", data=data, total=9, concurrency=1)), 10)


async def test_nobody_at_the_host_is_a_failure_of_each_call(protoset: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        report = await run(config(f"127.0.0.1:{free.getsockname()[1]}", protoset, total=4, concurrency=2))
    assert report["statusCodeDistribution"] == {"Unavailable": 4}


async def test_a_server_without_reflection_and_no_description_is_a_clear_error(protoset: str) -> None:
    async with Server().serving() as host:
        with pytest.raises(ConfigError, match="the server has none; name a proto or a protoset"):
            await run(config(host, ""))


@pytest.mark.parametrize(
    ("call", "said"),
    [("Predict", "must be package.Service"), ("a.B/C", "no service 'a.B'"), (f"{SERVICE}.Foo", "no method 'Foo'")],
)
async def test_a_call_that_is_not_described_is_refused(protoset: str, call: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        await run(config("127.0.0.1:1", protoset).model_copy(update={"call": call}))


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for `localhost` that signs itself, and its key."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *names], check=True, capture_output=True)
    return certificate, key


@pytest.mark.parametrize(
    ("keys", "status"),
    [
        ({"cacert": "certificate.pem", "cname": "localhost"}, "OK"),
        ({"cacert": "certificate.pem"}, "Unavailable"),
        ({"cname": "localhost"}, "Unavailable"),
        ({"skipTLS": True}, "OK"),
    ],
)
async def test_tls_is_verified_as_the_keys_say(
    protoset: str, certificate: tuple[Path, Path], tmp_path: Path, keys: dict[str, Any], status: str
) -> None:
    keys = {name: str(tmp_path / value) if name == "cacert" else value for name, value in keys.items()}
    credentials = grpc.ssl_server_credentials([(certificate[1].read_bytes(), certificate[0].read_bytes())])
    async with Server().serving(credentials) as host:
        load = config(host, protoset, total=2, concurrency=1, insecure=False, **keys)
        report = await run(load)
    assert report["statusCodeDistribution"] == {status: 2}


async def test_a_client_s_certificate_is_shown(protoset: str, certificate: tuple[Path, Path]) -> None:
    path, key = certificate
    pair = (key.read_bytes(), path.read_bytes())
    credentials = grpc.ssl_server_credentials([pair], path.read_bytes(), require_client_auth=True)
    async with Server().serving(credentials) as host:
        base = config(host, protoset, total=1, concurrency=1, insecure=False, cacert=str(path), cname="localhost")
        without = await run(base)
        shown = await run(base.model_copy(update={"cert": str(path), "key": str(key)}))
    assert without["statusCodeDistribution"] == {"Unavailable": 1}
    assert shown["statusCodeDistribution"] == {"OK": 1}
