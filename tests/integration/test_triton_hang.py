"""A real Triton in which a load hangs: it is replaced, its models come back, and other loads do not wait."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest

from service.adapters import triton as adapter
from service.adapters.repository import RepositoryArtifacts
from service.bootstrap import Service, build
from service.domain.entities import LoadOrder
from service.domain.errors import Reason, ServiceError
from service.settings import ROOT, Settings
from tests.integration.test_triton_runtime import adder
from tests.ports.test_artifacts import manifest

LOAD_SECONDS = 12.0
"""Long enough for a load on a machine that tests share."""


def publish(artifacts: RepositoryArtifacts, model: str) -> None:
    """Makes a version 1 that adds one to each of two features."""
    content = adder(1)
    staged = artifacts.staging_directory(model)
    staged.mkdir()
    (staged / "model.onnx").write_bytes(content)
    files = {"model.onnx": {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}}
    (staged / "manifest.json").write_text(json.dumps(manifest(model=model, job=model, files=files)))
    artifacts.publish(model, model, 1)


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """A service without its transport, with the models `first`, `second` and `hanging`."""
    models = tmp_path / "models"
    artifacts = RepositoryArtifacts(models)
    for name in ("first", "second", "hanging"):
        publish(artifacts, name)
    artifacts.close()
    python = Path(os.environ.get("FITSERVE_TRITON_PYTHON", ROOT / ".venv-triton/bin/python"))
    async with build(Settings(model_dir=models, triton_python=python)) as service:
        await service.recovery.start()
        watching = asyncio.create_task(service.recovery.keep_serving())
        yield service
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        await service.registry.close()
        await service.inference.stop()


async def stub_of(model: str) -> psutil.Process:
    """Returns the process of a model that this test's Triton has, as soon as it is there."""
    async with asyncio.timeout(20):
        while True:
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    if f"/{model}/1/" in " ".join(process.cmdline()):
                        return process
            await asyncio.sleep(0.005)


async def predict(service: Service, model: str) -> list[list[float]]:
    scores = await service.registry.serving(model, None).batcher.predict(np.float32([[1, 2]]).tobytes(), 1)
    return scores.tolist()


async def test_a_load_that_hangs_costs_a_restart_and_nothing_else(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "LOAD_SECONDS", LOAD_SECONDS)
    registry = service.registry
    await registry.load("first", None, LoadOrder("test"))
    hanging = asyncio.create_task(registry.load("hanging", None, LoadOrder("test")))
    stub = await stub_of("hanging")
    stub.suspend()
    async with asyncio.timeout(LOAD_SECONDS):
        await registry.load("second", None, LoadOrder("test"))
    assert not hanging.done()
    assert await predict(service, "first") == [[2, 3]]
    with pytest.raises(ServiceError) as hung:
        await hanging
    assert hung.value.reason is Reason.TRITON_UNAVAILABLE
    async with asyncio.timeout(60):
        while service.recovery.triton_restarts == 0:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.05)
    assert await predict(service, "first") == [[2, 3]]
    assert await predict(service, "second") == [[2, 3]]
    assert not stub.is_running()
    with pytest.raises(ServiceError, match="not loaded"):
        registry.serving("hanging", None)
    await registry.load("hanging", None, LoadOrder("test"))
    assert await predict(service, "hanging") == [[2, 3]]
    assert service.recovery.triton_restarts == 1


@pytest.mark.parametrize("delay", [0.0, 0.2])
async def test_whenever_a_stub_is_killed_under_its_load_the_model_can_be_loaded_then(
    service: Service, delay: float
) -> None:
    """Triton refuses such a load, or hangs, or has just done it and finds out at the first batch."""
    registry = service.registry
    await registry.load("first", None, LoadOrder("test"))
    hanging = asyncio.create_task(registry.load("hanging", None, LoadOrder("test")))
    stub = await stub_of("hanging")
    await asyncio.sleep(delay)  # the moment
    stub.kill()
    with suppress(ServiceError):
        await hanging
    async with asyncio.timeout(40):
        while True:
            with suppress(ServiceError):
                await registry.load("hanging", None, LoadOrder("test"))
                assert await predict(service, "hanging") == [[2, 3]]
                assert await predict(service, "first") == [[2, 3]]
                return
            await asyncio.sleep(0.05)
