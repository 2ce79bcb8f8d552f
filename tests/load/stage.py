"""What loads need: a service with a model to call, and both tools that can run a load against it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import fitserve
import numpy as np

from benchmarks.ghz.config import load_config
from benchmarks.ghz.run import run
from tests.service_process import ROOT, ServiceProcess

GHZ = shutil.which("ghz", path=f"{ROOT / '.tools'}:{os.environ['PATH']}")
REPORTS = ROOT / "load-reports"
MODEL = "load"


class Stage:
    """A running service with the model `load`, which takes four numbers.

    Attributes:
        address: host:port of the service.
        job: The id of the job that trained the model; `$JOB` in configurations.
    """

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory()
        self._service = ServiceProcess(Path(self._directory.name, "service"))
        self.address = self._service.address
        self._reports: dict[tuple[str, str], dict[str, Any]] = {}
        features = np.random.default_rng(0).normal(size=(60, 4))
        with fitserve.Client(self.address) as client:
            job = client.fit(MODEL, features, features[:, 0] > 0, algorithm="logistic_regression", load=True)
            job.wait()
        self.job = job.id

    def close(self) -> None:
        """Ends the service."""
        assert self._service.stop() == 0
        self._directory.cleanup()

    def report(self, configuration: Path, tool: str) -> dict[str, Any]:
        """Returns the report of a configuration run by "fitserve" or by "ghz"; it is run once, and kept in load-reports/."""
        key = (configuration.stem, tool)
        if key not in self._reports:
            with contextlib.chdir(ROOT):  # paths in configurations are relative to the working directory, as in ghz
                prepared = self._prepare(configuration)
                self._reports[key] = self._run_ghz(prepared) if tool == "ghz" else self._run(prepared)
            REPORTS.mkdir(exist_ok=True)
            (REPORTS / f"{configuration.stem}.{tool}.json").write_text(json.dumps(self._reports[key], indent=2))
        return self._reports[key]

    def _prepare(self, configuration: Path) -> Path:
        prepared = Path(self._directory.name, configuration.name)
        prepared.write_text(configuration.read_text().replace("$JOB", self.job))
        return prepared

    def _run(self, configuration: Path) -> dict[str, Any]:
        config = load_config(configuration).model_copy(update={"host": self.address})
        return asyncio.run(run(config))

    def _run_ghz(self, configuration: Path) -> dict[str, Any]:
        assert GHZ
        command = [GHZ, "--config", str(configuration), "-O", "json", self.address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)
