"""How a report of this harness and one of ghz's must agree."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

FACTOR = 10.0  # noise of a busy machine, between two programs in two languages
FLOOR = 50_000_000  # nanoseconds below which latencies are not told apart


def differences(ours: dict[str, Any], ghzs: dict[str, Any]) -> list[str]:
    """Returns a sentence for each thing in which two reports of one configuration differ more than by noise."""
    found = []
    for one, other in itertools.zip_longest(fields(ours), fields(ghzs)):
        if one != other:
            found.append(f"field {one} here, {other} in ghz")
            break
    exact = ["endReason", "options"]
    if ours["endReason"] == "normal":
        exact += ["count", "statusCodeDistribution", "errorDistribution"]
    found += [f"{name}: {ours[name]} here, {ghzs[name]} in ghz" for name in exact if ours[name] != ghzs[name]]
    if set(ours["statusCodeDistribution"]) != set(ghzs["statusCodeDistribution"]):
        found.append(f"statuses: {ours['statusCodeDistribution']} here, {ghzs['statusCodeDistribution']} in ghz")
    found += [
        f"{name}: {one} here, {other} in ghz"
        for name, one, other in _figures(ours, ghzs)
        if max(one, other) > FACTOR * max(FLOOR, min(one, other))
    ]
    for name, report in (("here", ours), ("in ghz", ghzs)):
        if len(report["histogram"]) != 11 or sum(bar["count"] for bar in report["histogram"]) > report["count"]:
            found.append(f"histogram {name}: {report['histogram']}")
    return found


def _figures(ours: dict[str, Any], ghzs: dict[str, Any]) -> list[tuple[str, int, int]]:
    pairs = zip(ours["latencyDistribution"], ghzs["latencyDistribution"], strict=True)
    percentiles = [(f"p{one['percentage']}", one["latency"], other["latency"]) for one, other in pairs]
    return [*((name, ours[name], ghzs[name]) for name in ("total", "average", "fastest", "slowest")), *percentiles]


def fields(value: Any, path: str = "") -> Iterator[str]:
    """Yields a report's fields in their order, each with its kind; a list's are those of its first element."""
    if isinstance(value, dict) and not path.endswith("Distribution"):
        for key, item in value.items():
            yield from fields(item, f"{path}.{key}")
    elif isinstance(value, list) and value:
        yield from fields(value[0], f"{path}[0]")
    else:
        kind = "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
        yield f"{path}: {kind}"
