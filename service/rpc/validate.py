"""Field bounds: what no request may contain. The bounds themselves stand in the contract, as options of the fields."""

from __future__ import annotations

import math
import re
from functools import cache, lru_cache
from typing import Any

from fitserve.v1 import options_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from service.domain.entities import Choice
from service.domain.errors import invalid

MODEL_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
"""What a model may be called; also our defence against names in Triton's control API."""

DATASET_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
MAX_TEXT = 256
"""The longest free text, such as a display name or a column's name."""

KEPT_NAMES = 1024
"""So many well-formed names are known without another look: each prediction has one."""

DEFAULT_PAGE = 100
MAX_PAGE = 1000


@lru_cache(KEPT_NAMES)
def model_name(name: str, field: str = "model") -> str:
    """Returns a model name that is well-formed. Raises ServiceError INVALID_FIELD, and looks again the next time."""
    if not MODEL_NAME.fullmatch(name):
        shown = repr(name if len(name) <= 80 else name[:80] + "...")
        raise invalid(
            field, f"{shown} is no model name; it takes 1 to 63 of a-z, 0-9, _ and -, and starts with a letter"
        )
    return name


def alias_name(name: str, field: str = "alias") -> str:
    """Returns an alias that is well-formed. Raises ServiceError INVALID_FIELD."""
    if not MODEL_NAME.fullmatch(name):
        raise invalid(
            field, f"{name[:80]!r} is no alias; it takes 1 to 63 of a-z, 0-9, _ and -, and starts with a letter"
        )
    return name


def dataset_digest(digest: str, field: str = "dataset") -> str:
    """Returns a dataset's digest that is well-formed. Raises ServiceError INVALID_FIELD."""
    if not DATASET_DIGEST.fullmatch(digest):
        raise invalid(field, "a dataset is named by its digest: 'sha256:' and 64 hexadecimal digits")
    return digest


def file_digest(digest: str, field: str) -> str:
    """Returns a file's digest that is well-formed. Raises ServiceError INVALID_FIELD."""
    if not DATASET_DIGEST.fullmatch(digest):
        raise invalid(field, "a digest is 'sha256:' and the 64 hexadecimal digits that sha256sum prints, or left out")
    return digest


def text(value: str, field: str, limit: int = MAX_TEXT) -> str:
    """Returns a text that is not too long and that databases take. Raises ServiceError INVALID_FIELD."""
    if len(value) > limit:
        raise invalid(field, f"it has {len(value)} characters and {limit} are allowed")
    if "\0" in value:
        raise invalid(field, "it holds the character NUL, which is not allowed")
    return value


def page_size(asked: int) -> int:
    """Returns the page size to use for the one asked for."""
    return min(asked or DEFAULT_PAGE, MAX_PAGE)


def version(request: Message, path: str = "") -> int | None:
    """Returns the version in the message at `path`, or None if it names none. Raises ServiceError INVALID_FIELD."""
    bounds(request, path)
    value: int = request.version  # type: ignore[attr-defined]  # of the messages that have one
    return value if request.HasField("version") else None


def choice(request: Message, path: str = "") -> Choice:
    """Returns the version or the alias in the message at `path`, or None if it names neither.

    Raises:
        ServiceError: INVALID_FIELD; also if it names both.
    """
    named = version(request, path)
    alias: str = request.alias  # type: ignore[attr-defined]  # of the messages that have one
    if not alias:
        return named
    place = f"{path}.alias" if path else "alias"
    if named is not None:
        raise invalid(place, "version is set too; a version is named by its number or by an alias, not by both")
    return alias_name(alias, place)


def bounds(message: Message, path: str = "") -> None:
    """Checks every set field of a message that has bounds, and that enum values are known.

    Args:
        path: Where the message stands in the request, such as "random_forest".

    Raises:
        ServiceError: INVALID_FIELD naming the field, its value and what is allowed.
    """
    for field, limits in _checked(message.DESCRIPTOR):
        if field.has_presence and not message.HasField(field.name):
            continue
        value = getattr(message, field.name)
        if not field.has_presence and not value:
            continue
        place = f"{path}.{field.name}" if path else field.name
        for item in value if field.is_repeated else (value,):
            if field.enum_type is not None and item not in field.enum_type.values_by_number:
                raise invalid(place, f"{item} is none of {', '.join(field.enum_type.values_by_name)}")
        if limits is not None:
            _check(field, value, limits, place)


@cache
def _checked(message: Descriptor) -> tuple[tuple[FieldDescriptor, options_pb2.Bounds | None], ...]:
    """Returns the fields of a kind of message that have something to check; to find them takes longer than to check them."""
    fields = []
    for field in message.fields:
        limited = field.GetOptions().HasExtension(options_pb2.bounds)
        if limited or field.enum_type is not None:
            fields.append((field, field.GetOptions().Extensions[options_pb2.bounds] if limited else None))
    return tuple(fields)


def _check(field: FieldDescriptor, value: Any, limits: options_pb2.Bounds, place: str) -> None:
    """Any: the value of a protobuf field of whatever type."""
    if not field.is_repeated:
        _check_item(value, limits, place)
        return
    if limits.HasField("max_items") and len(value) > limits.max_items:
        raise invalid(place, f"there are {len(value)} entries and at most {limits.max_items} are allowed")
    if field.message_type is not None:
        return
    for index, item in enumerate(value):
        _check_item(item, limits, f"{place}[{index}]")


def _check_item(value: str | float, limits: options_pb2.Bounds, place: str) -> None:
    if isinstance(value, str):
        if limits.one_of and value not in limits.one_of:
            raise invalid(place, f"{value[:80]!r} is none of {', '.join(limits.one_of)}")
        return
    if isinstance(value, float) and not math.isfinite(value):
        raise invalid(place, f"{value} is not a finite number")
    if limits.HasField("min") and value < limits.min:
        raise invalid(place, f"{value} is too small; the smallest value is {limits.min:g}")
    if limits.HasField("max") and value > limits.max:
        raise invalid(place, f"{value} is too large; the largest value is {limits.max:g}")
    if limits.HasField("above") and value <= limits.above:
        raise invalid(place, f"{value} is too small; it must be above {limits.above:g}")
    if limits.HasField("below") and value >= limits.below:
        raise invalid(place, f"{value} is too large; it must be below {limits.below:g}")
