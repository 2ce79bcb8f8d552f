"""Writes the descriptors of package `inference`, as tritonclient has them, for the gateway: `oip_descriptors.py FILE`."""

from __future__ import annotations

import sys
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from tritonclient.grpc import service_pb2


def descriptors() -> bytes:
    """Returns a FileDescriptorSet, imports first, the same bytes at every call."""
    service = service_pb2.DESCRIPTOR
    parts = FileDescriptorSet()
    for file in (*service.dependencies, service):
        parts.file.add().ParseFromString(file.serialized_pb)
    return parts.SerializeToString(deterministic=True)


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(descriptors())
