"""Server reflection, v1 and v1alpha: `grpcurl host:port list` just works, and `describe` shows the contract's comments.

grpcio-reflection serves v1alpha only. Version 1 is the same messages under another package name, so its descriptor is
made from the one of v1alpha, and the same servicer answers both.

Generated Python code has no comments. `contract.binpb` is our files with them, made by `make generate`; what it has is
told from it, everything else (google.api, grpc.health.v1, ...) from the descriptors of the installed packages.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import grpc
from fitserve.v1 import error_reason_pb2  # noqa: F401 no message has it, but callers ask for it
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor, ServiceDescriptor
from grpc_reflection.v1alpha import reflection, reflection_pb2

from service.rpc.boundary import Methods

V1ALPHA = "grpc.reflection.v1alpha"
V1 = "grpc.reflection.v1"
V1_SERVICE = f"{V1}.ServerReflection"
V1ALPHA_SERVICE = f"{V1ALPHA}.ServerReflection"
CONTRACT = Path(__file__).with_name("contract.binpb")


def add_reflection(methods: Methods, services: Sequence[str]) -> None:
    """Adds both versions of the reflection service, telling of `services` and of itself."""
    names = (*services, V1_SERVICE, V1ALPHA_SERVICE)
    pool = descriptor_pool.Default()
    _add_v1_descriptor(pool)
    servicer = reflection.aio.ReflectionServicer(names, CommentedPool(pool))
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for name in (V1_SERVICE, V1ALPHA_SERVICE):
        methods.add_registered_method_handlers(name, {"ServerReflectionInfo": handler})


def v1_reflection_service() -> ServiceDescriptor:
    """Returns version 1 of the reflection service."""
    pool = descriptor_pool.Default()
    _add_v1_descriptor(pool)
    return pool.FindServiceByName(V1_SERVICE)


class CommentedFile:
    """A file's descriptor as the reflection servicer uses it, with the comments where the contract has the file."""

    def __init__(self, file: FileDescriptor) -> None:
        self._file = file
        self.name: str = file.name

    @property
    def dependencies(self) -> list[CommentedFile]:
        """The files that this one imports."""
        return [CommentedFile(file) for file in self._file.dependencies]

    def CopyToProto(self, proto: descriptor_pb2.FileDescriptorProto) -> None:
        """Writes the file into an empty message."""
        contract = _contract().get(self.name)
        if contract is None:
            self._file.CopyToProto(proto)
        else:
            proto.CopyFrom(contract)


class CommentedPool:
    """A descriptor pool as the reflection servicer uses it, whose files have comments."""

    def __init__(self, pool: descriptor_pool.DescriptorPool) -> None:
        self._pool = pool

    def FindFileByName(self, name: str) -> CommentedFile:
        """Returns the file of a name; raises KeyError if there is none."""
        return CommentedFile(self._pool.FindFileByName(name))

    def FindFileContainingSymbol(self, symbol: str) -> CommentedFile:
        """Returns the file that defines a symbol; raises KeyError if there is none."""
        try:
            return CommentedFile(self._pool.FindFileContainingSymbol(symbol))
        except KeyError:  # protobuf's pool finds every kind of symbol here but methods
            return CommentedFile(self._pool.FindMethodByName(symbol).containing_service.file)

    def FindMessageTypeByName(self, name: str) -> Descriptor:
        """Returns the message of a full name; raises KeyError if there is none."""
        return self._pool.FindMessageTypeByName(name)

    def FindExtensionByNumber(self, message: Descriptor, number: int) -> FieldDescriptor:
        """Returns a message's extension; raises KeyError if there is none."""
        return self._pool.FindExtensionByNumber(message, number)

    def FindAllExtensions(self, message: Descriptor) -> list[FieldDescriptor]:
        """Returns a message's extensions."""
        return self._pool.FindAllExtensions(message)


@cache
def _contract() -> dict[str, descriptor_pb2.FileDescriptorProto]:
    """Returns our files by name, read when somebody first asks."""
    files = descriptor_pb2.FileDescriptorSet.FromString(CONTRACT.read_bytes())
    return {file.name: file for file in files.file}


def _add_v1_descriptor(pool: descriptor_pool.DescriptorPool) -> None:
    """Adds grpc/reflection/v1/reflection.proto, made from v1alpha's, unless the pool has it."""
    try:
        pool.FindFileByName("grpc/reflection/v1/reflection.proto")
        return
    except KeyError:
        pass
    alpha = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(alpha)
    file = descriptor_pb2.FileDescriptorProto.FromString(alpha.SerializeToString())
    file.name, file.package = "grpc/reflection/v1/reflection.proto", V1
    for message in file.message_type:
        for field in filter(lambda field: field.type_name, message.field):
            field.type_name = field.type_name.replace(f".{V1ALPHA}.", f".{V1}.")
    for method in file.service[0].method:
        method.input_type = method.input_type.replace(f".{V1ALPHA}.", f".{V1}.")
        method.output_type = method.output_type.replace(f".{V1ALPHA}.", f".{V1}.")
    pool.AddSerializedFile(file.SerializeToString())
