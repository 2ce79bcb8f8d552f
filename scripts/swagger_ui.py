"""Fetches the packages that gateway/docs/package-lock.json names, for builds without npm: `swagger_ui.py DOCS`.

Each is compared with its checksum in the lock. NPM_CONFIG_REGISTRY names another registry.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import sys
import tarfile
import urllib.request
from pathlib import Path

REGISTRY = "https://registry.npmjs.org"


def fetch(name: str, version: str, integrity: str) -> bytes:
    """Returns a package's archive. Raises ValueError if it is not the one that the lock names."""
    registry = (os.environ.get("NPM_CONFIG_REGISTRY") or REGISTRY).rstrip("/")
    address = f"{registry}/{name}/-/{name.rpartition('/')[2]}-{version}.tgz"
    with urllib.request.urlopen(address, timeout=120) as reply:
        archive: bytes = reply.read()
    algorithm, _, expected = integrity.partition("-")
    if base64.b64encode(hashlib.new(algorithm, archive).digest()).decode() != expected:
        raise ValueError(f"{address} is not what the lock names; run npm install and look at what changed")
    return archive


def _content(files: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = files.extractfile(member)
    assert file is not None  # as it is for every regular file
    return file.read()


def main() -> None:
    """Unpacks every package to where npm puts it."""
    docs = Path(sys.argv[1])
    for path, package in json.loads((docs / "package-lock.json").read_text())["packages"].items():
        if not path:  # the lock's own
            continue
        archive = fetch(path.rpartition("node_modules/")[2], package["version"], package["integrity"])
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            for member in filter(tarfile.TarInfo.isfile, files):
                target = docs / path / member.name.partition("/")[2]  # below "package/"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(_content(files, member))


if __name__ == "__main__":
    main()
