"""The service as a process: status, health, reflection, settings, size."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import fitserve
import grpc
import psutil
import pytest
import tritonclient.grpc as triton
from fitserve import errors
from fitserve.v1 import error_reason_pb2
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from service.domain.errors import Reason
from service.rpc.status import RULES
from service.settings import Settings
from tests.conftest import StartService
from tests.contract.test_training import X, fit
from tests.service_process import ROOT, ServiceProcess

SERVICES = {
    "fitserve.v1.ModelService",
    "fitserve.v1.PredictionService",
    "fitserve.v1.ServerService",
    "fitserve.v1.TrainingService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "inference.GRPCInferenceService",
}


def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'clients/python'}", **settings}
    command = [sys.executable, "-m", "service", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_reasons_rules_and_the_contracts_enum_are_the_same() -> None:
    in_contract = {
        name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.DESCRIPTOR.values_by_name
    }
    assert {reason.value for reason in Reason} == in_contract - {"UNSPECIFIED"}
    assert set(RULES) == set(Reason)


def test_the_service_imports_no_training_library_and_stays_small(start_service: StartService) -> None:
    service = start_service()
    with fitserve.Client(service.address) as client:
        fit(client, "iris", load=True).wait(30)
        for _ in range(100):
            client.predict("iris", X)
        check_size(service, client)


def check_size(service: ServiceProcess, client: fitserve.Client) -> None:
    maps = Path(f"/proc/{service.pid}/maps").read_text()
    assert not [library for library in ("sklearn", "xgboost", "torch", "onnx") if f"/{library}" in maps]
    assert "numpy" in maps  # the check sees libraries at all
    assert client.status().memory_bytes < 150e6
    assert abs(client.status().memory_bytes - psutil.Process(service.pid).memory_info().rss) < 20e6


def test_health_tells_of_the_whole_and_of_each_service(service: ServiceProcess) -> None:
    stub = health_pb2_grpc.HealthStub(grpc.insecure_channel(service.address))
    for name in ("", *(name for name in SERVICES if not name.startswith("grpc."))):
        reply = stub.Check(health_pb2.HealthCheckRequest(service=name))
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
    watch = stub.Watch(health_pb2.HealthCheckRequest())
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()
    with pytest.raises(grpc.RpcError) as unknown:
        stub.Check(health_pb2.HealthCheckRequest(service="nobody"))
    assert unknown.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_lists_and_describes_every_service(service: ServiceProcess, version: str) -> None:
    call = grpc.insecure_channel(service.address).stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        *(reflection_pb2.ServerReflectionRequest(file_containing_symbol=name) for name in sorted(SERVICES)),
    ]
    listed, *files = call(iter(asked))
    assert {one.name for one in listed.list_services_response.service} == SERVICES
    for name, reply in zip(sorted(SERVICES), files, strict=True):
        protos = [
            descriptor_pb2.FileDescriptorProto.FromString(data)
            for data in reply.file_descriptor_response.file_descriptor_proto
        ]
        assert name in {f"{proto.package}.{one.name}" for proto in protos for one in proto.service}


def test_help_explains_every_setting_in_less_than_half_a_second() -> None:
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        shown = run("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Processor time: other tests run beside this one.
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert shown.returncode == 0
    assert all(name.upper() in shown.stdout for name in Settings.model_fields)
    assert min(seconds) < 0.5


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("LISTEN", "nowhere"),
        ("LISTEN", "127.0.0.1:99999"),
        ("TRAINING_CORES", "-1"),
        ("TRAINING_CORES", "many"),
        ("MAX_LOADED_MODELS", "-1"),
        ("MAX_MESSAGE_BYTES", "1"),
        ("TRITON_URL", "http://x"),
        ("LOG_LEVEL", "LOUD"),
        ("GRACE_SECONDS", "nan"),
    ],
)
def test_a_wrong_setting_is_one_clear_line_and_exit_code_2(tmp_path: Path, setting: str, value: str) -> None:
    ended = run(MODEL_DIR=str(tmp_path), **{setting: value})
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert setting in line
    assert value in line


def test_a_second_service_on_the_same_models_or_address_does_not_start(service: ServiceProcess, tmp_path: Path) -> None:
    same_models = run(LISTEN="127.0.0.1:0", MODEL_DIR=str(service.model_dir))
    assert same_models.returncode == 1
    assert "fitserve: " in same_models.stderr.splitlines()[-1]
    same_address = run(LISTEN=service.address, MODEL_DIR=str(tmp_path))
    assert same_address.returncode == 1
    assert service.address in same_address.stderr.splitlines()[-1]


def test_a_missing_triton_environment_is_one_clear_line(tmp_path: Path) -> None:
    ended = run(LISTEN="127.0.0.1:0", MODEL_DIR=str(tmp_path), TRITON_PYTHON="/nowhere/python")
    assert ended.returncode == 1
    assert "make setup" in ended.stderr.splitlines()[-1]


def test_a_triton_that_does_not_answer_is_one_clear_line(tmp_path: Path) -> None:
    ended = run(LISTEN="127.0.0.1:0", MODEL_DIR=str(tmp_path), TRITON_URL="127.0.0.1:1", TRITON_START_SECONDS="1")
    assert ended.returncode == 1
    assert "TRITON_URL" in ended.stderr.splitlines()[-1]


def test_no_more_calls_are_at_work_than_allowed(start_service: StartService) -> None:
    service = start_service(MAX_CALLS="1")
    with fitserve.Client(service.address) as client:
        job = client.fit("long", X, X[:, 0].astype(float), algorithm="torch_mlp", epochs=100_000)
        updates = job.watch()
        next(updates)  # this call stays at work
        with pytest.raises(errors.ResourceExhausted) as refused:
            client.models()
        assert refused.value.reason == "TOO_MANY_CALLS"
        assert refused.value.retry_after > 0
        # What tells how the service is has slots of its own, in both protocols.
        assert client.status().training.queued_job_count == 0
        with triton.InferenceServerClient(service.address) as operator:
            assert operator.is_server_ready()
        updates.close()
        deadline = time.monotonic() + 10
        while True:  # until the service has seen that the watcher is gone
            try:
                job.cancel()
                break
            except errors.ResourceExhausted:
                assert time.monotonic() < deadline
