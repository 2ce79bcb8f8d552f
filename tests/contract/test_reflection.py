"""Reflection answers with the contract as it is written, comments included, so `describe` is a manual."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

import grpc
import pytest
from google.protobuf import descriptor, descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import reflection_pb2

from tests.service_process import ROOT, ServiceProcess

PROTOS = sorted((ROOT / "protos/fitserve/v1").glob("*.proto"))
STUBS = [import_module(f"fitserve.v1.{proto.stem}_pb2").DESCRIPTOR for proto in PROTOS]
VERSIONS = pytest.mark.parametrize("version", ["v1", "v1alpha"])


def symbols(file: descriptor.FileDescriptor) -> list[str]:
    """Returns the full names of what a file defines."""
    kinds = (
        file.services_by_name,
        file.message_types_by_name,
        file.enum_types_by_name,
        file.extensions_by_name,
    )
    return [one.full_name for kind in kinds for one in kind.values()]


def comments(lines: Iterable[str]) -> Counter[str]:
    """Returns how often each line of comment occurs."""
    stripped = (line.strip() for line in lines)
    return Counter(line for line in stripped if line.startswith("//"))


def written() -> Counter[str]:
    """Returns the comments in the .proto files."""
    return comments(line for proto in PROTOS for line in proto.read_text().splitlines())


def ask(service: ServiceProcess, version: str, **request: object) -> reflection_pb2.ServerReflectionResponse:
    """Asks one version of the reflection service."""
    with grpc.insecure_channel(service.address) as channel:
        call = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        (reply,) = call(iter([reflection_pb2.ServerReflectionRequest(**request)]))
    return reply


def files(reply: reflection_pb2.ServerReflectionResponse) -> dict[str, descriptor_pb2.FileDescriptorProto]:
    """Returns the files of an answer by name."""
    protos = reply.file_descriptor_response.file_descriptor_proto
    return {file.name: file for file in map(descriptor_pb2.FileDescriptorProto.FromString, protos)}


def build(protos: dict[str, descriptor_pb2.FileDescriptorProto]) -> descriptor_pool.DescriptorPool:
    """Builds files as a client does that knows nothing else; fails if a dependency is missing."""
    pool = descriptor_pool.DescriptorPool()
    left = dict(protos)

    def add(name: str) -> None:
        if name in left:
            file = left.pop(name)
            for dependency in file.dependency:
                add(dependency)
            pool.Add(file)

    for name in protos:
        add(name)
    return pool


def test_grpcurl_describes_every_symbol_with_all_its_comments(service: ServiceProcess) -> None:
    grpcurl = shutil.which("grpcurl", path=f"{ROOT}/.tools:{os.environ['PATH']}")
    if grpcurl is None:
        pytest.skip("grpcurl is not on PATH; `make tools` installs it")

    def describe(symbol: str) -> str:
        command = [grpcurl, "-plaintext", service.address, "describe", symbol]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout

    with ThreadPoolExecutor(4) as threads:
        shown = list(threads.map(describe, [symbol for file in STUBS for symbol in symbols(file)]))
    assert comments(line for text in shown for line in text.splitlines()) == written()


@VERSIONS
def test_both_versions_answer_for_each_symbol_with_its_comments(service: ServiceProcess, version: str) -> None:
    answered = {}
    for stub in STUBS:
        for symbol in symbols(stub):
            reply = ask(service, version, file_containing_symbol=symbol)
            assert stub.name in files(reply), symbol
            answered |= {name: file for name, file in files(reply).items() if name.startswith("fitserve/")}
    locations = [location for file in answered.values() for location in file.source_code_info.location]
    told = (f"//{line}" for location in locations for line in location.leading_comments.splitlines())
    assert comments(told) == written()


@VERSIONS
def test_an_answer_is_complete_and_says_what_the_stubs_say(service: ServiceProcess, version: str) -> None:
    for stub in STUBS:
        protos = files(ask(service, version, file_by_filename=stub.name))
        told, ours = descriptor_pb2.FileDescriptorProto(), descriptor_pb2.FileDescriptorProto()
        build(protos).FindFileByName(stub.name).CopyToProto(told)
        stub.CopyToProto(ours)
        assert told == ours


@VERSIONS
def test_every_kind_of_question_finds_the_file(service: ServiceProcess, version: str) -> None:
    bounds = {"containing_type": "google.protobuf.FieldOptions", "extension_number": 51701}
    questions = {
        "fitserve/v1/options.proto": {"file_containing_extension": bounds},
        "fitserve/v1/algorithm.proto": {"file_containing_symbol": "fitserve.v1.RandomForest.max_depth"},
        "fitserve/v1/training_job.proto": {"file_containing_symbol": "fitserve.v1.TASK_REGRESSION"},
        "fitserve/v1/training_service.proto": {"file_containing_symbol": "fitserve.v1.TrainingService.Fit"},
        "google/api/http.proto": {"file_by_filename": "google/api/http.proto"},
        "google/rpc/status.proto": {"file_containing_symbol": "google.rpc.Status"},
        "grpc_health/v1/health.proto": {"file_containing_symbol": "grpc.health.v1.Health"},
    }
    for name, question in questions.items():
        assert name in files(ask(service, version, **question)), question
    extensions = ask(service, version, all_extension_numbers_of_type="google.protobuf.MessageOptions")
    assert 51702 in extensions.all_extension_numbers_response.extension_number
    for unknown in ("fitserve.v1.Nothing", "fitserve.v1.TrainingService.Nothing", "nothing"):
        reply = ask(service, version, file_containing_symbol=unknown)
        assert reply.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
