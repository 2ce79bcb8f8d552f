"""Configurations: every key of ghz and no other, Go's durations and sizes, its defaults and its refusals."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ghz.config import UNLIMITED, Config, ConfigError, load_config
from benchmarks.ghz.units import local_time, parse_duration, parse_size
from tests.service_process import ROOT

# The json tags of ghz v0.121's runner.Config.
KEYS = {
    "proto", "protoset", "call", "cacert", "cert", "key", "count-errors", "skipTLS", "skipFirst", "cname",
    "authority", "insecure", "total", "async", "concurrency", "concurrency-schedule", "concurrency-start",
    "concurrency-end", "concurrency-step", "concurrency-step-duration", "concurrency-max-duration", "connections",
    "rps", "duration", "duration-stop", "max-duration", "timeout", "data", "data-file", "binary-file", "metadata",
    "metadata-file", "stream-interval", "stream-call-duration", "stream-call-count", "stream-dynamic-messages",
    "output", "format", "connect-timeout", "keepalive", "cpus", "import-paths", "name", "tags",
    "reflect-metadata", "debug", "host", "enable-compression", "load-schedule", "load-start", "load-end",
    "load-step", "load-step-duration", "load-max-duration", "lb-strategy", "max-recv-message-size",
    "max-send-message-size", "disable-template-functions", "disable-template-data",
}  # fmt: skip


def read(tmp_path: Path, **keys: Any) -> Config:
    path = tmp_path / "load.json"
    path.write_text(json.dumps({"call": "a.B.C"} | {name.replace("_", "-"): value for name, value in keys.items()}))
    return load_config(path)


def test_the_keys_are_those_of_ghz() -> None:
    assert {field.alias for field in Config.model_fields.values()} == KEYS


def test_the_page_on_loads_names_every_key() -> None:
    page = (ROOT / "docs/load-testing.md").read_text()
    assert set(re.findall(r"`([a-zA-Z-]+)`", page)) >= KEYS


def test_defaults_are_those_of_ghz(tmp_path: Path) -> None:
    config = read(tmp_path)
    assert (config.total, config.concurrency, config.connections) == (200, 50, 1)
    assert (config.timeout, config.connect_timeout) == (20_000_000_000, 10_000_000_000)
    assert (config.load_schedule, config.concurrency_schedule, config.duration_stop) == ("const", "const", "close")


def test_a_zero_means_the_default_as_in_ghz(tmp_path: Path) -> None:
    config = read(tmp_path, total=0, timeout="0s", load_schedule="")
    assert (config.total, config.timeout, config.load_schedule) == (200, 20_000_000_000, "const")


def test_a_duration_lifts_the_total(tmp_path: Path) -> None:
    assert read(tmp_path, total=5).calls == 5
    assert read(tmp_path, total=5, duration="1s").calls == UNLIMITED
    assert read(tmp_path, total=5, max_duration="1s").calls == UNLIMITED


def test_max_duration_goes_before_duration(tmp_path: Path) -> None:
    assert read(tmp_path, duration="5s", max_duration="2s").seconds_limit == 2


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"concurency": 3}, "concurency: unknown key"),
        ({"total": -1}, "total: .*greater than or equal to 0"),
        ({"total": "5"}, "total: .*valid integer"),
        ({"duration": "10"}, "duration: .*is no duration"),
        ({"data": "@"}, "data"),
        ({"data": []}, "data"),
        ({"data": [1]}, "data"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"connections": 4, "concurrency": 2}, "connections .4. cannot be more than concurrency .2."),
        ({"skipFirst": 300}, "skipFirst .300. cannot be more"),
        ({"proto": "a.protoset"}, "must end in .proto"),
        ({"cert": "a.pem"}, "cert and key go together"),
        ({"binary_file": "a", "stream_dynamic_messages": True}, "stream-dynamic-messages needs data"),
        ({"load_schedule": "ramp"}, "load-schedule"),
        ({"load_schedule": "step", "load_start": 5, "load_end": 5}, "load-start and load-end are both 5"),
        ({"load_schedule": "line", "load_start": 5, "load_end": 9}, "load-step must be given"),
        ({"load_schedule": "step", "load_start": 5, "load_end": 9, "load_step": 1}, "load-step-duration must be given"),
        ({"load_schedule": "line", "load_end": 9, "load_step": 1}, "load-start must be at least 1"),
        ({"concurrency_schedule": "line", "concurrency_end": 1}, "concurrency-start and concurrency-end are both 1"),
    ],
)
def test_what_cannot_be_run_is_refused_with_its_key(tmp_path: Path, keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read(tmp_path, **keys)


def test_a_file_that_is_no_json_or_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "load.json").write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        load_config(tmp_path / "load.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [("10s", 10**10), ("1m30s", 90 * 10**9), ("2.5ms", 2_500_000), ("1h", 3600 * 10**9), ("7us", 7000), ("7µs", 7000),
     ("0", 0), ("3ns", 3), (".5s", 500_000_000), ("-1s", -(10**9))],
)  # fmt: skip
def test_durations_are_read_as_go_reads_them(text: str, nanoseconds: int) -> None:
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize("text", ["", "10", "s", "1 s", "1d", "1s1"])
def test_what_go_refuses_as_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        parse_duration(text)


@pytest.mark.parametrize(("text", "size"), [("4MB", 4_000_000), ("4MiB", 4 << 20), ("1024", 1024), ("1.5 kB", 1500)])
def test_sizes_are_read_in_both_bases(text: str, size: int) -> None:
    assert parse_size(text) == size


def test_times_end_without_zeros_as_in_go(monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.fullmatch(r"2009-02-1[34]T\d\d:\d\d:30\.5(Z|[+-]\d\d:\d\d)", local_time(1234567890_500_000_000))
    assert re.fullmatch(
        r"2009-02-1[34]T\d\d:\d\d:30(Z|[+-]\d\d:\d\d)", local_time(1234567890_500_000_000, fraction=False)
    )
