"""What sections have found, a file each, so that one which is measured again leaves those of the others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import TypeAdapter

from benchmarks.plan import SECTIONS, Found

Json: TypeAlias = dict[str, Any]  # Any: what JSON may hold


@dataclass(frozen=True)
class Measured:
    """What one section has found in one run.

    Attributes:
        run: When, of which commit, how many rounds and seconds a load.
        machine: Facts of the machine.
        subjects: What each is, by name.
        missing: Why others were not there, by name.
        found: Figures and findings.
    """

    run: Json
    machine: Json
    subjects: dict[str, str]
    missing: dict[str, str]
    found: Found


_MEASURED = TypeAdapter(Measured)


def keep(section: str, measured: Measured, directory: Path) -> None:
    """Writes what a section has found, in place of what it found before."""
    folder = directory / "sections"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{section}.json").write_bytes(_MEASURED.dump_json(measured, indent=1) + b"\n")


def read(directory: Path) -> dict[str, Measured]:
    """Returns what is kept, by section, in the order of the plan."""
    paths = {name: directory / "sections" / f"{name}.json" for name in SECTIONS}
    return {name: _MEASURED.validate_json(path.read_bytes()) for name, path in paths.items() if path.exists()}
