"""Becomes another program that the kernel kills when its parent dies.

Run as a script: ``python -S -E die_with_parent.py PARENT_PID PROGRAM [ARGUMENT ...]``. The setting survives
``execve``, so no code has to run between fork and exec (``preexec_fn`` is unsafe beside threads).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask for the parent's death as a SIGKILL, then replace this process."""
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    # The parent may have died before the call above; nobody would tell us any more.
    if os.getppid() != parent:
        sys.exit(f"the launcher {parent} has ended")
    os.execv(program[0], program)


if __name__ == "__main__":
    main()
