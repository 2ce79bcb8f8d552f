"""The features of the plate picker's CatBoost model, made of raw records by their names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeVar

# What a record holds is known to its consumers.
Record = Mapping[str, Any]

T = TypeVar("T")

PLATE_CHARACTERS = "0123456789D" + "АВЕКМНОРСТУХ"
"""Digits, the Latin D, and the 12 Cyrillic letters that look like Latin ones."""

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)


class InvalidRecord(ValueError):
    """No features can be made of a record; the message names the field and says what it takes."""


_L, _D = "[А-ЯЁ]", "[0-9]"
_TEMPLATES = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (f"{_L}{_D}{{3}}{_L}{{2}}{_D}{{2,3}}", "private car"),
        (f"{_L}{{2}}{_D}{{5,6}}", " lk_taxi_r_pricep"),  # the model was trained with the blank
        (f"{_L}{{2}}{_D}{{6,7}}", "lk_pricep_r_transit"),
        (f"{_D}{{4}}{_L}{{2}}{_D}{{2,3}}", "lk_moto_tract"),
        (f"{_L}{_D}{{4}}{_L}{{2}}", "some"),
        (f"{_L}{{2}}{_D}{{3}}{_L}{_D}{{2,3}}", "lk_transit"),
        (f"[TТ]{_L}{{2}}{_D}{{5,6}}", "lk_export"),
        (f"{_L}{_D}{{6,7}}", "lk_mvd_avto"),
        (f"{_D}{{4}}{_L}{_D}{{2,3}}", "lk_mvd_moto"),
        (f"{_D}{{3}}{_L}{_D}{{2,3}}", "lk_mvd_pricep"),
        (f"{_D}{{3}}(?:[CС]D|D|[TТ]){_D}{{3,6}}", "lk_diplomat"),
    )
)
"""The categories of plates by their patterns; the first that matches counts."""


def template(plate: str) -> str:
    """Return the category of a plate."""
    return next((name for pattern, name in _TEMPLATES if pattern.fullmatch(plate)), "unknown")


def numbers_of(text: str) -> list[float]:
    """Return a list that came as its JSON; an empty one, or none, counts as [0]."""
    return [float(number) for number in json.loads(text or "[]")] or [0.0]


def _read(record: Record, name: str, read: Callable[[str], T], wanted: str) -> T:
    """Return what a field's text says. Raises InvalidRecord."""
    try:
        return read(record[name])
    except (ValueError, TypeError, RecursionError):
        raise InvalidRecord(f"{name}: {record[name][:50]!r} is no {wanted}") from None


def features_of(record: Record) -> dict[str, object]:
    """Return all features of a record by the names that the model has for them.

    Raises:
        InvalidRecord: A list is no list of numbers, or the time is no time.
    """
    camera, network = record["regno_recognize"], record["afts_regno_ai"]
    scores = _read(record, "afts_regno_ai_char_scores", numbers_of, "list of numbers")
    lengths = _read(record, "afts_regno_ai_length_scores", numbers_of, "list of numbers")
    time = _read(record, "time_check", datetime.fromisoformat, "date and time such as 2021-08-01 09:02:59")
    lowest: dict[str, float] = {}
    for character, score in zip(network, scores, strict=False):
        lowest[character] = min(score, lowest.get(character, score))
    return {
        "recognition_accuracy": record["recognition_accuracy"],
        "afts_regno_ai_score": record["afts_regno_ai_score"],
        "direction": record["direction"],
        "max_sym_score": max(scores),
        "min_sym_score": min(scores),
        "max_len_score": max(lengths),
        "ai_len": len(network),
        "cam_len": len(camera),
        **{character: lowest.get(character, 1.0) for character in PLATE_CHARACTERS},
        "foreign_sym": float("nan"),
        "hour": time.hour,
        "camera_type": record["camera_type"],
        "camera_class": record["camera_class"],
        "weekday": WEEKDAYS[time.weekday()],
        "month": MONTHS[time.month - 1],
        "regno_template": template(camera),
        "regno_template_ai": template(network),
        "afts_regno_ai_text": " ".join(network),
        "regno_recognize_text": " ".join(camera),
    }


def row_maker(names: list[str]) -> Callable[[Record], list[object]]:
    """Return a function that makes a row of features in the order of these names.

    Raises:
        ValueError: The model wants features that are not made here.
    """
    known = {*PLATE_CHARACTERS, *_NAMES}
    if unknown := sorted(set(names) - known):
        raise ValueError(f"the model wants features that are not known: {unknown}")

    def row(record: Record) -> list[object]:
        features = features_of(record)
        return [features[name] for name in names]

    return row


_NAMES = features_of(
    {
        "regno_recognize": "",
        "afts_regno_ai": "",
        "recognition_accuracy": 0.0,
        "afts_regno_ai_score": 0.0,
        "afts_regno_ai_char_scores": "",
        "afts_regno_ai_length_scores": "",
        "camera_type": "",
        "camera_class": "",
        "time_check": "2021-08-01 00:00:00",
        "direction": 0.0,
    }
).keys()
"""The names of all features."""
