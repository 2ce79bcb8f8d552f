"""ghz's JSON report (`-O json`), field by field in its order; the rules are those of its runner/reporter.go.

Durations are whole nanoseconds. `count`, `average` and `rps` count failed calls too; the fastest, the slowest, percentiles
and histogram leave them out unless `count-errors` is set.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.ghz.config import Config
from benchmarks.ghz.units import local_time

PERCENTAGES = (10, 25, 50, 75, 90, 95, 99)
BUCKETS = 10
MOST_DETAILS = 1_000_000


@dataclass(frozen=True, slots=True)
class Result:
    """One finished call.

    Attributes:
        latency: Nanoseconds from its start to its end.
        ended: When it ended, in nanoseconds of Unix time.
        status: The status as Go names it: "OK", "DeadlineExceeded".
        error: What went wrong as Go prints it; empty if nothing did.
    """

    latency: int
    ended: int
    status: str
    error: str


@dataclass(frozen=True)
class Echo:
    """What of the input a report repeats.

    Attributes:
        data: The data, if it is JSON. Any: JSON.
        metadata: The metadata, if any was given.
        binary: Whether the data came from a binary file.
    """

    data: Any
    metadata: dict[str, str] | None
    binary: bool


# Any, here and below: a report is JSON.
def report(config: Config, echo: Echo, results: Sequence[Result], total: int, end_reason: str) -> dict[str, Any]:
    """Returns the report of a load.

    Args:
        results: Its calls, in the order in which they ended.
        total: Nanoseconds that all of it took.
        end_reason: normal, timeout (its duration was over) or cancel.
    """
    counted = results[config.skip_first :]
    return {
        "date": local_time(time.time_ns(), fraction=False),
        **({"name": config.name.strip()} if config.name.strip() else {}),
        "endReason": end_reason,
        "options": options(config, echo),
        "count": len(counted),
        "total": total,
        **_figures(counted, total, config.count_errors),
        **({"tags": dict(sorted(config.tags.items()))} if config.tags else {}),
    }


def _figures(results: Sequence[Result], total: int, count_errors: bool) -> dict[str, Any]:
    latencies = sorted(result.latency for result in results if count_errors or not result.error)
    return {
        "average": sum(result.latency for result in results) // len(results) if results else 0,
        "fastest": latencies[0] if latencies else 0,
        "slowest": latencies[-1] if latencies else 0,
        "rps": len(results) * 1e9 / total if results else 0,
        "errorDistribution": dict(sorted(Counter(result.error for result in results if result.error).items())),
        "statusCodeDistribution": dict(sorted(Counter(result.status for result in results).items())),
        "latencyDistribution": percentiles(latencies) if latencies else None,
        "histogram": histogram(latencies) if latencies else None,
        "details": [_detail(result) for result in results[:MOST_DETAILS]] or None,
    }


def _detail(result: Result) -> dict[str, Any]:
    return {
        "timestamp": local_time(result.ended),
        "latency": result.latency,
        "error": result.error,
        "status": result.status,
    }


def percentiles(latencies: Sequence[int]) -> list[dict[str, int]]:
    """Returns ghz's percentiles: of n sorted values the one at int(p/100*n), or one before it if that is a whole number."""
    found = []
    for percentage in PERCENTAGES:
        place = percentage / 100 * len(latencies)
        index = int(place) - 1 if place == int(place) else int(place)
        found.append({"percentage": percentage, "latency": latencies[max(0, index)]})
    return found


def histogram(latencies: Sequence[int]) -> list[dict[str, float]]:
    """Returns eleven marks (in seconds), from the fastest to the slowest, each with the values since the mark before."""
    fastest, slowest = latencies[0] / 1e9, latencies[-1] / 1e9
    width = (slowest - fastest) / BUCKETS
    marks = [*(fastest + width * number for number in range(BUCKETS)), slowest]
    counts, bucket = [0] * len(marks), 0
    for latency in latencies:
        while latency / 1e9 > marks[bucket] and bucket < BUCKETS:
            bucket += 1
        counts[bucket] += 1
    return [
        {"mark": mark, "count": count, "frequency": count / len(latencies)}
        for mark, count in zip(marks, counts, strict=True)
    ]


def options(config: Config, echo: Echo) -> dict[str, Any]:
    """Returns the options as ghz repeats them; those that it leaves out when they are empty are left out."""
    proto_paths = [os.path.dirname(config.proto)] if os.path.dirname(config.proto) else []
    fields: list[tuple[str, Any, bool]] = [
        ("call", config.call, True),
        ("host", config.host, True),
        ("proto", config.proto.strip(), True),
        ("protoset", config.protoset.strip(), True),
        ("import-paths", [*proto_paths, ".", *config.import_paths] if config.proto else [], True),
        ("enable-compression", config.enable_compression, True),
        ("cacert", config.cacert.strip(), True),
        ("cert", config.cert.strip(), True),
        ("key", config.key.strip(), True),
        ("cname", config.cname, True),
        ("skipTLS", config.skip_tls, True),
        ("insecure", config.insecure, False),
        ("authority", config.authority, True),
        ("rps", config.rps, True),
        *_schedule_options(config),
        ("total", config.calls, True),
        ("async", config.asynchronous, True),
        ("connections", config.connections, True),
        ("duration", config.max_duration or config.duration, True),
        ("timeout", config.timeout, True),
        ("dial-timeout", config.connect_timeout, True),
        ("keepalive", config.keepalive, True),
        ("data", echo.data, echo.data is None),
        ("binary", echo.binary, False),
        ("metadata", echo.metadata, echo.metadata is None),
        ("CPUs", config.cpus or len(os.sched_getaffinity(0)), False),
        ("name", config.name.strip(), True),
        ("skipFirst", config.skip_first, True),
        ("count-errors", config.count_errors, True),
    ]
    return {name: value for name, value, may_be_left_out in fields if value or not may_be_left_out}


def _schedule_options(config: Config) -> list[tuple[str, Any, bool]]:
    line = {"load": config.load_schedule == "line", "concurrency": config.concurrency_schedule == "line"}
    return [
        ("load-schedule", config.load_schedule, False),
        ("load-start", config.load_start, False),
        ("load-end", config.load_end, False),
        ("load-step", config.load_step, False),
        ("load-step-duration", 1_000_000_000 if line["load"] else config.load_step_duration, False),
        ("load-max-duration", config.load_max_duration, False),
        ("concurrency", config.concurrency, True),
        ("concurrency-schedule", config.concurrency_schedule, False),
        ("concurrency-start", config.concurrency_start, False),
        ("concurrency-end", config.concurrency_end, False),
        ("concurrency-step", config.concurrency_step, False),
        (
            "concurrency-step-duration",
            1_000_000_000 if line["concurrency"] else config.concurrency_step_duration,
            False,
        ),
        ("concurrency-max-duration", config.concurrency_max_duration, False),
    ]


def write(document: dict[str, Any], format: str) -> str:
    """Returns a report as text: indented if `format` is "pretty", else on one line."""
    return json.dumps(
        document,
        ensure_ascii=False,
        indent=2 if format == "pretty" else None,
        separators=(",", ": ") if format == "pretty" else (",", ":"),
    )
