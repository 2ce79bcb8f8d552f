"""Durations, sizes and times as Go writes them, since ghz's files and reports have them so."""

from __future__ import annotations

import re
from datetime import datetime

NANOSECONDS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,  # U+00B5, the micro sign
    "μs": 1_000,  # U+03BC, the Greek letter
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_PART = r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)"
_SIZE_PREFIXES = ("", "k", "m", "g", "t", "p", "e")


def parse_duration(text: str) -> int:
    """Returns the nanoseconds of a Go duration such as "10s", "1m30s" or "2.5ms".

    Raises:
        ValueError: It is not one.
    """
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if digits == "0":
        return 0
    if not re.fullmatch(f"(?:{_PART})+", digits):
        raise ValueError(f"{text!r} is no duration; write it as Go does, such as '10s', '1m30s' or '250ms'")
    return sign * round(sum(float(number) * NANOSECONDS[unit] for number, unit in re.findall(_PART, digits)))


def parse_size(text: str) -> int:
    """Returns the bytes of a size such as "4MB" (millions), "4MiB" (powers of two) or "4096".

    Raises:
        ValueError: It is not one.
    """
    found = re.fullmatch(r"([\d.,]+)\s*([kmgtpe]?)(i?)b?", text.strip().lower())
    if not found:
        raise ValueError(f"{text!r} is no size; write it such as '4MB', '4MiB' or '4096'")
    base = 1024 if found[3] else 1000
    return int(float(found[1].replace(",", "")) * base ** _SIZE_PREFIXES.index(found[2]))


def local_time(nanoseconds: int, *, fraction: bool = True) -> str:
    """Returns a Unix time as RFC 3339 in the local zone; with `fraction` to the nanosecond, without trailing zeros."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds).astimezone()
    zone = moment.strftime("%z")
    zone = "Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}"
    digits = f".{rest:09d}".rstrip("0") if fraction and rest else ""
    return f"{moment:%Y-%m-%dT%H:%M:%S}{digits}{zone}"
