"""Generates what comes from protos/; with --check it says whether what is in the tree is the same.

The Python stubs and the descriptors with comments that reflection answers with; where there is a Go, which builds the
plugins, also the gateway's Go code, its OpenAPI document, and the descriptors of the Open Inference Protocol.
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

from scripts import openapi
from scripts.oip_descriptors import descriptors

STUBS = Path("clients/python/fitserve/v1")
CONTRACT = Path("service/rpc/contract.binpb")
GATEWAY_CODE = Path("gateway/gen")
DOCUMENT = Path("gateway/docs/fitserve.swagger.json")
INFERENCE = Path("gateway/internal/oip/inference.binpb")


def buf(*arguments: str) -> None:
    """Runs buf, which finds its plugins, and the plugins their python, beside the interpreter that runs this.

    Raises:
        SystemExit: It failed; the message is what it has said.
    """
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["buf", *arguments], env=environment, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)


def generate(root: Path) -> list[Path]:
    """Generates everything below `root`, at the paths that it has in the tree, and returns these paths."""
    buf("generate", "--output", str(root))
    for typed in (root / STUBS).glob("*_pb2_grpc.pyi"):  # mypy-protobuf writes one even where there is no service
        if not typed.with_suffix(".py").exists():
            typed.unlink()
    (root / CONTRACT).parent.mkdir(parents=True)
    buf("build", "protos", "--as-file-descriptor-set", "--exclude-imports", "-o", str(root / CONTRACT))
    if not shutil.which("go"):
        print("there is no go: what is generated for the gateway is left as it is", file=sys.stderr)
        return [STUBS, CONTRACT]
    buf("generate", "--template", "gateway/buf.gen.yaml", "--output", str(root))
    openapi.mend(root / DOCUMENT)
    (root / INFERENCE).parent.mkdir(parents=True)
    (root / INFERENCE).write_bytes(descriptors())
    return [STUBS, CONTRACT, GATEWAY_CODE, DOCUMENT, INFERENCE]


def files(root: Path, path: Path) -> set[Path]:
    """Returns the file at a path below `root`, or the files of the directory there, as paths from `root`."""
    found = (root / path).rglob("*") if (root / path).is_dir() else [root / path]
    return {file.relative_to(root) for file in found if file.is_file() and "__pycache__" not in file.parts}


def differences(paths: list[Path], fresh: Path, committed: Path) -> list[str]:
    """Returns the names of the generated files that differ or are below one of the roots only."""
    names = sorted({str(name) for path in paths for root in (fresh, committed) for name in files(root, path)})
    same, _, _ = filecmp.cmpfiles(fresh, committed, names, shallow=False)
    return [name for name in names if name not in same]


def replace(paths: list[Path], fresh: Path, committed: Path) -> None:
    """Puts what is fresh into the tree, and deletes there what is not generated any more."""
    for path in paths:
        for stale in files(committed, path) - files(fresh, path):
            (committed / stale).unlink()
        for name in files(fresh, path):
            (committed / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(fresh / name, committed / name)


def main() -> int:
    """Generates or checks, and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if anything is stale")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as directory:
        fresh = Path(directory)
        paths = generate(fresh)
        if not check:
            replace(paths, fresh, Path())
            return 0
        stale = differences(paths, fresh, Path())
    if stale:
        print(f"stale: {', '.join(stale)}; run `make generate` and commit", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
