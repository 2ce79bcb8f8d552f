"""Copies the google protos that ours import from the googleapis-common-protos wheel to third_party/, for buf and protoc."""

from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path

FILES = ("google/api/annotations.proto", "google/api/http.proto", "google/rpc/status.proto")


def main() -> None:
    """Copies the files."""
    for name in FILES:
        package, _, file = name.rpartition("/")
        target = Path("third_party", name)
        target.parent.mkdir(parents=True, exist_ok=True)
        with resources.as_file(resources.files(package.replace("/", ".")).joinpath(file)) as source:
            shutil.copyfile(source, target)


if __name__ == "__main__":
    main()
