"""A fork server that speaks the real one's protocol; the model's name says what to do in place of a training.

Options beside `--socket-fd=N`: `--import-seconds=S` before it is ready, `--deaf` to do nothing with orders.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import selectors
import signal
import socket
import sys
import time
from typing import NoReturn

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serves until the socket ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket-fd", type=int, required=True)
    parser.add_argument("--import-seconds", type=float, default=0.0)
    parser.add_argument("--deaf", action="store_true")
    options = parser.parse_args()
    connection = socket.socket(fileno=options.socket_fd)
    time.sleep(options.import_seconds)
    print("imported", flush=True)
    send(connection, event="ready", seconds=options.import_seconds)
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is connection:
                    take_order(connection, selector, options.deaf)
                else:
                    reap(connection, selector, key.fd, *key.data)


def send(connection: socket.socket, **message: object) -> None:
    """Sends one message."""
    connection.send(json.dumps(message).encode())


def take_order(connection: socket.socket, selector: selectors.BaseSelector, deaf: bool) -> None:
    """Forks a process for one order."""
    datagram, descriptors, _, _ = socket.recv_fds(connection, 65536, 2)
    if not datagram:
        sys.exit(0)
    if deaf:
        return
    order = json.loads(datagram)
    pid = os.fork()
    if pid == 0:
        train(order["name"], *descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    send(connection, event="started", job=order["job"], pid=pid)
    selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (order["job"], pid))


def reap(connection: socket.socket, selector: selectors.BaseSelector, pid_fd: int, job: str, pid: int) -> None:
    """Reports the end of a process."""
    _, status, usage = os.wait4(pid, 0)
    selector.unregister(pid_fd)
    os.close(pid_fd)
    send(
        connection,
        event="exited",
        job=job,
        pid=pid,
        exit_code=os.waitstatus_to_exitcode(status),
        peak_memory_bytes=usage.ru_maxrss * 1024,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
    )


def train(name: str, events: int, log: int) -> NoReturn:
    """Does what the name says, as a training process."""
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    with os.fdopen(events, "w", buffering=1) as stream:
        os._exit(BEHAVIOURS[name](Report(stream)))


class Report:
    """Writes events."""

    def __init__(self, stream: object) -> None:
        self.stream = stream

    def __call__(self, event: str, **fields: object) -> None:
        print(json.dumps({"event": event, **fields}), file=self.stream, flush=True)  # type: ignore[call-overload]


def good(report: Report) -> int:
    """A training without trouble."""
    report("started", train_rows=120, validation_rows=30)
    report("step", number=1, total=2, unit="round", metrics={"loss": 0.5}, progress=0.5)
    report("step", number=2, total=2, unit="round", metrics={"loss": 0.25}, progress=1)
    os.write(1, b"half of the work\nall of the work\nno end of line")
    report("done", metrics={"accuracy": 0.9})
    return 0


def endless(report: Report) -> int:
    """Beats for ever."""
    report("started", train_rows=1, validation_rows=1)
    while True:
        report("heartbeat", memory_bytes=1)
        time.sleep(0.02)


def silent(report: Report) -> int:
    """Says that it has started, and nothing more."""
    report("started", train_rows=1, validation_rows=1)
    time.sleep(600)
    return 0


def family(report: Report) -> int:
    """Has a child and a grandchild, which print their process ids; ignores what can be ignored."""
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    print(os.getpid(), flush=True)
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        if os.fork() == 0:
            print(os.getpid(), flush=True)
    return endless(report)


def stray(report: Report) -> int:
    """Leaves a child behind that holds the pipes."""
    report("done", metrics={})
    child = os.fork()
    if child == 0:
        time.sleep(600)
    print(child, flush=True)
    return 0


def daemon(report: Report) -> int:
    """Leaves a child behind that holds the pipes and has left the group."""
    report("done", metrics={})
    child = os.fork()
    if child == 0:
        os.setsid()
        print(os.getpid(), flush=True)
        time.sleep(600)
    time.sleep(0.1)
    return 0


def refused(report: Report) -> int:
    """Says what was wrong with the request."""
    report("failed", reason="INVALID_FIELD", message="there are no two classes", field="inline.targets")
    return 2


def told(report: Report) -> int:
    """Says that it failed, and leaves as it does then."""
    report("failed", reason="TRAINING_FAILED", message="the training failed", field="")
    return 1


def crash(report: Report) -> int:
    """Dies of a signal."""
    os.kill(os.getpid(), signal.SIGSEGV)
    return 0


def garbage(report: Report) -> int:
    """Writes what is no event, and then goes on."""
    stream = report.stream
    for text in (
        "no json",
        "[1, 2]",
        '{"event": "step"}',
        '{"event": "later"}',
        '{"event": "failed", "reason": "X"}',
    ):
        print(text, file=stream, flush=True)  # type: ignore[call-overload]
    return good(report)


def deep(report: Report) -> int:
    """Writes JSON that is nested too deep to be read, and then goes on for ever."""
    print("[" * 60_000, file=report.stream, flush=True)  # type: ignore[call-overload]
    return endless(report)


def long_number(report: Report) -> int:
    """Writes a number of more digits than are read, and then goes on for ever."""
    print(f'{{"event": "heartbeat", "memory_bytes": {"9" * 5000}}}', file=report.stream, flush=True)  # type: ignore[call-overload]
    return endless(report)


def absurd_rows(report: Report) -> int:
    """Says that it has more rows than there can be, and then goes on for ever."""
    report("started", train_rows=10**30, validation_rows=1)
    return endless(report)


def absurd_step(report: Report) -> int:
    """Says that it has finished a step with a negative number."""
    report("step", number=-1, total=2, unit="round", metrics={}, progress=0.5)
    return endless(report)


def absurd_metric(report: Report) -> int:
    """Says that it has measured what no float can hold."""
    report("step", number=1, total=2, unit="round", metrics={"loss": 10**400}, progress=0.5)
    return endless(report)


def absurd_progress(report: Report) -> int:
    """Says that it is further than done."""
    report("step", number=1, total=2, unit="round", metrics={}, progress=float("nan"))
    return endless(report)


def absurd_memory(report: Report) -> int:
    """Says that it has more memory than there can be."""
    report("heartbeat", memory_bytes=2**63)
    return endless(report)


def noisy(report: Report) -> int:
    """Writes a line that is far too long, and bytes that are no text."""
    os.write(1, b"x" * 1_000_000 + b"\n")
    os.write(1, b"caf\xe9\n")
    return 0


def flood(report: Report) -> int:
    """Writes many lines as fast as it can."""
    for number in range(20):
        os.write(1, b"".join(b"%d\n" % line for line in range(1000 * number, 1000 * (number + 1))))
    return 0


def hog(report: Report) -> int:
    """Takes 200 MB of memory."""
    block = bytearray(os.urandom(1)) * 200_000_000
    report("started", train_rows=len(block), validation_rows=1)
    return endless(report)


def hog_by_child(report: Report) -> int:
    """Lets a child take 200 MB of memory."""
    return hog(report) if os.fork() == 0 else endless(report)


def abort(report: Report) -> int:
    """Ends as a library does that gets no memory."""
    os.abort()


def leave(report: Report) -> int:
    """Ends as OpenMP's library does that gets no memory: it exits without a word of ours."""
    os._exit(1)


BEHAVIOURS = {
    behaviour.__name__: behaviour
    for behaviour in (
        good, endless, silent, family, stray, daemon, refused, crash, abort, garbage, noisy, flood, hog, hog_by_child,
        leave, told, deep, long_number, absurd_rows, absurd_step, absurd_metric, absurd_progress, absurd_memory
    )
}  # fmt: skip

if __name__ == "__main__":
    main()
