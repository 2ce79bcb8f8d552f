"""The configuration file of a load: every key that ghz v0.121 reads, and no other.

The keys, their defaults and what they are checked for follow ghz's runner/config.go and runner/options.go. Where ghz
ignores an unknown key, this refuses it: a load that leaves out what its author wrote measures something else.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from benchmarks.ghz.units import parse_duration, parse_size

UNLIMITED = 2**31 - 1  # what ghz takes for the total of a load that ends by its duration


class ConfigError(Exception):
    """A configuration, a data file or a template that cannot be run; the message says which and how to mend it."""


# Any: a value of a JSON file, before it is checked.
def _duration(value: Any) -> Any:
    return parse_duration(value) if isinstance(value, str) else value


def _size(value: Any) -> Any:
    return parse_size(value) if isinstance(value, str) and value else None


def _schedule(value: Any) -> Any:
    return value.strip().lower() or "const" if isinstance(value, str) else value


def _stop_action(value: Any) -> Any:
    """Whatever is not wait or ignore is close, as in ghz."""
    action = value.lower() if isinstance(value, str) else value
    return action if not isinstance(action, str) or action in ("wait", "ignore") else "close"


Count = Annotated[int, Field(ge=0)]
Duration = Annotated[int, BeforeValidator(_duration), Field(ge=0)]
Size = Annotated[int | None, BeforeValidator(_size)]
Schedule = Annotated[Literal["const", "step", "line"], BeforeValidator(_schedule)]
StopAction = Annotated[Literal["close", "wait", "ignore"], BeforeValidator(_stop_action)]
# Any: JSON of a message that only the server's contract knows.
Data = dict[str, Any] | Annotated[list[dict[str, Any]], Field(min_length=1)] | None


def _key(field: str) -> str:
    return {"skip_tls": "skipTLS", "skip_first": "skipFirst"}.get(field, field.replace("_", "-"))


class Config(BaseModel):
    """A load, key by key; durations are in nanoseconds. docs/load-testing.md says what each key does."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, alias_generator=_key, validate_default=True)

    # What is called.
    call: str
    host: str = ""
    proto: str = ""
    protoset: str = ""
    import_paths: list[str] = []
    reflect_metadata: dict[str, str] = {}

    # With what.
    data: Data = None
    data_file: str = ""
    binary_file: str = ""
    metadata: dict[str, str] | None = None
    metadata_file: str = ""
    disable_template_functions: bool = False
    disable_template_data: bool = False
    enable_compression: bool = False
    max_recv_message_size: Size = None
    max_send_message_size: Size = None

    # Over which connections.
    connections: Count = 1
    insecure: bool = False
    cacert: str = ""
    cert: str = ""
    key: str = ""
    cname: str = ""
    skip_tls: bool = False
    authority: str = ""
    lb_strategy: str = ""
    connect_timeout: Duration = 10_000_000_000
    keepalive: Duration = 0

    # How much.
    total: Count = 200
    duration: Duration = 0
    max_duration: Duration = 0
    duration_stop: StopAction = "close"
    timeout: Duration = 20_000_000_000
    rps: Count = 0
    load_schedule: Schedule = "const"
    load_start: Count = 0
    load_end: Count = 0
    load_step: int = 0
    load_step_duration: Duration = 0
    load_max_duration: Duration = 0

    # By how many at a time.
    concurrency: Count = 50
    concurrency_schedule: Schedule = "const"
    concurrency_start: Count = 1
    concurrency_end: Count = 0
    concurrency_step: int = 0
    concurrency_step_duration: Duration = 0
    concurrency_max_duration: Duration = 0
    # "async" is a word of Python's.
    asynchronous: bool = Field(default=False, alias="async")

    # Streams.
    stream_interval: Duration = 0
    stream_call_duration: Duration = 0
    stream_call_count: Count = 0
    stream_dynamic_messages: bool = False

    # The report.
    name: str = ""
    tags: dict[str, str] | None = None
    skip_first: Count = 0
    count_errors: bool = False
    output: str = ""
    format: str = "summary"
    debug: str = ""
    cpus: Count = 0

    @property
    def seconds_limit(self) -> float:
        """The seconds after which the load is stopped; 0: never."""
        return (self.max_duration or self.duration) / 1e9

    @property
    def calls(self) -> int:
        """The calls after which the load ends. A duration lifts the total, in ghz `max-duration` too."""
        return UNLIMITED if self.seconds_limit else self.total

    @model_validator(mode="before")
    @classmethod
    def _zero_means_default(cls, values: Any) -> Any:  # Any: the file's JSON, before it is checked
        """Gives a zero or an empty text the default, as ghz does, and not only a missing key."""
        if not isinstance(values, dict):
            return values
        return {key: value for key, value in values.items() if value not in (0, "", "0", "0s") or value is False}

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.connections > self.concurrency:
            raise ValueError(f"connections ({self.connections}) cannot be more than concurrency ({self.concurrency})")
        if self.binary_file and self.stream_dynamic_messages:
            raise ValueError("stream-dynamic-messages needs data with templates; binary-file has none")
        if self.skip_first > self.calls:
            raise ValueError(f"skipFirst ({self.skip_first}) cannot be more than the calls made ({self.calls})")
        if self.proto and not self.proto.endswith(".proto"):
            raise ValueError(f"proto: {self.proto!r} must end in .proto; a compiled one is a protoset")
        if bool(self.cert) != bool(self.key):
            raise ValueError("cert and key go together; one of them is missing")
        for kind in ("load", "concurrency"):
            self._check_schedule(kind)
        return self

    def _check_schedule(self, kind: str) -> None:
        value = {
            name: getattr(self, f"{kind}_{name}") for name in ("schedule", "start", "end", "step", "step_duration")
        }
        if value["schedule"] == "const":
            return
        if value["start"] == value["end"]:
            raise ValueError(
                f"{kind}-start and {kind}-end are both {value['start']}; a schedule leads from one to another"
            )
        if not value["step"]:
            raise ValueError(f"{kind}-step must be given, and not 0, for {kind}-schedule {value['schedule']!r}")
        if value["schedule"] == "step" and not value["step_duration"]:
            raise ValueError(f"{kind}-step-duration must be given for {kind}-schedule 'step'")
        if not value["start"]:
            raise ValueError(f"{kind}-start must be at least 1 for {kind}-schedule {value['schedule']!r}")


def load_config(path: Path) -> Config:
    """Reads a configuration.

    Raises:
        ConfigError: The file is no JSON, has a key that ghz does not read, or a value that it cannot have.
    """
    try:
        return Config.model_validate(json.loads(path.read_text()))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: {describe(error)}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}") from error


def describe(error: ValidationError) -> str:
    """Returns one line a finding: where, and what is wrong."""
    return "\n".join(
        f"{'.'.join(map(str, item['loc'])) or 'file'}: {_finding(item['type'], item['msg'])}" for item in error.errors()
    )


def _finding(kind: str, message: str) -> str:
    return "unknown key; there is none of this name" if kind == "extra_forbidden" else message
