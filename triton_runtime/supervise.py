"""Runs one Triton from start to end and reports what becomes of it.

Whatever happens first (a signal, the end of the owner, the end of Triton), afterwards no process of Triton
and no shared memory region is left. If the launcher itself is killed, the kernel kills Triton, the stubs
notice and end within 3 s, and the next launcher removes the regions they left.
"""

from __future__ import annotations

import json
import math
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from triton_runtime import command
from triton_runtime.layout import Installation, LayoutError, prepare
from triton_runtime.processes import become_subreaper
from triton_runtime.shared_memory import region_prefix, remove_abandoned_regions
from triton_runtime.stop_request import StopRequest
from triton_runtime.stubs import end_abandoned_stubs
from triton_runtime.triton_process import TritonProcess

_START_TIMEOUT = 60.0
_POLL_INTERVAL = 0.005


class ExitCode(IntEnum):
    """How the launcher ended. Exit code 2 means wrong arguments."""

    STOPPED = 0
    NOT_STARTED = 3
    TRITON_DIED = 4


@dataclass(frozen=True)
class Settings:
    """What the launcher was asked for. Times are in seconds."""

    model_repository: Path
    host: str
    grpc_port: int
    http_port: int
    stop_when_stdin_closes: bool
    stop_timeout: float


def supervise(settings: Settings) -> ExitCode:
    """Start Triton, report it on standard output, and stay until it or its owner ends."""
    began = time.monotonic()
    stop = StopRequest(settings.stop_when_stdin_closes)
    become_subreaper()
    end_abandoned_stubs()
    remove_abandoned_regions()
    try:
        installation = prepare()
    except LayoutError as error:
        return _not_started(str(error))
    for port in _ports_to_try(settings.host, settings.grpc_port):
        code = _run(settings, installation, port, stop, began)
        if code is not ExitCode.NOT_STARTED:
            return code
    return _not_started("Triton ended before it answered; its last messages on standard error say why")


def _ports_to_try(host: str, wanted: int) -> Iterator[int]:
    """Yield the wanted port if it is free; then 0, any port, if it is not or has been taken meanwhile."""
    if wanted and _is_free(host, wanted):
        yield wanted
    if not wanted or not _is_free(host, wanted):
        yield 0


def _is_free(host: str, port: int) -> bool:
    try:
        socket.create_server((host, port)).close()
    except OSError:
        return False
    return True


def _run(settings: Settings, installation: Installation, port: int, stop: StopRequest, began: float) -> ExitCode:
    prefix = region_prefix()
    arguments = command.arguments(
        installation,
        settings.model_repository,
        settings.host,
        port,
        settings.http_port,
        prefix,
        drain_seconds=math.ceil(settings.stop_timeout),
    )
    with TritonProcess(arguments, command.environment(installation, os.environ), prefix) as triton:
        answering = _wait_until_it_answers(triton, stop, settings.http_port)
        if stop.made:
            return ExitCode.STOPPED
        if answering is None:
            return ExitCode.NOT_STARTED
        _report(
            event="ready",
            address=f"{settings.host}:{answering}",
            pid=triton.pid,
            shm_prefix=prefix,
            seconds=round(time.monotonic() - began, 3),
        )
        while not stop.made and not triton.has_ended:
            stop.wait(None, triton.exit_fd)
        if not stop.made:
            return ExitCode.TRITON_DIED
        if not stop.owner_has_gone:
            triton.finish(settings.stop_timeout)
        return ExitCode.STOPPED


def _wait_until_it_answers(triton: TritonProcess, stop: StopRequest, http_port: int) -> int | None:
    """Return Triton's gRPC port, or None when it ended, took too long, or is no longer wanted."""
    deadline = time.monotonic() + _START_TIMEOUT
    while not triton.has_ended and not stop.made and time.monotonic() < deadline:
        ports = triton.ports - {http_port}
        if ports:
            return ports.pop()
        stop.wait(_POLL_INTERVAL, triton.exit_fd)
    return None


def _not_started(message: str) -> ExitCode:
    _report(event="failed", message=message)
    return ExitCode.NOT_STARTED


def _report(**event: str | int | float) -> None:
    print(json.dumps(event), flush=True)
