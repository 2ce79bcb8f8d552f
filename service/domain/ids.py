"""Identifiers that sort by the time of their making."""

from __future__ import annotations

import secrets
from datetime import datetime


def new_job_id(now: datetime) -> str:
    """Returns a new job identifier, such as 20261121-034155-7f3a9c21."""
    return f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"


_IMPORT = "import-"


def new_import_id(now: datetime) -> str:
    """Returns a new identifier of an import, such as import-20261121-034155-7f3a9c21."""
    return _IMPORT + new_job_id(now)


def operation_of(job: str) -> str:
    """Returns what the job or the import with an identifier does, for messages."""
    return "import" if job.startswith(_IMPORT) else f"fit of job {job}"
