"""The libraries that an operator's model needs in Triton's environment: what is missing, and their installation.

`python -m triton_runtime install MODEL_DIR/NAME` is for operators. No call of the service's interface installs anything.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

REQUIREMENTS_FILE = "requirements.txt"


class RequirementsError(Exception):
    """A model's requirements cannot be read, or not be installed; the message says why."""


def missing(model: Path) -> list[str]:
    """Return the requirements of a model that this environment does not meet.

    Raises:
        RequirementsError: The file has a line that is no requirement.
    """
    return [str(one) for one in _requirements(model) if not _is_met(one)]


def install(model: Path) -> list[str]:
    """Install what a model needs and this environment lacks; what is installed keeps its version.

    Returns:
        What was missing.

    Raises:
        RequirementsError: It cannot be installed, for instance since Triton itself needs another version.
    """
    wanted = missing(model)
    if wanted:
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as pins:
            # Triton's own libraries must stay as they are: under another numpy it computes nonsense.
            pins.writelines(f"{name}=={version}\n" for name, version in _installed().items())
            pins.flush()
            if subprocess.run([*_installer(), "--constraint", pins.name, *wanted], check=False).returncode:
                raise RequirementsError(f"{', '.join(wanted)} cannot be installed beside Triton's own libraries")
    return wanted


def _installer() -> list[str]:
    root = Path(__file__).parent.parent
    uv = shutil.which("uv") or shutil.which("uv", path=root / ".venv-uv" / "bin")
    if uv is not None:
        return [uv, "pip", "install", "--python", sys.executable]
    return [sys.executable, "-m", "pip", "install"]


def _installed() -> dict[str, str]:
    return {found.metadata["Name"]: found.version for found in metadata.distributions()}


def _requirements(model: Path) -> list[Requirement]:
    file = model / REQUIREMENTS_FILE
    if not file.is_file():
        return []
    lines = (line.split("#")[0].strip() for line in file.read_text().splitlines())
    try:
        found = [Requirement(line) for line in lines if line]
    except InvalidRequirement as error:
        raise RequirementsError(f"{file.name} of {model.name}: {error}; write one requirement a line") from error
    return [one for one in found if one.marker is None or one.marker.evaluate()]


def _is_met(requirement: Requirement) -> bool:
    try:
        return requirement.specifier.contains(metadata.version(requirement.name), prereleases=True)
    except metadata.PackageNotFoundError:
        return False
