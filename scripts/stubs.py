"""Generates code from protos/ by `buf generate`; with --check says whether what is in the tree is the same.

The Python stubs always; the gateway's Go code and its OpenAPI document where there is a Go, which builds their plugins.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import openapi
from oip_descriptors import descriptors


@dataclass(frozen=True)
class Output:
    """What one template of buf generates.

    Attributes:
        template: The template.
        paths: The files, and the directories that hold nothing else.
    """

    template: Path
    paths: tuple[Path, ...]


PYTHON = Output(Path("buf.gen.yaml"), (Path("clients/python/fitserve/v1"),))
DESCRIPTORS = Path("gateway/internal/oip/inference.binpb")
DOCUMENT = Path("gateway/docs/fitserve.swagger.json")
GATEWAY = Output(Path("gateway/buf.gen.yaml"), (Path("gateway/gen"), DOCUMENT, DESCRIPTORS))


def generate(output: Output, root: Path) -> None:
    """Generates an output below `root`."""
    # buf finds its plugins, and the plugins their python, beside the interpreter that runs this.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["buf", "generate", "--template", str(output.template), "--output", str(root)]
    done = subprocess.run(command, env=os.environ | {"PATH": path}, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    for typed in root.glob("clients/**/*_pb2_grpc.pyi"):  # mypy-protobuf writes one even where there is no service
        if not typed.with_suffix(".py").exists():
            typed.unlink()
    if output is GATEWAY:
        (root / DESCRIPTORS).parent.mkdir(parents=True, exist_ok=True)
        (root / DESCRIPTORS).write_bytes(descriptors())
        openapi.mend(root / DOCUMENT)


def files(root: Path, path: Path) -> set[Path]:
    """Returns the files at a path below `root`, as paths from `root`."""
    found = (root / path).rglob("*") if (root / path).is_dir() else [root / path]
    return {file.relative_to(root) for file in found if file.is_file() and "__pycache__" not in file.parts}


def differences(output: Output, fresh: Path, committed: Path) -> list[str]:
    """Returns the names of the files that differ or are on one side only."""
    names = {name for path in output.paths for root in (fresh, committed) for name in files(root, path)}
    same, _, _ = filecmp.cmpfiles(fresh, committed, [str(name) for name in names], shallow=False)
    return sorted({str(name) for name in names} - set(same))


def replace(output: Output, fresh: Path, committed: Path) -> None:
    """Puts what is fresh into the tree, and deletes there what is not generated any more."""
    for path in output.paths:
        for stale in files(committed, path) - files(fresh, path):
            (committed / stale).unlink()
        for name in files(fresh, path):
            (committed / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(fresh / name, committed / name)


def main() -> int:
    """Generates or checks, and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the stubs are stale")
    check = parser.parse_args().check
    outputs = [PYTHON]
    if shutil.which("go"):
        outputs.append(GATEWAY)
    else:
        print("there is no go: the gateway's code is left as it is", file=sys.stderr)
    stale: list[str] = []
    for output in outputs:
        with tempfile.TemporaryDirectory() as directory:
            fresh = Path(directory)
            generate(output, fresh)
            if check:
                stale += differences(output, fresh, Path())
            else:
                replace(output, fresh, Path())
    if stale:
        print(f"stale: {', '.join(stale)}; run `make generate` and commit", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
