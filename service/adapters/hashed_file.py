"""A file that comes in parts, with the digest of all of it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from service.adapters import durable


class HashedFile:
    """Writes a file. Implements `FileWriter`.

    It is not forced to the disk: it lives no longer than the import, which ends with the service. What an error leaves
    behind goes with the import's directory.
    """

    def __init__(self, path: Path) -> None:
        """Creates the file. Raises ServiceError DISK_FULL."""
        self._hash = hashlib.sha256()
        with durable.disk_errors():
            self._file = path.open("xb", buffering=0)

    @durable.disk_errors()
    def append(self, content: bytes) -> None:
        """Writes the next bytes. Raises ServiceError DISK_FULL; nothing may follow it then."""
        rest = memoryview(content)
        while rest:
            rest = rest[self._file.write(rest) :]
        self._hash.update(content)

    @durable.disk_errors()
    def finish(self) -> str:
        """Closes the file and returns its digest; also to be called when nothing else is to come. Raises DISK_FULL."""
        self._file.close()
        return f"sha256:{self._hash.hexdigest()}"
