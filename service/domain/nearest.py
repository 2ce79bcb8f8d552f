"""The known name nearest to an unknown one, for messages that help."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns the known name most like `name`, or "" if none is alike."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return found[0] if found else ""


def hint(name: str, known: Iterable[str]) -> str:
    """Returns the end of a sentence about an unknown name: `; did you mean 'iris'?`, or "" if no name is alike."""
    found = nearest(name, known)
    return f"; did you mean {found!r}?" if found else ""
