"""The called method's descriptor: from the server's reflection, a .proto file, or a compiled protoset.

The order is ghz's (runner/requester.go): `proto`, then `protoset`, then reflection, which is asked for in version 1 and then
in v1alpha.
"""

from __future__ import annotations

import importlib.resources
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import grpc
import grpc.aio
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha import reflection_pb2

from benchmarks.ghz.config import Config, ConfigError

REFLECTION = ("grpc.reflection.v1", "grpc.reflection.v1alpha")  # the messages of both are the same bytes


async def find_method(config: Config, channel: grpc.aio.Channel) -> MethodDescriptor:
    """Returns the method that a configuration calls; the channel is used only for reflection.

    Raises:
        ConfigError: There is no such method, or no description of it.
    """
    service, _, method = config.call.removeprefix(".").replace("/", ".").rpartition(".")
    if not service:
        raise ConfigError(f"call: {config.call!r} must be package.Service.Method or package.Service/Method")
    if config.proto:
        files = _compile(config)
    elif config.protoset:
        files = _read_protoset(config.protoset)
    else:
        files = await _reflect(config, channel, service)
    pool = _pool_of(files)
    try:
        found = pool.FindServiceByName(service).methods_by_name.get(method)
    except KeyError:
        raise ConfigError(f"call: there is no service {service!r}") from None
    if found is None:
        raise ConfigError(f"call: service {service!r} has no method {method!r}")
    return found


def _compile(config: Config) -> list[descriptor_pb2.FileDescriptorProto]:
    """Compiles a .proto file; its directory and the working directory are import paths, as in ghz."""
    paths = [os.path.dirname(config.proto) or ".", ".", *config.import_paths]
    builtin = str(importlib.resources.files("grpc_tools").joinpath("_proto"))
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory, "set")
        arguments = [*(f"-I{path}" for path in dict.fromkeys([*paths, builtin])), "--include_imports"]
        command = [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            *arguments,
            f"--descriptor_set_out={target}",
            config.proto,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ConfigError(f"proto: {done.stderr.strip()}")
        return list(descriptor_pb2.FileDescriptorSet.FromString(target.read_bytes()).file)


def _read_protoset(path: str) -> list[descriptor_pb2.FileDescriptorProto]:
    try:
        return list(descriptor_pb2.FileDescriptorSet.FromString(Path(path).read_bytes()).file)
    except (OSError, DecodeError) as error:
        raise ConfigError(f"protoset: {path}: {error}") from error


async def _reflect(config: Config, channel: grpc.aio.Channel, service: str) -> list[descriptor_pb2.FileDescriptorProto]:
    for package in REFLECTION:
        try:
            return await _ask(config, channel, package, service)
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.UNIMPLEMENTED:
                raise ConfigError(f"reflection: {error.code().name}: {error.details()}") from error
    raise ConfigError("reflection: the server has none; name a proto or a protoset")


async def _ask(
    config: Config, channel: grpc.aio.Channel, package: str, service: str
) -> list[descriptor_pb2.FileDescriptorProto]:
    """Asks one version of the reflection service for a service's file and for all that it imports."""
    stub = channel.stream_stream(
        f"/{package}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    call = stub(metadata=tuple(config.reflect_metadata.items()), timeout=config.connect_timeout / 1e9)
    known: dict[str, descriptor_pb2.FileDescriptorProto] = {}
    wanted: list[reflection_pb2.ServerReflectionRequest] = [
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=service)
    ]
    while wanted:
        await call.write(wanted.pop())
        answer = await call.read()
        if not isinstance(answer, reflection_pb2.ServerReflectionResponse):
            break  # the end of the stream; its status raises below
        if answer.HasField("error_response"):
            raise ConfigError(f"reflection: {service}: {answer.error_response.error_message}")
        for content in answer.file_descriptor_response.file_descriptor_proto:
            file = descriptor_pb2.FileDescriptorProto.FromString(content)
            known[file.name] = file
        missing = {name for file in known.values() for name in file.dependency} - known.keys()
        wanted = [reflection_pb2.ServerReflectionRequest(file_by_filename=name) for name in sorted(missing)]
    await call.done_writing()
    return list(known.values())


def _pool_of(files: Iterable[descriptor_pb2.FileDescriptorProto]) -> descriptor_pool.DescriptorPool:
    """Returns a pool of its own, so that what a server says never meets what this program has compiled in."""
    pool = descriptor_pool.DescriptorPool()
    by_name = {file.name: file for file in files}
    added: set[str] = set()

    def add(name: str) -> None:
        if name in added or name not in by_name:
            return
        added.add(name)
        for dependency in by_name[name].dependency:
            add(dependency)
        pool.Add(by_name[name])

    for name in by_name:
        add(name)
    return pool
