"""Forks one process for each training, from a process that has the libraries imported.

The protocol on the socket (SOCK_SEQPACKET, one JSON object a datagram):

* to the server: `{"op", "job", "spec", "name"}` with two file descriptors, for the events and for the log; `op` is "fit" or
  "import";
* from the server: `{"event": "ready", "seconds"}` once, `{"event": "started", "job", "pid"}` and
  `{"event": "exited", "job", "pid", "exit_code", "peak_memory_bytes", "cpu_seconds"}`, where a negative exit code is
  the signal that ended the process. A training leaves with the codes of `python -m training fit`, or with EX_SOFTWARE
  for an error of ours outside of it; a 1 of which no event `failed` tells is a library's own `exit`.

The end of the socket means that the service is gone: the server kills its trainings and ends.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from training import limits, run, warm_up
from training.importing import run as importing

_MAX_DATAGRAM_BYTES = 65536
_FORK_FAILED = 1
_WORK = {"fit": run.execute, "import": importing.execute}


@dataclass(frozen=True)
class _Child:
    """A training process and the descriptor that tells of its end."""

    job: str
    pid: int
    pid_fd: int


def serve(socket_fd: int, start: float) -> int:
    """Runs the fork server until the service is gone; returns the exit code.

    Args:
        socket_fd: One end of an AF_UNIX SOCK_SEQPACKET pair.
        start: When this process started, on the monotonic clock.
    """
    limits.set_process_name("fit-server")
    warm_up.import_libraries()
    warm_up.run_families()
    if limits.thread_count() != 1:
        raise RuntimeError("a library has started a thread on import; a process with threads cannot fork safely")
    # Frozen objects are left alone by the collector, so that the children keep sharing their pages.
    gc.collect()
    gc.freeze()
    server = _ForkServer(socket.socket(fileno=socket_fd))
    server.send({"event": "ready", "seconds": round(time.monotonic() - start, 3)})
    server.run()
    return 0


class _ForkServer:
    """The loop of the server.

    Args:
        connection: The socket to the service.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._children: dict[int, _Child] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(connection, selectors.EVENT_READ)

    def send(self, event: dict[str, object]) -> None:
        """Sends one event; one that the service no longer waits for is dropped."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._connection.send(json.dumps(event).encode())

    def run(self) -> None:
        """Serves until the socket ends, then kills what still trains."""
        connected = True
        while connected:
            for key, _ in self._selector.select():
                if key.fileobj is self._connection:
                    connected = self._receive()
                else:
                    self._reap(self._children[key.fd])
        for child in list(self._children.values()):
            self._reap(child)

    def _receive(self) -> bool:
        """Handles one datagram; returns False at the end of the socket."""
        try:
            datagram, descriptors, _, _ = socket.recv_fds(self._connection, _MAX_DATAGRAM_BYTES, 2)
        except ConnectionResetError:
            return False
        if not datagram:
            return False
        request = json.loads(datagram)
        try:
            events, log = descriptors
            self._fork(request, events, log)
        except OSError:
            traceback.print_exc()
            self._send_exited(request["job"], 0, _FORK_FAILED, 0, 0.0)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return True

    def _fork(self, request: dict[str, str], events: int, log: int) -> None:
        """Starts a training process."""
        server = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._be_child(server, request, events, log)
        child = _Child(request["job"], pid, os.pidfd_open(pid))
        self._children[child.pid_fd] = child
        self._selector.register(child.pid_fd, selectors.EVENT_READ)
        self.send({"event": "started", "job": child.job, "pid": pid})

    def _be_child(self, server: int, request: dict[str, str], events: int, log: int) -> None:
        """Trains in the new process and ends it."""
        exit_code = os.EX_SOFTWARE
        try:
            os.setsid()
            limits.end_with_parent(server)
            for name in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
                signal.signal(name, signal.SIG_DFL)
            self._connection.close()
            self._selector.close()
            for child in self._children.values():
                os.close(child.pid_fd)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.close(log)
            sys.stdout = os.fdopen(1, "w", buffering=1)
            exit_code = _WORK[request["op"]](Path(request["spec"]), events)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(exit_code)

    def _reap(self, child: _Child) -> None:
        """Kills the training's process group, if any of it still lives, and reports its end."""
        for kill in (os.killpg, os.kill):
            # A child that was just forked may not have its group yet.
            with contextlib.suppress(ProcessLookupError):
                kill(child.pid, signal.SIGKILL)
        _, status, usage = os.wait4(child.pid, 0)
        self._selector.unregister(child.pid_fd)
        os.close(child.pid_fd)
        del self._children[child.pid_fd]
        exit_code = os.waitstatus_to_exitcode(status)
        cpu_seconds = usage.ru_utime + usage.ru_stime
        self._send_exited(child.job, child.pid, exit_code, usage.ru_maxrss * 1024, cpu_seconds)

    def _send_exited(self, job: str, pid: int, exit_code: int, peak_memory_bytes: int, cpu_seconds: float) -> None:
        self.send(
            {
                "event": "exited",
                "job": job,
                "pid": pid,
                "exit_code": exit_code,
                "peak_memory_bytes": peak_memory_bytes,
                "cpu_seconds": cpu_seconds,
            }
        )
