"""Changes to files and directories that survive a crash, and the one error for a full disk."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.domain.errors import Reason, ServiceError

_FULL = (errno.ENOSPC, errno.EDQUOT)


def disk_full() -> ServiceError:
    """Returns the error for a disk, or a quota, that has no room left."""
    return ServiceError(
        Reason.DISK_FULL,
        "the disk of the server is full; remove models or datasets that nobody needs, then repeat",
    )


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turns the operating system's errors for a full disk into ours; also usable as a decorator.

    Raises:
        ServiceError: DISK_FULL.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise disk_full() from error
        raise


def sync_file(path: Path) -> None:
    """Returns when the content of a file, or the names in a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(directory: Path) -> None:
    """Returns when a directory with all its files, on all levels, is on the disk."""
    for folder, _, files in os.walk(directory, topdown=False):
        for name in files:
            sync_file(Path(folder, name))
        sync_file(Path(folder))


def write_file(path: Path, content: bytes) -> None:
    """Writes a whole file, or replaces it, in one step: after a crash there is the old content or the new."""
    new = temporary_name(path)
    with open(new, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
    sync_file(path.parent)


def temporary_name(path: Path) -> Path:
    """Returns where `write_file` writes the new content, in the directory of the file."""
    return path.with_name(f".{path.name}.new")


def remove(path: Path) -> None:
    """Deletes a file, or a directory with all that is in it; does nothing if there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
