"""Looks through the code of a TorchScript file before torch reads it, since reading may already run some of it.

This is a fence, not a wall: TorchScript is a program, and torch does not run it in a sandbox. So the service takes such
files only where its operator has allowed it (IMPORT_TORCHSCRIPT).
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path, PurePosixPath

from training.errors import FitError
from training.importing import found

_TENSOR = re.compile(r"[^/]+/(data|constants|traced_inputs)/\d+")
_FORBIDDEN = re.compile(
    r"""
    \b(?:from_file|save|load_tensor)\b       # operations of torch that open files
    | \b(?:rpc_\w+|\w*PythonOp)\b            # those that run what is elsewhere
    | \b__setstate__\b                       # runs while the file is read
    | \btorch\.classes\b                     # objects of C++
    | (?<![\w.])ops\b(?!\.prim\.\w)          # operations that are not torch's own
    | \bgetattr\b(?!\((?!torch\b|ops\b)\w[\w.]*,\ "\w+"\))  # names that are put together
    """,
    re.VERBOSE,
)
_CLASSES = b"torch.classes"


def check(file: Path) -> None:
    """Refuses a file whose code could touch files, or calls more than torch's own operations.

    Raises:
        FitError: INVALID_FIELD naming what is not allowed.
        BadZipFile: It is no zip. zlib.error and others: it is a damaged one.
    """
    with zipfile.ZipFile(file) as parts:
        for part in parts.infolist():
            if part.filename != part.orig_filename:
                raise found.refused("a part of it has a name with NUL; save the model again with torch.jit.save")
            if _TENSOR.fullmatch(part.filename):
                continue
            content = parts.read(part)
            # torch finds its parts whatever the case of their names.
            if part.filename.lower().endswith(".py"):
                _check_code(content.decode(), PurePosixPath(part.filename).name)
            elif _CLASSES in content and not part.filename.endswith(".debug_pkl"):
                raise _not_allowed(_CLASSES.decode(), PurePosixPath(part.filename).name)


def _check_code(code: str, name: str) -> None:
    if word := _FORBIDDEN.search(code):
        raise _not_allowed(word[0], name)


def _not_allowed(what: str, where: str) -> FitError:
    return found.refused(
        f"its code ({where[:80]}) uses `{what}`; a model that touches files, runs code while it is read, or calls more than "
        "torch's own operations is never loaded, so save one without that, or as ONNX"
    )
