"""Notices that the launcher is asked to stop, by a signal or by the end of its owner."""

from __future__ import annotations

import os
import select
import signal
import sys

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class StopRequest:
    """Turns signals, and optionally the end of standard input, into something to wait for.

    Attributes:
        made: Whether somebody asked to stop.
        owner_has_gone: Whether standard input reached its end: nobody waits for an answer any more.
    """

    def __init__(self, watch_stdin: bool) -> None:
        """Start to listen; with ``watch_stdin`` the end of standard input counts as a request."""
        self.made = False
        self.owner_has_gone = False
        self._stdin = sys.stdin.fileno() if watch_stdin else None
        # The interpreter writes a byte to this pipe for each signal, which ends a wait at once.
        self._signalled, wakeup = os.pipe()
        os.set_blocking(wakeup, False)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, lambda *_: None)

    def wait(self, seconds: float | None, *descriptors: int) -> None:
        """Wait until a request is made, one of the descriptors is readable, or the time has passed."""
        watched = [self._signalled, *descriptors]
        if self._stdin is not None:
            watched.append(self._stdin)
        readable = select.select(watched, [], [], seconds)[0]
        if self._signalled in readable:
            self.made = True
        if self._stdin in readable and not os.read(self._stdin, 4096):
            self.made = self.owner_has_gone = True
