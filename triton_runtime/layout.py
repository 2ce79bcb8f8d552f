"""Finds Triton inside the ``nvidia-pytriton`` wheel and lays out the backend directory that it needs.

Triton looks for a backend's files beside the real path of its library, so the directory holds copies, not
links. Its name carries the wheel's version and a digest of its content: a new wheel, another Python or a
changed backend gets a new directory, and a directory that exists is complete.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_OUR_BACKENDS = Path(__file__).parent / "backends"
# What our backends compute with; Triton's stubs find it beside the backend that they run.
_PREDICTORS = Path(__file__).parents[1] / "predictors"


class LayoutError(Exception):
    """Triton cannot be run from this environment; the message says why and what to do."""


@dataclass(frozen=True)
class Installation:
    """Where the parts of a runnable Triton are.

    Attributes:
        server: The ``tritonserver`` executable.
        backends: The directory to give to ``--backend-directory``.
        libraries: Directories for ``LD_LIBRARY_PATH``, in order.
    """

    server: Path
    backends: Path
    libraries: tuple[Path, ...]


def prepare() -> Installation:
    """Locate Triton and make sure its backend directory exists.

    Raises:
        LayoutError: The wheel is missing or does not fit this Python, or no place is writable.
    """
    packages = _site_packages()
    tree = packages / "pytriton" / "tritonserver"
    files = dict(_backend_files(tree))
    return Installation(
        server=tree / "bin" / "tritonserver",
        backends=_laid_out(_stamp(packages, files), files),
        libraries=(packages / "nvidia_pytriton.libs", *_python_library_directories()),
    )


def _site_packages() -> Path:
    # find_spec does not import the package: pytriton's own imports take longer than starting Triton.
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise LayoutError(f"nvidia-pytriton is not installed for {sys.executable}; run 'make setup'")
    return Path(spec.origin).parent.parent


def _backend_files(tree: Path) -> Iterator[tuple[Path, Path]]:
    """Yield (path inside the backend directory, file to copy) in a stable order."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = tree / "python_backend_stubs" / python / "triton_python_backend_stub"
    if not stub.is_file():
        raise LayoutError(f"nvidia-pytriton has no Python backend stub for Python {python}; use 3.11 to 3.13")
    yield Path("python", stub.name), stub
    for source in sorted((tree / "backends" / "python").iterdir()):
        if source.is_file():  # and not the bytecode that an installer may have made
            yield Path("python", source.name), source
    for source in sorted(_OUR_BACKENDS.glob("*/*.py")):
        yield source.relative_to(_OUR_BACKENDS), source
    for source in sorted(_PREDICTORS.glob("*.py")):
        yield source.relative_to(_PREDICTORS.parent), source


def _stamp(packages: Path, files: dict[Path, Path]) -> str:
    digest = hashlib.sha256()
    for target, source in files.items():
        digest.update(f"{target}\0{source.stat().st_size}\0".encode())
        digest.update(source.read_bytes())
    version = next((p.name.split("-")[1] for p in packages.glob("nvidia_pytriton-*.dist-info")), "unknown")
    return f"{version.removesuffix('.dist')}-{digest.hexdigest()[:16]}"


def _laid_out(stamp: str, files: dict[Path, Path]) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    homes = (Path(sys.prefix) / "fitserve-triton", cache / "fitserve-triton")
    for home in homes:
        if (home / stamp).is_dir():
            return home / stamp
    problems = []
    for home in homes:
        try:
            return _build(home, stamp, files)
        except OSError as error:
            problems.append(f"{home}: {error.strerror}")
    raise LayoutError(f"no place for Triton's backend directory ({'; '.join(problems)}); make one of them writable")


def _build(home: Path, stamp: str, files: dict[Path, Path]) -> Path:
    """Copy the files into a new directory and rename it into place; a racing launcher may be first."""
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home, prefix=".building-") as building:
        content = Path(building, stamp)
        for target, source in files.items():
            (content / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, content / target)
        (content / "python" / "triton_python_backend_stub").chmod(0o755)
        try:
            content.rename(home / stamp)
        except OSError:
            if not (home / stamp).is_dir():
                raise
    return home / stamp


def _python_library_directories() -> list[Path]:
    """Directories that hold this very Python as a shared library, which Triton's stub links to.

    An empty list leaves the search to the system's linker.
    """
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    candidates = [Path(sys.base_prefix, "lib"), Path(sysconfig.get_config_var("LIBDIR") or "/nonexistent")]
    found = [directory for directory in candidates if (directory / name).is_file()]
    if not found and not _linker_finds(name):
        raise LayoutError(
            f"{sys.executable} comes without {name}, which Triton's Python backend needs; "
            "install the package libpython3, or use a Python built with --enable-shared"
        )
    return list(dict.fromkeys(found))


def _linker_finds(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
