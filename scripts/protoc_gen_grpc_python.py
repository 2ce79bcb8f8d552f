"""A protoc plugin that writes `*_pb2_grpc.py`, so that one `buf generate` makes every stub.

grpc_tools has the gRPC generator only inside its own protoc; this plugin hands it the descriptors that buf has already
compiled. Protocol: https://protobuf.dev/reference/cpp/api-docs/google.protobuf.compiler.plugin
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc


def generate(request: CodeGeneratorRequest) -> CodeGeneratorResponse:
    """Returns the gRPC stubs of the request's files that define a service.

    Raises:
        SystemExit: grpc_tools refused the descriptors; its message is on stderr.
    """
    with_service = {file.name for file in request.proto_file if file.service}
    wanted = [name for name in request.file_to_generate if name in with_service]
    response = CodeGeneratorResponse(supported_features=CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL)
    with tempfile.TemporaryDirectory() as directory:
        descriptors = Path(directory, "descriptors.bin")
        descriptors.write_bytes(FileDescriptorSet(file=request.proto_file).SerializeToString())
        options = [f"--descriptor_set_in={descriptors}", f"--grpc_python_out={directory}"]
        if wanted and protoc.main(["protoc", *options, *wanted]) != 0:
            raise SystemExit("grpc_tools.protoc failed")
        for path in sorted(Path(directory).rglob("*.py")):
            response.file.add(name=str(path.relative_to(directory)), content=path.read_text())
    return response


if __name__ == "__main__":
    sys.stdout.buffer.write(generate(CodeGeneratorRequest.FromString(sys.stdin.buffer.read())).SerializeToString())
