"""The plate picker under load: 500 calls a second of one record each, over gRPC and through the REST gateway."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import fitserve
import numpy as np
import pytest
from fitserve.v1 import data_pb2, prediction_service_pb2
from google.protobuf import json_format

from benchmarks.h2load import Load, open_loop
from benchmarks.work import Call
from tests import plates
from tests.gateway_process import GatewayProcess
from tests.service_process import ServiceProcess

RATE = 500.0
SECONDS = 10.0
CONNECTIONS = 25
"""Each makes 20 calls a second, so few that its timer spreads them evenly."""

MOST_MILLISECONDS = 20.0
"""What the 99th of 100 calls may take, with the load generator on the same two cores."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    plates.need_data()
    if not shutil.which("h2load"):
        pytest.skip("h2load is not installed; it is in Debian's and Ubuntu's package nghttp2-client")
    process = ServiceProcess(tmp_path_factory.mktemp("plates"))
    plates.place(process.model_dir)
    with fitserve.Client(process.address) as client:
        client.load("plate_picker")
        client.predict("plate_picker", plates.raw_records(as_text=False))
    wait_for("fork server is ready", process)  # to start it takes a core for seconds
    yield process
    assert process.stop() == 0


def wait_for(words: str, process: ServiceProcess) -> None:
    deadline = time.monotonic() + 60
    while words not in process.log.read_text():
        assert time.monotonic() < deadline, process.log.read_text()
        time.sleep(0.1)


def record() -> dict[str, object]:
    return plates.raw_records(as_text=False)[0]


def check(load: Load, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    p50, p99, most = np.percentile(load.latencies, [50, 99, 100]) * 1e3
    with capsys.disabled():
        print(
            f"\n{name}: {load.calls / load.seconds:.0f} calls/s, p50 {p50:.1f} ms, p99 {p99:.1f} ms, max {most:.1f} ms"
        )
    assert load.calls / load.seconds > 0.95 * RATE
    assert p99 <= MOST_MILLISECONDS


@pytest.mark.long
def test_records_over_grpc(service: ServiceProcess, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = json_format.ParseDict({"records": [record()]}, data_pb2.Inputs())
    message = prediction_service_pb2.PredictRequest(model="plate_picker", inputs=inputs).SerializeToString()
    url = f"http://{service.address}/fitserve.v1.PredictionService/Predict"
    call = Call("grpc", url, [message], lambda reply: reply)
    open_loop(call, RATE, 2.0, CONNECTIONS)
    load = open_loop(call, RATE, SECONDS, CONNECTIONS)
    assert load.data > 50 * load.calls  # a failed call has no message
    check(load, "gRPC", capsys)


@pytest.mark.long
def test_records_over_rest(service: ServiceProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gateway = GatewayProcess(tmp_path, service.address)
    body = json.dumps({"inputs": {"records": [record()]}}, ensure_ascii=False).encode()
    call = Call("http1", f"{gateway.url}/v1/models/plate_picker:predict", [body], lambda reply: reply)
    try:
        assert gateway.call("POST", "/v1/models/plate_picker:predict", body).json["predictions"][0]["positive"] > 0
        open_loop(call, RATE, 2.0, CONNECTIONS)
        check(open_loop(call, RATE, SECONDS, CONNECTIONS), "REST", capsys)
    finally:
        gateway.stop()
