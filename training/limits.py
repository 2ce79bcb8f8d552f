"""Limits of a process: threads, memory, and its parent's life."""

from __future__ import annotations

import ctypes
import functools
import os
import resource
import signal
import sys
import tempfile
from pathlib import Path

from threadpoolctl import ThreadpoolController

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def prepare_environment() -> None:
    """Sets what libraries read when they are imported; call it before they are."""
    for variable in _THREAD_VARIABLES:
        os.environ.setdefault(variable, "1")
    # onnxruntime would start a thread that reports its use over the network.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"


def end_with_parent(parent: int) -> None:
    """Lets this process be killed when its parent ends.

    Args:
        parent: The process id of the parent; the process ends at once if it is gone already.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def set_process_name(name: str) -> None:
    """Sets the name that `ps` and `top` show; Linux keeps 15 bytes of it."""
    _prctl(_PR_SET_NAME, name.encode())


def set_temporary_directory(directory: Path) -> None:
    """Lets temporary files be made in a directory that is deleted after the process, however it ends."""
    tempfile.tempdir = str(directory.resolve())


def set_threads(cores: int) -> None:
    """Lets BLAS, OpenMP and torch use `cores` threads."""
    for variable in _THREAD_VARIABLES:
        os.environ[variable] = str(cores)
    native_thread_pools().limit(limits=cores)
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(cores)


@functools.cache
def native_thread_pools() -> ThreadpoolController:
    """Returns the thread pools of the native libraries loaded so far; finding them takes some milliseconds."""
    return ThreadpoolController()


def set_memory_limit(limit_bytes: int | None) -> None:
    """Limits the private memory of this process to what it has now plus `limit_bytes`, and forbids core dumps.

    What it has now are the libraries, most of it shared with the fork server.

    Args:
        limit_bytes: The memory that the training may add, or None for no limit.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if limit_bytes is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (_private_bytes() + limit_bytes, hard))


def lift_memory_limit() -> None:
    """Takes the memory limit away, so that a failure can be reported."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


def thread_count() -> int:
    """Returns the number of threads of this process, by the kernel's count."""
    return len(os.listdir("/proc/self/task"))


def _private_bytes() -> int:
    """Returns the size of the private writable memory, which is what RLIMIT_DATA counts."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("VmData:"))
    return int(line.split()[1]) * 1024


def _prctl(option: int, argument: int | bytes) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, argument, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")
