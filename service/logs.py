"""The log: one line an event on standard error."""

from __future__ import annotations

import logging
import sys


def set_up(level: str) -> None:
    """Sends log lines of at least `level` to standard error."""
    logging.basicConfig(
        stream=sys.stderr, level=level, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", force=True
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
