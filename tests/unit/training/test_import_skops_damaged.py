"""Files of skops whose types are all trusted, and whose content would end, hang or expose the process that predicts."""

from __future__ import annotations

from pathlib import Path

import pytest
import skops.io

from tests.damaged_estimators import FILES
from tests.unit.training.importing import import_file
from training.errors import FitError


@pytest.mark.parametrize("name", FILES)
def test_an_estimator_that_no_fit_makes_is_refused_before_it_predicts(tmp_path: Path, name: str) -> None:
    content = FILES[name]()
    trusted = tuple(skops.io.get_untrusted_types(data=content))
    with pytest.raises(FitError) as refused:
        import_file(tmp_path, "skops", content, trusted_types=trusted)
    assert (refused.value.reason, refused.value.field) == ("INVALID_FIELD", "content")
    assert "again" in refused.value.message or "not served" in refused.value.message
    assert not (tmp_path / "version").exists()
