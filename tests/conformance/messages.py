"""The messages of the interoperability tests that all gRPC implementations have, as far as these tests use them.

They are built by descriptor: what counts on the wire are the numbers of the fields, which are those of
`grpc.testing.TestService`. Fields whose value is always the default are left out.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

Type = descriptor_pb2.FieldDescriptorProto
SCALARS = {"bytes": Type.TYPE_BYTES, "int32": Type.TYPE_INT32, "string": Type.TYPE_STRING, "bool": Type.TYPE_BOOL}
MESSAGES = {
    "Empty": {},
    "Payload": {"body": (2, "bytes")},
    "EchoStatus": {"code": (1, "int32"), "message": (2, "string")},
    "SimpleRequest": {
        "response_size": (2, "int32"),
        "payload": (3, "Payload"),
        "response_status": (7, "EchoStatus"),
        "fill_server_id": (9, "bool"),
    },
    "SimpleResponse": {"payload": (1, "Payload"), "server_id": (4, "string")},
    "StreamingInputCallRequest": {"payload": (1, "Payload")},
    "StreamingInputCallResponse": {"aggregated_payload_size": (1, "int32")},
    "ResponseParameters": {"size": (1, "int32"), "interval_us": (2, "int32")},
    "StreamingOutputCallRequest": {
        "response_parameters": (2, "repeated ResponseParameters"),
        "payload": (3, "Payload"),
        "response_status": (7, "EchoStatus"),
    },
    "StreamingOutputCallResponse": {"payload": (1, "Payload")},
    # What these tests ask beyond that.
    "Ask": {"name": (1, "string"), "count": (2, "int32"), "size": (3, "int32"), "padding": (4, "bytes")},
    "Answer": {"text": (1, "string"), "padding": (2, "bytes")},
}
"""The fields of each message: number and type."""


def _field(name: str, number: int, kind: str) -> descriptor_pb2.FieldDescriptorProto:
    repeated = kind.startswith("repeated ")
    kind = kind.removeprefix("repeated ")
    field = Type(name=name, number=number, label=Type.LABEL_REPEATED if repeated else Type.LABEL_OPTIONAL)
    if kind in SCALARS:
        field.type = SCALARS[kind]
    else:
        field.type, field.type_name = Type.TYPE_MESSAGE, f".conformance.{kind}"
    return field


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="conformance.proto", package="conformance", syntax="proto3")
    for name, fields in MESSAGES.items():
        file.message_type.add(name=name, field=[_field(field, *kind) for field, kind in fields.items()])
    return file


_pool = descriptor_pool.DescriptorPool()
_pool.Add(_file())


def _message(name: str) -> Any:  # Any: the classes are made at run time
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"conformance.{name}"))


Empty = _message("Empty")
Payload = _message("Payload")
EchoStatus = _message("EchoStatus")
ResponseParameters = _message("ResponseParameters")
SimpleRequest = _message("SimpleRequest")
SimpleResponse = _message("SimpleResponse")
StreamingInputCallRequest = _message("StreamingInputCallRequest")
StreamingInputCallResponse = _message("StreamingInputCallResponse")
StreamingOutputCallRequest = _message("StreamingOutputCallRequest")
StreamingOutputCallResponse = _message("StreamingOutputCallResponse")
Ask = _message("Ask")
Answer = _message("Answer")
