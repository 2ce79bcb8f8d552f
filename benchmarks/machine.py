"""Facts of the machine and of what runs on it, without its name or anybody's paths."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import psutil

_PACKAGES = ("grpcio", "protobuf", "numpy", "uvloop", "scikit-learn", "xgboost", "torch", "onnxruntime")


def facts() -> dict[str, str | int | float]:
    """Returns cores, processor, memory in GiB, kernel, Python, and versions."""
    processor = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    found: dict[str, str | int | float] = {
        "cores": len(os.sched_getaffinity(0)),
        "processor": processor[1] if processor else platform.machine(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "h2load": _h2load_version(),
    }
    return found | {package: version(package) for package in _PACKAGES}


def commit() -> str:
    """Returns the commit that is measured, with "-dirty" if files differ from it; empty where there is no git."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    return done.stdout.strip()


def _h2load_version() -> str:
    said = subprocess.run(["h2load", "--version"], capture_output=True, text=True, check=True).stdout
    return said.rpartition("/")[2].strip()
