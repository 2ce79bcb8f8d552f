"""How many files and connections the process may have open."""

from __future__ import annotations

import resource


def allow_all() -> None:
    """Raises the limit to what the system allows. Each connection of a caller counts, and shells and systemd begin with 1,024
    for the sake of programs that use select(2); this one does not.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
