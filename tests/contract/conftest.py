"""What the tests of the contract share: raw stubs, Triton's own client, and a model that they may not change."""

from __future__ import annotations

from collections.abc import Iterator

import fitserve
import grpc
import pytest
import tritonclient.grpc as triton

from tests.contract.test_training import SPECIES, X
from tests.contract.wire import Stubs, stubs_of
from tests.service_process import ServiceProcess


@pytest.fixture(scope="module")
def stubs(service: ServiceProcess) -> Iterator[Stubs]:
    """Raw stubs of the shared service."""
    with grpc.insecure_channel(service.address) as channel:
        yield stubs_of(channel)


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
