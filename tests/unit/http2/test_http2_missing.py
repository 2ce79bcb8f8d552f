"""A machine without libnghttp2."""

from __future__ import annotations

import subprocess
import sys

START = """
import cffi, sys

def dlopen(self, name, flags=0):
    raise OSError(f"{name}: cannot open shared object file")

cffi.FFI.dlopen = dlopen
sys.argv = ["service"]
from service.__main__ import main
sys.exit(main())
"""


def test_the_service_says_which_package_is_missing() -> None:
    done = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "fitserve: libnghttp2 is not installed; on Debian and Ubuntu it is the package libnghttp2-14\n"
    )
