"""The directories by which Triton finds versions under names of their own: a configuration, and a link to the version.

They hold nothing that is not elsewhere, and are made when a version is loaded. So a version that was published before
there were such directories is loaded as any other one.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from service.adapters import durable
from service.adapters.layout import CONFIG_FILE
from service.adapters.triton_config import TritonModelConfig
from service.adapters.triton_names import own_name, triton_name, version_of
from service.domain.entities import Manifest


def link(model_dir: Path, manifest: Manifest) -> None:
    """Makes the directory of a version that has a name of its own to Triton. Raises OSError."""
    name = triton_name(manifest)
    if name == manifest.model:
        return
    directory, version = model_dir / name, str(manifest.version)
    directory.mkdir(exist_ok=True)
    config = replace(TritonModelConfig.of(manifest), name=name).to_text().encode()
    file = directory / CONFIG_FILE
    if not file.is_file() or file.read_bytes() != config:
        durable.write_file(file, config)
    if not os.path.lexists(directory / version):
        # Relative, since a Triton of its own may see the model directory in another place.
        os.symlink(Path("..", manifest.model, version), directory / version)


def unlink(model_dir: Path, model: str, version: int) -> None:
    """Deletes a version's directory, if it has one. Raises OSError."""
    directory = model_dir / own_name(model, version)
    if _is_ours(directory):
        durable.remove(directory)


def clean(directory: Path) -> bool:
    """Deletes a directory if its version is gone; returns whether it is such a directory. Raises OSError."""
    found = version_of(directory.name)
    if found is None or not _is_ours(directory):
        return False
    model, version = found
    if not (directory.parent / model / str(version)).is_dir():
        durable.remove(directory)
    return True


def _is_ours(directory: Path) -> bool:
    """Whether there is nothing in a directory but what `link` writes."""
    if not directory.is_dir():
        return False
    written = {CONFIG_FILE, durable.temporary_name(directory / CONFIG_FILE).name}
    others = [path for path in directory.iterdir() if path.name not in written]
    return all(path.is_symlink() for path in others)
