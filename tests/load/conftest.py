"""The plugin that makes tests of ghz's configuration files: `pytest tests/load/predict_rows.json` runs one.

Each file is two tests: `load` runs it with the harness and checks the thresholds of the `.slo.toml` beside it; `ghz` does
the same with the real ghz and compares both reports, where there is a ghz (PATH or .tools; `make tools`). One service with
one model serves them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.ghz.config import ConfigError
from benchmarks.ghz.slo import load_slo, slo_path
from tests.load.agreement import differences
from tests.load.stage import GHZ, Stage

_STAGE = pytest.StashKey[Stage]()


class Unmet(Exception):
    """A threshold that a load does not hold, or a figure in which two tools differ."""


def stage_of(session: pytest.Session) -> Stage:
    """Returns the session's stage, which the first load sets up."""
    if _STAGE not in session.stash:
        session.stash[_STAGE] = Stage()
    return session.stash[_STAGE]


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _STAGE in session.stash:
        session.stash[_STAGE].close()


@pytest.fixture(scope="session")
def stage(request: pytest.FixtureRequest) -> Stage:
    """The service that loads are run against."""
    return stage_of(request.session)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.suffix == ".json" and file_path.parent == Path(__file__).parent:
        return LoadFile.from_parent(parent, path=file_path)
    return None


class LoadFile(pytest.File):
    """A configuration of ghz."""

    def collect(self) -> Iterator[pytest.Item]:
        yield Load.from_parent(self, name="load")
        yield Ghz.from_parent(self, name="ghz")


class Load(pytest.Item):
    """A configuration run by the harness."""

    tool = "fitserve"

    def runtest(self) -> None:
        slo = load_slo(slo_path(self.path))
        if violations := slo.violations(stage_of(self.session).report(self.path, self.tool)):
            raise Unmet("\n".join(violations))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException]) -> str:  # type: ignore[override]
        if isinstance(excinfo.value, Unmet | ConfigError):
            return f"{self.path.name}: {excinfo.value}"
        return str(super().repr_failure(excinfo))

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, f"{self.path.name}: {self.name}"


class Ghz(Load):
    """A configuration run by the real ghz, and both reports compared."""

    tool = "ghz"

    def runtest(self) -> None:
        if not GHZ:
            pytest.skip("ghz is neither on PATH nor in .tools; make tools installs it where there is a Go")
        super().runtest()
        stage = stage_of(self.session)
        if found := differences(stage.report(self.path, "fitserve"), stage.report(self.path, "ghz")):
            raise Unmet("\n".join(found))
