"""The embedded Triton with real processes: it starts, serves ONNX models, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
from onnx import TensorProto, helper
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from service.adapters.embedded_triton import EmbeddedTriton, TritonStartError

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
backend: "onnxruntime"
max_batch_size: 8
input [{ name: "features" data_type: TYPE_FP32 dims: [2] }]
output [{ name: "scores" data_type: TYPE_FP32 dims: [2] }]
instance_group [{ kind: KIND_CPU count: 1 }]
"""
FOREST, NATIVE = (
    CONFIG.replace("onnxruntime", backend) + 'default_model_filename: "model.onnx"'
    for backend in ("fil", "fitserve_native")
)
# Requests wait for company up to this long, so that a test sees several of them in one batch.
BATCHING = "dynamic_batching { max_queue_delay_microseconds: 300000 preferred_batch_size: [8] }"


@pytest.fixture(scope="session")
def triton_python() -> Path:
    """Interpreter of the Triton environment."""
    python = Path(os.environ.get("FITSERVE_TRITON_PYTHON", ROOT / ".venv-triton/bin/python"))
    if not python.is_file():
        pytest.fail(f"the Triton environment {python} is missing; run 'make setup'")
    return python


@dataclass(frozen=True)
class Run:
    """A launcher whose Triton answers."""

    launcher: subprocess.Popen[str]
    address: str
    triton_pid: int
    shm_prefix: str

    def regions(self) -> list[str]:
        return [region.name for region in Path("/dev/shm").glob(f"{self.shm_prefix}*")]

    def processes(self) -> list[int]:
        """Ids of tritonserver and its stubs that still run, wherever they hang in the process tree."""
        return [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if self._owns(entry)]

    def _owns(self, process: Path) -> bool:
        try:
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
            command = (process / "cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return False
        return state != "Z" and self.shm_prefix in command


@contextmanager
def launched(python: Path, repository: Path, *arguments: str) -> Iterator[Run]:
    """Run the launcher; unless the arguments say otherwise, it ends Triton without waiting."""
    repository.mkdir(exist_ok=True)
    launcher = subprocess.Popen(
        [python, "-m", "triton_runtime", "--model-repository", repository, "--stop-timeout=0", *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert launcher.stdout is not None
        event = json.loads(launcher.stdout.readline())
        assert event["event"] == "ready", event
        yield Run(launcher, event["address"], event["pid"], event["shm_prefix"])
    finally:
        launcher.terminate()
        launcher.communicate()


@contextmanager
def stub_for(address: str) -> Iterator[GRPCInferenceServiceStub]:
    with grpc.insecure_channel(address) as channel:
        yield GRPCInferenceServiceStub(channel)


def adder(constant: float) -> bytes:
    """An ONNX model that adds a constant to each of two features."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["features", "constant"], ["scores"])],
        "adder",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", 2])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["rows", 2])],
        [helper.make_tensor("constant", TensorProto.FLOAT, [1], [constant])],
    )
    return onnx_bytes(graph)


def onnx_bytes(graph: object) -> bytes:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def write(repository: Path, name: str, model: bytes, config: str = CONFIG) -> None:
    folder = repository / name
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").write_bytes(model)
    (folder / "config.pbtxt").write_text(config)


def load(triton: GRPCInferenceServiceStub, name: str) -> None:
    triton.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=name), timeout=30)


def request(name: str, features: np.ndarray) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name=name, raw_input_contents=[features.tobytes()])
    message.inputs.add(name="features", datatype="FP32", shape=features.shape)
    return message


def scores(response: pb.ModelInferResponse) -> np.ndarray:
    shape = tuple(response.outputs[0].shape)
    return np.frombuffer(response.raw_output_contents[0], np.float32).reshape(shape)


def wait_until(reached: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, "the state was not reached in time"
        time.sleep(0.01)


FEATURES = np.array([[1, 2], [3, 4]], np.float32)


# How it starts.


def test_triton_is_ready_when_its_address_is_reported(triton_python: Path, tmp_path: Path) -> None:
    with launched(triton_python, tmp_path) as run, stub_for(run.address) as triton:
        assert triton.ServerReady(pb.ServerReadyRequest()).ready


def test_a_port_that_is_taken_is_replaced_by_a_free_one(triton_python: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with launched(triton_python, tmp_path, f"--grpc-port={port}") as run, stub_for(run.address) as triton:
            assert run.address != f"127.0.0.1:{port}"
            assert triton.ServerReady(pb.ServerReadyRequest()).ready


def test_a_free_port_is_used_as_asked(triton_python: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with launched(triton_python, tmp_path, f"--grpc-port={port}") as run:
        assert run.address == f"127.0.0.1:{port}"


def test_health_can_be_asked_over_http_on_loopback(triton_python: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as grpc_probe, socket.create_server(("127.0.0.1", 0)) as http_probe:
        grpc_port, http_port = grpc_probe.getsockname()[1], http_probe.getsockname()[1]
    with launched(triton_python, tmp_path, f"--grpc-port={grpc_port}", f"--http-port={http_port}") as run:
        assert run.address == f"127.0.0.1:{grpc_port}"
        assert _http_status(f"http://127.0.0.1:{http_port}/v2/health/ready") == 200


def _http_status(address: str) -> int:
    """Asks until the port is open, as a container's engine does: HTTP opens after gRPC."""
    deadline = time.monotonic() + 20
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5) as reply:
                return int(reply.status)
        except urllib.error.URLError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_launchers_that_race_lay_out_one_backend_directory(triton_python: Path, tmp_path: Path) -> None:
    prepare = (
        "import pathlib, sys; from triton_runtime import layout; sys.prefix = sys.argv[1]; "
        "print(layout.prepare().backends)"
    )
    racers = [
        subprocess.Popen([triton_python, "-c", prepare, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    [backends] = {racer.communicate()[0].strip() for racer in racers}
    assert [path.name for path in Path(backends).parent.iterdir()] == [Path(backends).name]
    assert not any(path.is_symlink() for path in Path(backends).rglob("*"))


def test_a_read_only_environment_uses_the_users_cache(triton_python: Path, tmp_path: Path) -> None:
    prepare = (
        "import sys; from triton_runtime import layout; sys.prefix = '/proc/read-only'; "
        "print(layout.prepare().backends)"
    )
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    backends = subprocess.check_output([triton_python, "-c", prepare], cwd=ROOT, env=env, text=True).strip()
    assert Path(backends).parent == tmp_path / "fitserve-triton"
    assert {path.name for path in Path(backends).iterdir()} == {
        "python",
        "onnxruntime",
        "fil",
        "fitserve_native",
        "pytorch",
        "predictors",
    }


def test_a_triton_that_cannot_listen_is_reported_as_failed(triton_python: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [triton_python, "-m", "triton_runtime", "--model-repository", tmp_path, "--host", "203.0.113.1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 3
    assert json.loads(done.stdout)["event"] == "failed"
    assert "203.0.113.1" in done.stderr


# How it ends.


def test_sigterm_ends_triton_and_leaves_nothing(triton_python: Path, tmp_path: Path) -> None:
    write(tmp_path, "adder", adder(1))
    with launched(triton_python, tmp_path, "--stop-timeout=10") as run:
        with stub_for(run.address) as triton:
            load(triton, "adder")
        assert run.regions()
        assert len(run.processes()) == 2
        run.launcher.send_signal(signal.SIGTERM)
        assert run.launcher.wait(timeout=15) == 0
        assert (run.processes(), run.regions()) == ([], [])


def test_the_end_of_the_owner_ends_triton_at_once(triton_python: Path, tmp_path: Path) -> None:
    write(tmp_path, "adder", adder(1))
    with launched(triton_python, tmp_path, "--stop-when-stdin-closes") as run:
        with stub_for(run.address) as triton:
            load(triton, "adder")
        run.launcher.stdin.close()  # type: ignore[union-attr]
        assert run.launcher.wait(timeout=2) == 0
        assert (run.processes(), run.regions()) == ([], [])
        run.launcher.stdin = None


def test_a_killed_triton_leaves_nothing_and_ends_the_launcher_with_code_4(triton_python: Path, tmp_path: Path) -> None:
    write(tmp_path, "adder", adder(1))
    with launched(triton_python, tmp_path) as run:
        with stub_for(run.address) as triton:
            load(triton, "adder")
        os.kill(run.triton_pid, signal.SIGKILL)
        assert run.launcher.wait(timeout=2) == 4
        assert (run.processes(), run.regions()) == ([], [])


def test_a_killed_launcher_takes_triton_with_it_and_the_next_one_cleans_up(triton_python: Path, tmp_path: Path) -> None:
    write(tmp_path, "adder", adder(1))
    with launched(triton_python, tmp_path) as run:
        with stub_for(run.address) as triton:
            load(triton, "adder")
        run.launcher.kill()
        wait_until(lambda: not run.processes(), seconds=5)
        with launched(triton_python, tmp_path):
            assert run.regions() == []


def test_a_stub_that_waits_for_a_killed_launcher_for_ever_is_ended_by_the_next_one(
    triton_python: Path, tmp_path: Path
) -> None:
    write(tmp_path, "adder", adder(1))
    runs = []
    for hundredths in range(6, 16, 2):  # a stub that is just being started does not notice the end of its Triton
        with launched(triton_python, tmp_path) as run:
            with grpc.insecure_channel(run.address) as channel:
                loading = GRPCInferenceServiceStub(channel).RepositoryModelLoad.future(
                    pb.RepositoryModelLoadRequest(model_name="adder")
                )
                time.sleep(hundredths / 100)  # the moment
                run.launcher.kill()
                loading.cancel()
            runs.append(run)
    with launched(triton_python, tmp_path):
        wait_until(lambda: not any(run.processes() for run in runs), seconds=5)
        assert not any(run.regions() for run in runs)


def test_the_next_launcher_removes_the_regions_of_a_dead_one_only(triton_python: Path, tmp_path: Path) -> None:
    with launched(triton_python, tmp_path) as alive:
        dead = subprocess.Popen(["true"])
        dead.wait()
        namespace = Path("/proc/self/ns/pid").stat().st_ino
        abandoned = Path(f"/dev/shm/fitserve-{dead.pid}-12345-{namespace}-left")
        kept = Path(f"/dev/shm/{alive.shm_prefix}kept")
        elsewhere = Path(f"/dev/shm/fitserve-{dead.pid}-12345-1-other-namespace")
        try:
            for region in (abandoned, kept, elsewhere):
                region.write_bytes(b"x")
            with launched(triton_python, tmp_path):
                assert (abandoned.exists(), kept.exists(), elsewhere.exists()) == (False, True, True)
        finally:
            for region in (abandoned, kept, elsewhere):
                region.unlink(missing_ok=True)


# What it serves.


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("repository")


@pytest.fixture(scope="module")
def triton(triton_python: Path, repository: Path) -> Iterator[GRPCInferenceServiceStub]:
    with launched(triton_python, repository) as run, stub_for(run.address) as stub:
        yield stub


def test_a_model_in_memory_answers_rightly(triton: GRPCInferenceServiceStub) -> None:
    config = {
        "name": "from-memory",
        "backend": "onnxruntime",
        "max_batch_size": 8,
        "input": [{"name": "features", "data_type": "TYPE_FP32", "dims": [2]}],
        "output": [{"name": "scores", "data_type": "TYPE_FP32", "dims": [2]}],
    }
    message = pb.RepositoryModelLoadRequest(model_name="from-memory")
    message.parameters["config"].string_param = json.dumps(config)
    message.parameters["file:1/model.onnx"].bytes_param = adder(5)
    triton.RepositoryModelLoad(message, timeout=30)
    answer = scores(triton.ModelInfer(request("from-memory", FEATURES)))
    np.testing.assert_array_equal(answer, FEATURES + 5)


def test_requests_in_one_batch_get_their_own_rows_back(triton: GRPCInferenceServiceStub, repository: Path) -> None:
    write(repository, "batched", adder(1), CONFIG + BATCHING)
    load(triton, "batched")
    sent = [np.full((rows, 2), rows, np.float32) for rows in (1, 2, 2, 3)]
    answers = [triton.ModelInfer.future(request("batched", features)) for features in sent]
    for features, answer in zip(sent, answers, strict=True):
        np.testing.assert_array_equal(scores(answer.result()), features + 1)
    statistics = triton.ModelStatistics(pb.ModelStatisticsRequest(name="batched")).model_stats[0]
    assert statistics.execution_count < len(sent)


def test_a_bad_request_in_a_batch_fails_alone(triton: GRPCInferenceServiceStub, repository: Path) -> None:
    # Gather refuses an index out of its table, which spoils the whole run and not only that row.
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["features"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "index"], ["scores"]),
        ],
        "lookup",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", 2])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["rows", 2])],
        [helper.make_tensor("table", TensorProto.FLOAT, [2], [10.0, 20.0])],
    )
    write(repository, "lookup", onnx_bytes(graph), CONFIG + BATCHING)
    load(triton, "lookup")
    good, bad = np.zeros((4, 2), np.float32), np.full((4, 2), 7, np.float32)
    first, second = (triton.ModelInfer.future(request("lookup", features)) for features in (good, bad))
    np.testing.assert_array_equal(scores(first.result()), good + 10)
    assert "Gather" in str(second.exception().details())


def test_texts_go_in_and_out(triton: GRPCInferenceServiceStub, repository: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["features"], ["scores"])],
        "echo",
        [helper.make_tensor_value_info("features", TensorProto.STRING, ["rows", 1])],
        [helper.make_tensor_value_info("scores", TensorProto.STRING, ["rows", 1])],
    )
    write(repository, "echo", onnx_bytes(graph), CONFIG.replace("FP32", "STRING").replace("[2]", "[1]"))
    load(triton, "echo")
    texts = [b"plain", "Zürich ✓".encode(), b""]
    encoded = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    message = pb.ModelInferRequest(model_name="echo", raw_input_contents=[encoded])
    message.inputs.add(name="features", datatype="BYTES", shape=[3, 1])
    assert triton.ModelInfer(message).raw_output_contents[0] == encoded


def test_only_the_outputs_asked_for_are_returned(triton: GRPCInferenceServiceStub, repository: Path) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Identity", ["features"], ["scores"]),
            helper.make_node("Neg", ["features"], ["negative"]),
        ],
        "two",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", 2])],
        [
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["rows", 2]),
            helper.make_tensor_value_info("negative", TensorProto.FLOAT, ["rows", 2]),
        ],
    )
    write(
        repository,
        "two",
        onnx_bytes(graph),
        CONFIG + 'output [{ name: "negative" data_type: TYPE_FP32 dims: [2] }]',
    )
    load(triton, "two")
    message = request("two", FEATURES)
    assert {output.name for output in triton.ModelInfer(message).outputs} == {"scores", "negative"}
    message.outputs.add(name="negative")
    answer = triton.ModelInfer(message)
    assert [output.name for output in answer.outputs] == ["negative"]
    np.testing.assert_array_equal(scores(answer), -FEATURES)


@pytest.mark.parametrize(
    ("name", "model", "config", "complaint"),
    [
        ("corrupt", b"no model", CONFIG, "model.onnx cannot be loaded"),
        ("type", adder(1), CONFIG.replace("FP32", "FP64"), "is configured as TYPE_FP64"),
        ("tensor", adder(1), CONFIG.replace("scores", "labels"), "the model has no output 'labels'"),
        ("forest", b"no model", FOREST, "model.onnx is no model of the type xgboost_ubj"),
        ("native", b"no model", NATIVE, "model.onnx has a format that is not known"),
    ],
)
def test_a_model_that_cannot_work_is_refused_when_it_is_loaded(
    triton: GRPCInferenceServiceStub, repository: Path, name: str, model: bytes, config: str, complaint: str
) -> None:
    write(repository, name, model, config)
    with pytest.raises(grpc.RpcError) as refused:
        load(triton, name)
    assert complaint in str(refused.value.details())


# The service's side.


async def test_the_service_starts_and_stops_triton(triton_python: Path, tmp_path: Path) -> None:
    embedded = EmbeddedTriton(triton_python, tmp_path, stop_timeout=0)
    address = await embedded.start()
    with stub_for(address) as triton:
        assert triton.ServerReady(pb.ServerReadyRequest()).ready
    assert embedded.pid is not None
    await embedded.stop()
    await embedded.stop()
    assert await embedded.wait() == 0
    assert not Path(f"/proc/{embedded.pid}").exists()


async def test_the_service_learns_that_triton_died(triton_python: Path, tmp_path: Path) -> None:
    embedded = EmbeddedTriton(triton_python, tmp_path)
    await embedded.start()
    assert embedded.pid is not None
    os.kill(embedded.pid, signal.SIGKILL)
    assert await asyncio.wait_for(embedded.wait(), 2) == 4
    await embedded.stop()


def test_a_killed_service_leaves_no_triton(triton_python: Path, tmp_path: Path) -> None:
    program = (
        "import asyncio, pathlib, sys\n"
        "from service.adapters.embedded_triton import EmbeddedTriton\n"
        "async def main():\n"
        "    embedded = EmbeddedTriton(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))\n"
        "    await embedded.start()\n"
        "    print(embedded.pid, flush=True)\n"
        "    await embedded.wait()\n"
        "asyncio.run(main())\n"
    )
    service = subprocess.Popen(
        [sys.executable, "-c", program, triton_python, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    triton_pid = int(service.stdout.readline())  # type: ignore[union-attr]
    service.kill()
    service.communicate()
    wait_until(lambda: not Path(f"/proc/{triton_pid}").exists(), seconds=2)


async def test_a_missing_environment_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(TritonStartError, match="make setup"):
        await EmbeddedTriton(tmp_path / "bin/python", tmp_path).start()


async def test_an_environment_without_triton_says_how_to_mend_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    python = shutil.which("python3", path=os.defpath) or sys.executable
    with caplog.at_level(logging.ERROR), pytest.raises(TritonStartError, match="make setup"):
        await EmbeddedTriton(Path(python), tmp_path).start()
