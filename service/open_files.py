"""How many files and connections the process may have open."""

from __future__ import annotations

import resource
from contextlib import suppress


def allow_all() -> None:
    """Raises the limit to what the system allows. Shells and systemd begin with 1,024, and each connection counts."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(
        OSError, ValueError
    ):  # a hard limit above the system's own, which a container may have, cannot be set
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
