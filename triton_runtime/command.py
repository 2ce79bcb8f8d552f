"""The command line and the environment that Triton runs with."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from triton_runtime.layout import Installation

# A load that hangs, as that of a stub which is killed at its very start does, has its thread for ever. The service gives
# Triton no more loads than this at one time.
_LOAD_THREADS = 4
_MEBIBYTE = 1 << 20

# A model instance must never use more than its own core: many of them share a small machine.
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")

# What belongs to the caller's Python and would mislead the one inside Triton's stubs.
_CALLERS_PYTHON = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONSAFEPATH", "VIRTUAL_ENV")


def arguments(
    installation: Installation,
    model_repository: Path,
    host: str,
    grpc_port: int,
    http_port: int,
    shm_prefix: str,
    drain_seconds: int,
) -> list[str]:
    """Build Triton's command line.

    Args:
        installation: Where Triton is.
        model_repository: Absolute path of the models.
        host: Address to listen on.
        grpc_port: Port to listen on; 0 lets the kernel choose, so that two launchers never want the same one.
        http_port: Loopback port for HTTP; 0 turns HTTP off.
        shm_prefix: Start of the name of each shared memory region.
        drain_seconds: How long Triton waits for requests in flight when it is told to end.
    """
    return [
        str(installation.server),
        f"--model-repository={model_repository}",
        "--model-control-mode=explicit",
        # Completing a configuration starts a second stub and ends it again: 1.9 s for each load.
        "--disable-auto-complete-config",
        "--strict-readiness=false",
        f"--exit-timeout-secs={drain_seconds}",
        "--log-info=false",
        *_http(http_port),
        "--allow-metrics=false",
        "--allow-grpc=true",
        f"--grpc-address={host}",
        f"--grpc-port={grpc_port}",
        f"--model-load-thread-count={_LOAD_THREADS}",
        "--pinned-memory-pool-byte-size=0",
        "--enable-peer-access=false",
        f"--backend-directory={installation.backends}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        f"--backend-config=python,shm-default-byte-size={4 * _MEBIBYTE}",
        f"--backend-config=python,shm-growth-byte-size={4 * _MEBIBYTE}",
    ]


def _http(port: int) -> list[str]:
    if not port:
        return ["--allow-http=false"]
    return ["--allow-http=true", "--http-address=127.0.0.1", f"--http-port={port}"]


def environment(installation: Installation, inherited: Mapping[str, str]) -> dict[str, str]:
    """Build the environment of Triton and its stubs from the launcher's own."""
    env = {name: value for name, value in inherited.items() if name not in _CALLERS_PYTHON}
    env |= dict.fromkeys(_ONE_THREAD, "1")
    env["LD_LIBRARY_PATH"] = _joined(*installation.libraries, inherited.get("LD_LIBRARY_PATH"))
    # A stub finds its virtual environment through the first `python3` on the path.
    env["PATH"] = _joined(Path(sys.prefix, "bin"), inherited.get("PATH") or os.defpath)
    env["PYTHONNOUSERSITE"] = "1"
    # onnxruntime sends usage data by default since 1.29; a server must not.
    env["ORT_DISABLE_TELEMETRY"] = "1"
    # This environment computes on the processor; without a device Triton also reserves no memory on one.
    env["CUDA_VISIBLE_DEVICES"] = ""
    return env


def _joined(*parts: Path | str | None) -> str:
    return os.pathsep.join(str(part) for part in parts if part)
