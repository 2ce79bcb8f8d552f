"""The description of an ImportModel, checked, to the domain's ImportOrder."""

from __future__ import annotations

from fitserve.v1 import model_service_pb2

from service.domain.entities import ImportOrder
from service.domain.errors import invalid
from service.rpc import validate

pb = model_service_pb2

_FORMATS = ", ".join(name for name, number in pb.ModelFormat.items() if number)


def import_order(first: pb.ImportModelRequest | None, loaded_by: str) -> ImportOrder:
    """Returns the order that the first message of an import describes.

    Args:
        loaded_by: Who asks for the load, if one is asked for.

    Raises:
        ServiceError: INVALID_FIELD naming the field that does not fit.
    """
    if first is None or first.WhichOneof("message") != "description":
        raise invalid("description", "the first message of an import is its description")
    description = first.description
    validate.model_name(description.model, "description.model")
    validate.bounds(description, "description")
    if not description.format:
        raise invalid("description.format", f"none is set; set one of {_FORMATS}")
    if description.trusted_types and description.format != pb.MODEL_FORMAT_SKOPS:
        raise invalid("description.trusted_types", "only files of skops have types to trust; leave it out")
    for index, name in enumerate(description.trusted_types):
        validate.text(name, f"description.trusted_types[{index}]")
    if description.digest:
        validate.file_digest(description.digest, "description.digest")
    return ImportOrder(
        model=description.model,
        description=description.SerializeToString(),
        digest=description.digest,
        new_version=description.new_version,
        load=description.load,
        loaded_by=loaded_by,
        torchscript=description.format == pb.MODEL_FORMAT_TORCHSCRIPT,
    )
