"""Generates what comes from protos/: the Python stubs, and the descriptors with comments that reflection answers with.

With --check it says whether those in the tree are the same.
"""

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
CONTRACT = Path("service/rpc/contract.binpb")


def generate(root: Path) -> None:
    """Generates everything below `root`, at the paths that it has in the tree."""
    # buf finds its plugins, and the plugins their python, beside the interpreter that runs this.
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["buf", "generate", "--output", str(root)]
    subprocess.run(command, check=True, env=environment, stderr=subprocess.DEVNULL)
    for typed in (root / STUBS).glob("*_pb2_grpc.pyi"):  # mypy-protobuf writes one even where there is no service
        if not typed.with_suffix(".py").exists():
            typed.unlink()
    (root / CONTRACT).parent.mkdir(parents=True)
    command = ["buf", "build", "protos", "--as-file-descriptor-set", "--exclude-imports", "-o", str(root / CONTRACT)]
    subprocess.run(command, check=True, env=environment)


def differences(fresh: Path, committed: Path) -> list[str]:
    """Returns the paths of the generated files that differ or are below one of the roots only."""
    stubs = {path.relative_to(root) for root in (fresh, committed) for path in (root / STUBS).glob("*.py*")}
    paths = sorted(map(str, (CONTRACT, *stubs)))
    same, _, _ = filecmp.cmpfiles(fresh, committed, paths, shallow=False)
    return [path for path in paths if path not in same]


def main() -> int:
    """Generates or checks, and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if anything is stale")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as directory:
        fresh = Path(directory)
        generate(fresh)
        if check:
            stale = differences(fresh, Path())
            if stale:
                print(f"stale: {', '.join(stale)}; run `make generate` and commit", file=sys.stderr)
            return 1 if stale else 0
        shutil.rmtree(STUBS)
        shutil.copytree(fresh / STUBS, STUBS)
        shutil.copy(fresh / CONTRACT, CONTRACT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
