"""Mends the OpenAPI document that protoc-gen-openapiv2 writes."""

from __future__ import annotations

import json
from pathlib import Path

from fitserve.v1 import data_pb2, prediction_service_pb2, training_service_pb2


def mend(document: Path) -> None:
    """Lets lists of any values hold any values; the plugin says that they hold objects, and Swagger UI believes it."""
    content = json.loads(document.read_text())
    for file in (data_pb2, training_service_pb2, prediction_service_pb2):
        for message in file.DESCRIPTOR.message_types_by_name.values():
            properties = content["definitions"].get(message.name, {}).get("properties", {})
            for field in message.fields:
                if field.message_type and field.message_type.full_name == "google.protobuf.ListValue":
                    schema = properties[field.name]
                    (schema["items"] if field.is_repeated else schema)["items"] = {}
    document.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
