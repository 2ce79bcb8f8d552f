from __future__ import annotations

from training import limits

limits.prepare_environment()
