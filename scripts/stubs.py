"""Generates the Python stubs from protos/ by `buf generate`; with --check says whether those in the tree are the same."""

from __future__ import annotations

import argparse
import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

STUBS = Path("clients/python/fitserve/v1")


def generate(root: Path) -> Path:
    """Generates the stubs below `root` and returns their directory."""
    # buf finds its plugins, and the plugins their python, beside the interpreter that runs this.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["buf", "generate", "--output", str(root)]
    subprocess.run(command, check=True, env=os.environ | {"PATH": path}, stderr=subprocess.DEVNULL)
    stubs = root / STUBS
    for typed in stubs.glob("*_pb2_grpc.pyi"):  # mypy-protobuf writes one even where there is no service
        if not typed.with_suffix(".py").exists():
            typed.unlink()
    return stubs


def differences(fresh: Path, committed: Path) -> list[str]:
    """Returns the names of the files that differ or are on one side only."""
    names = sorted({path.name for directory in (fresh, committed) for path in directory.glob("*.py*")})
    same, _, _ = filecmp.cmpfiles(fresh, committed, names, shallow=False)
    return [name for name in names if name not in same]


def main() -> int:
    """Generates or checks, and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the stubs are stale")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as directory:
        fresh = generate(Path(directory))
        if check:
            stale = differences(fresh, STUBS)
            if stale:
                print(f"stale stubs: {', '.join(stale)}; run `make generate` and commit", file=sys.stderr)
            return 1 if stale else 0
        shutil.rmtree(STUBS)
        shutil.copytree(fresh, STUBS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
