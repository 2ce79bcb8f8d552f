"""What the tests of the Open Inference Protocol share: its clients, and models that they may not change."""

from __future__ import annotations

from collections.abc import Iterator

import fitserve
import pytest
import tritonclient.grpc as triton

from tests.contract.test_training import SPECIES, X
from tests.service_process import ServiceProcess


@pytest.fixture
def oip(service: ServiceProcess) -> Iterator[triton.InferenceServerClient]:
    """Triton's own client of the shared service."""
    with triton.InferenceServerClient(service.address) as client:
        yield client


@pytest.fixture(scope="session")
def oip_iris(service: ServiceProcess) -> str:
    """A loaded classifier with four features and three labels."""
    with fitserve.Client(service.address) as client:
        client.fit("oip-iris", X, SPECIES, algorithm="xgboost", n_estimators=10, queue=True, load=True).wait(60)
    return "oip-iris"
