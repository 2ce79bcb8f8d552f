"""What a load must hold: the thresholds of a `.slo.toml` beside its configuration."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from benchmarks.ghz.config import ConfigError, describe
from benchmarks.ghz.units import parse_duration

PERCENTILES = ("p10", "p25", "p50", "p75", "p90", "p95", "p99")


def _duration(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) else value


Limit = Annotated[int | None, BeforeValidator(_duration), Field(gt=0)]


class Slo(BaseModel):
    """Thresholds; those that are not given are not checked, but for failures: by default no call may fail.

    Attributes:
        p10: As p25 and so on: the most that this percentile of the latencies may be, as a Go duration.
        average: The most that the mean latency may be.
        slowest: The most that any call may take.
        min_rps: The fewest calls a second.
        max_error_rate: The largest share of calls, 0 to 1, that may fail.
        statuses: How many calls end with each status; the report must have just these.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, alias_generator=lambda field: field.replace("_", "-")
    )

    p10: Limit = None
    p25: Limit = None
    p50: Limit = None
    p75: Limit = None
    p90: Limit = None
    p95: Limit = None
    p99: Limit = None
    average: Limit = None
    slowest: Limit = None
    min_rps: float | None = Field(default=None, gt=0)
    max_error_rate: float = Field(default=0.0, ge=0, le=1)
    statuses: dict[str, int] | None = None

    # Any: a report is JSON.
    def violations(self, report: dict[str, Any]) -> list[str]:
        """Returns a sentence for each threshold that a report does not hold."""
        failed = sum(count for status, count in report["statusCodeDistribution"].items() if status != "OK")
        rate = failed / report["count"] if report["count"] else 1.0
        found = [*self._slow(report)]
        if rate > self.max_error_rate:
            errors = "; ".join(f"{count} x {error}" for error, count in report["errorDistribution"].items())
            found.append(
                f"error rate is {rate:.2%}, more than {self.max_error_rate:.2%}: {errors or 'no call was made'}"
            )
        if self.min_rps is not None and report["rps"] < self.min_rps:
            found.append(f"rps is {report['rps']:.1f}, less than {self.min_rps:.1f}")
        if self.statuses is not None and report["statusCodeDistribution"] != self.statuses:
            found.append(f"statuses are {report['statusCodeDistribution']}, not {self.statuses}")
        return found

    def _slow(self, report: dict[str, Any]) -> list[str]:
        measured = {f"p{item['percentage']}": item["latency"] for item in report["latencyDistribution"] or ()}
        measured |= {"average": report["average"], "slowest": report["slowest"]}
        limits = {name: getattr(self, name) for name in (*PERCENTILES, "average", "slowest")}
        return [
            f"{name} is {measured[name] / 1e6:.2f} ms, more than {limit / 1e6:.2f} ms"
            if name in measured
            else f"{name} cannot be told: no call succeeded"
            for name, limit in limits.items()
            if limit is not None and measured.get(name, limit + 1) > limit
        ]


def slo_path(config: Path) -> Path:
    """Returns where the thresholds of a configuration are: `predict.slo.toml` beside `predict.json`."""
    return config.with_name(f"{config.stem}.slo.toml")


def load_slo(path: Path) -> Slo:
    """Reads thresholds.

    Raises:
        ConfigError: There is no such file, or it has an unknown key or an impossible value.
    """
    try:
        return Slo.model_validate(tomllib.loads(path.read_text()))
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: missing; a load without thresholds tests nothing (an empty file: no call fails)"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: {describe(error)}") from error
