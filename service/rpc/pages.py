"""Page tokens: opaque to callers, the place of the last item to us."""

from __future__ import annotations

import base64
import json

from service.domain.errors import invalid


def token_after(*place: str) -> str:
    """Returns the token of the page after the item at `place`."""
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


def place_of(token: str, parts: int) -> list[str] | None:
    """Returns the place that a token holds, or None for the first page. Raises ServiceError INVALID_FIELD."""
    if not token:
        return None
    try:
        place = json.loads(base64.urlsafe_b64decode(token.encode()))
    except (ValueError, RecursionError):
        place = None
    if (
        isinstance(place, list)
        and len(place) == parts
        and all(isinstance(part, str) and part.isascii() and part.isprintable() for part in place)
    ):
        return place
    raise invalid("page_token", "it is not a token of this list; leave it empty for the first page")
