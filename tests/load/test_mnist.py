"""MNIST: a convolutional network trained through the service on one core, and served to many callers of one image each."""

from __future__ import annotations

import asyncio
import time

import fitserve
import grpc
import numpy as np
import psutil
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.conftest import StartService
from tests.service_process import ROOT, ServiceProcess

DATA = ROOT.parent / "shared" / "data" / "mnist_10k.npz"
TRAINED_ON = 8000
LEAST_ACCURACY = 0.97
MOST_SECONDS = 180.0
CALLERS = 32


def triton_of(service: ServiceProcess) -> service_pb2_grpc.GRPCInferenceServiceStub:
    """Returns a stub of the Triton that the service runs, which listens on a loopback port of its own."""
    (triton,) = (process for process in service.family() if process.name() == "tritonserver")
    ports = [one.laddr.port for one in triton.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    return service_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(f"127.0.0.1:{ports[0]}"))


@pytest.mark.long
@pytest.mark.skipif(not DATA.is_file(), reason="../shared/data/mnist_10k.npz is not beside the checkout")
def test_mnist_is_learned_on_one_core_and_served_in_batches(
    start_service: StartService, capsys: pytest.CaptureFixture[str]
) -> None:
    data = np.load(DATA)
    images, labels = data["images"].reshape(-1, 1, 28, 28).astype(np.float32), data["labels"]
    service = start_service(TRAINING_CORES="1")
    with fitserve.Client(service.address) as client:
        dataset = client.upload_dataset(images[:TRAINED_ON], labels[:TRAINED_ON])
        start = time.monotonic()
        job = client.fit(
            "mnist", dataset=dataset.digest, algorithm="torch_cnn", cores=1, validation_fraction=0.02, load=True
        )
        done = job.wait(MOST_SECONDS + 60)
        seconds = time.monotonic() - start
        found = client.predict("mnist", images[TRAINED_ON:])
        accuracy = float((found == labels[TRAINED_ON:]).mean())
        answers = asyncio.run(single_images(service.address, images[TRAINED_ON:]))
        assert (answers == found).all()
        counted = triton_of(service).ModelStatistics(service_pb2.ModelStatisticsRequest(name="mnist")).model_stats[0]
    with capsys.disabled():
        print(
            f"\naccuracy {accuracy:.4f} on {len(found)} images; trained in {seconds:.1f} s "
            f"({done.cpu_seconds:.1f} s of CPU); Triton: {counted.inference_count} inferences in "
            f"{counted.execution_count} executions"
        )
    assert accuracy >= LEAST_ACCURACY
    assert seconds < MOST_SECONDS
    assert counted.inference_count > counted.execution_count


async def single_images(address: str, images: np.ndarray) -> np.ndarray:
    """Returns the labels of all images, each of which is sent alone, by `CALLERS` at a time."""
    found = np.zeros(len(images), np.int64)
    window = asyncio.Semaphore(CALLERS)
    async with fitserve.AsyncClient(address) as client:

        async def ask(index: int) -> None:
            async with window:
                found[index] = (await client.predict("mnist", images[index : index + 1]))[0]

        await asyncio.gather(*(ask(index) for index in range(len(images))))
    return found
