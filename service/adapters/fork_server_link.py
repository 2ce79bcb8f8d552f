"""One fork server process, and the socket over which it is told to fork."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.adapters.pipe_lines import PipeLines
from service.adapters.process_group import kill_group

_log = logging.getLogger("fitserve.trainer")

_LONGEST_DATAGRAM = 65536
_LONGEST_LINE = 4096
_OUTPUT_END_SECONDS = 0.2


@dataclass(frozen=True)
class Ready:
    """The libraries are imported, after `seconds`."""

    seconds: float


@dataclass(frozen=True)
class Started:
    """The process of a job exists."""

    job: str
    pid: int


@dataclass(frozen=True)
class Exited:
    """The process of a job has ended; `exit_code` is -n for death by signal n."""

    job: str
    pid: int
    exit_code: int
    peak_memory_bytes: int
    cpu_seconds: float


Message = Ready | Started | Exited


class ForkServerLink:
    """A running fork server. Made by `launch`; `wait` must be awaited, which also frees what it holds."""

    def __init__(
        self, process: Process, connection: socket.socket, output: int, on_message: Callable[[Message], None]
    ) -> None:
        self.pid = process.pid
        self.ready = False
        self._process = process
        self._connection = connection
        self._on_message = on_message
        self._output = PipeLines(output, _LONGEST_LINE, _log_output)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(connection.fileno(), self._receive)

    @classmethod
    async def launch(
        cls, command: Sequence[str], environment: Mapping[str, str], on_message: Callable[[Message], None]
    ) -> ForkServerLink:
        """Starts a fork server; returns before it is ready.

        Args:
            command: Its command line, to which `--socket-fd N` is added.
            environment: Its environment.
            on_message: Called with each of its messages.

        Raises:
            OSError: It cannot be started.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        output, their_output = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                f"--socket-fd={theirs.fileno()}",
                stdin=DEVNULL,
                stdout=their_output,
                stderr=their_output,
                env=environment,
                start_new_session=True,
                pass_fds=[theirs.fileno()],
            )
        except BaseException:
            ours.close()
            os.close(output)
            raise
        finally:
            theirs.close()
            os.close(their_output)
        return cls(process, ours, output, on_message)

    def start(self, operation: str, job: str, spec: Path, model: str, events: int, log: int) -> None:
        """Asks for a process; it gets the write ends `events` and `log`, which stay open here.

        Args:
            operation: What it is to do: "fit" or "import".

        Raises:
            BlockingIOError: The socket is full; see `call_when_writable`.
            OSError: The server is gone.
        """
        order = {"op": operation, "job": job, "spec": str(spec), "name": model}
        socket.send_fds(self._connection, [json.dumps(order).encode()], [events, log])

    def call_when_writable(self, callback: Callable[[], None]) -> None:
        """Calls `callback` once when the socket takes messages again."""
        descriptor = self._connection.fileno()

        def call() -> None:
            self._loop.remove_writer(descriptor)
            callback()

        self._loop.add_writer(descriptor, call)

    def kill(self) -> None:
        """Kills the server; the kernel then kills the processes that it forked."""
        if self._process.returncode is None:
            kill_group(self.pid)

    async def wait(self) -> int:
        """Returns the exit code when the server has ended and its last message has been handed on."""
        code = await self._process.wait()
        # A process that was just forked is still in the server's group.
        kill_group(self.pid)
        self._receive()
        descriptor = self._connection.fileno()
        self._loop.remove_reader(descriptor)
        self._loop.remove_writer(descriptor)
        self._connection.close()
        await self._output.finish(_OUTPUT_END_SECONDS)
        return code

    def _receive(self) -> None:
        while True:
            try:
                datagram = self._connection.recv(_LONGEST_DATAGRAM)
            except BlockingIOError:
                return
            except ConnectionError:
                datagram = b""
            if not datagram:
                # It serves nobody any more, whether it has ended or only closed the socket.
                self._loop.remove_reader(self._connection.fileno())
                self.kill()
                return
            try:
                message = _parse(datagram)
            except (ValueError, KeyError, TypeError, ArithmeticError, RecursionError):
                _log.error("the fork server %d sent %r, which is no message", self.pid, datagram[:200])
                continue
            if isinstance(message, Ready):
                self.ready = True
            self._on_message(message)


def _parse(datagram: bytes) -> Message:
    fields = json.loads(datagram)
    match fields["event"]:
        case "ready":
            return Ready(float(fields["seconds"]))
        case "started":
            return Started(str(fields["job"]), int(fields["pid"]))
        case "exited":
            return Exited(
                str(fields["job"]),
                int(fields["pid"]),
                int(fields["exit_code"]),
                int(fields["peak_memory_bytes"]),
                float(fields["cpu_seconds"]),
            )
    raise ValueError(f"unknown event {fields['event']!r}")


def _log_output(line: str) -> None:
    _log.info("fork server: %s", line)
