"""The environments of the peers and of the plots, made when they are missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
PYTHON = "3.11"
"""The Python of the peers: the latest that all of them have builds for."""


class EnvironmentFailed(Exception):
    """An environment cannot be made; the message says why."""


def python_of(directory: Path) -> Path:
    """Returns the interpreter of the environment of `directory`/requirements.txt, made if it is missing or outdated.

    Raises:
        EnvironmentFailed: There is no uv, or a package cannot be installed.
    """
    environment, lock = directory / ".venv", directory / "requirements.txt"
    python, stamp = environment / "bin" / "python", environment / ".complete"
    if stamp.exists() and stamp.stat().st_mtime >= lock.stat().st_mtime:
        return python
    uv = os.environ.get("UV") or shutil.which("uv")
    if not uv:
        raise EnvironmentFailed("there is no uv; run it as `make bench`, which finds or makes one")
    _run([uv, "venv", "-q", "--allow-existing", "--python", PYTHON, environment])
    _run([uv, "pip", "sync", "-q", "--compile-bytecode", "--python", python, "--require-hashes", lock])
    stamp.touch()
    return python


def _run(command: list[str | Path]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EnvironmentFailed(f"{' '.join(map(str, command[1:3]))} of {command[-1]}: {done.stderr.strip()[-600:]}")
