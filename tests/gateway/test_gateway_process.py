"""The gateway as a process: settings, help, stop; and `make serve-rest`."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.conftest import StartService
from tests.gateway.conftest import StartGateway
from tests.gateway.scripted_service import scripted_service
from tests.gateway.test_gateway_rest import fit, fit_for_ever, states
from tests.gateway_process import GatewayProcess, build, run
from tests.integration.test_prediction_processes import connections
from tests.service_process import ROOT, ServiceProcess

SETTINGS = (
    "GATEWAY_LISTEN",
    "GATEWAY_SERVICE",
    "GATEWAY_CONNECTIONS",
    "GATEWAY_MAX_MESSAGE_BYTES",
    "GATEWAY_MAX_BODY_BYTES",
    "GATEWAY_REQUEST_SECONDS",
    "GATEWAY_GRACE_SECONDS",
    "GATEWAY_TLS",
    "GATEWAY_TLS_CA",
    "GATEWAY_TLS_CERT",
    "GATEWAY_TLS_KEY",
    "GATEWAY_TLS_SERVER_NAME",
)


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    build()


def test_help_explains_every_setting() -> None:
    shown = run("--help")
    assert shown.returncode == 0
    assert [line.split()[0] for line in shown.stdout.splitlines() if line.startswith("  GATEWAY")] == list(SETTINGS)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("GATEWAY_LISTEN", "nowhere"),
        ("GATEWAY_LISTEN", "127.0.0.1:99999"),
        ("GATEWAY_SERVICE", "http://x"),
        ("GATEWAY_CONNECTIONS", "0"),
        ("GATEWAY_MAX_MESSAGE_BYTES", "many"),
        ("GATEWAY_MAX_BODY_BYTES", "-1"),
        ("GATEWAY_REQUEST_SECONDS", "0"),
        ("GATEWAY_REQUEST_SECONDS", "nan"),
        ("GATEWAY_GRACE_SECONDS", "-1"),
        ("GATEWAY_TLS", "perhaps"),
        ("GATEWAY_TLS_CA", "/nowhere/ca.pem"),
    ],
)
def test_a_wrong_setting_is_one_clear_line_and_exit_code_2(setting: str, value: str) -> None:
    needed = {} if setting == "GATEWAY_TLS" else {"GATEWAY_TLS": "true"}
    ended = run(**{"GATEWAY_LISTEN": "127.0.0.1:0", **needed, setting: value})
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert setting in line
    assert value in line


def test_an_address_that_is_taken_is_one_clear_line(gateway: GatewayProcess) -> None:
    ended = run(GATEWAY_LISTEN=gateway.address)
    assert ended.returncode == 1
    assert gateway.address in ended.stderr.splitlines()[-1]


async def test_a_stop_lets_the_calls_at_work_end(start_gateway: StartGateway) -> None:
    async with scripted_service() as (address, calls):
        gateway = await asyncio.to_thread(start_gateway, address)
        slow = asyncio.create_task(asyncio.to_thread(lambda: gateway.call("GET", "/v1/status", x_request_id="slow")))
        await calls.begun.wait()
        assert await asyncio.to_thread(gateway.stop) == 0
        assert (await slow).json["version"] == "scripted"
        with pytest.raises(ConnectionRefusedError):
            await asyncio.to_thread(gateway.call, "GET", "/v1/status")


def test_a_watch_that_outlasts_the_stop_ends_with_a_line_that_says_so(
    service: ServiceProcess, start_gateway: StartGateway, name: str
) -> None:
    gateway = start_gateway(service.address, GATEWAY_GRACE_SECONDS="0.2")
    other = start_gateway(service.address)
    job = fit_for_ever(gateway, name)
    try:
        lines = gateway.lines(f"/v1/trainingJobs/{job}:watch")
        next(lines)
        with ThreadPoolExecutor(1) as pool:
            stopped = pool.submit(gateway.stop)
            *_, last = lines
            assert last["error"]["code"] == 1  # CANCELLED
            assert stopped.result() == 0
    finally:
        other.call("POST", f"/v1/trainingJobs/{job}:cancel")


# -- make serve-rest ------------------------------------------------------------------------------------------------


class ServeRest:
    """`scripts/serve_rest.sh`, in a process group of its own as at a terminal."""

    def __init__(self, directory: Path, service_port: int, gateway_port: int) -> None:
        self.url = f"http://127.0.0.1:{gateway_port}"
        environment = os.environ | {
            "LISTEN": f"127.0.0.1:{service_port}",
            "GATEWAY_LISTEN": f"127.0.0.1:{gateway_port}",
            "MODEL_DIR": str(directory / "models"),
            "GRACE_SECONDS": "5",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'clients/python'}",
        }
        with (directory / "log").open("wb") as log:
            self.process = subprocess.Popen(
                ["bash", "scripts/serve_rest.sh"],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_until_serving(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.url}/healthz", timeout=5).close()
                return
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.05)
        raise AssertionError("it does not serve")

    def family(self) -> list[psutil.Process]:
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]


@pytest.fixture
def serve_rest(tmp_path: Path, unused_tcp_port_factory) -> ServeRest:
    running = ServeRest(tmp_path, unused_tcp_port_factory(), unused_tcp_port_factory())
    yield running
    if running.process.poll() is None:
        os.killpg(running.process.pid, signal.SIGTERM)
        running.process.wait(30)


def test_ctrl_c_stops_the_service_and_the_gateway(serve_rest: ServeRest) -> None:
    serve_rest.wait_until_serving()
    family = serve_rest.family()
    assert {"fitserve-gateway"} <= {process.name() for process in family}
    os.killpg(serve_rest.process.pid, signal.SIGINT)
    assert serve_rest.process.wait(30) == 0
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []


def test_a_gateway_that_dies_takes_the_service_along(serve_rest: ServeRest) -> None:
    serve_rest.wait_until_serving()
    family = serve_rest.family()
    (gateway,) = [process for process in family if process.name() == "fitserve-gateway"]
    gateway.kill()
    assert serve_rest.process.wait(30) == 128 + signal.SIGKILL
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []


def test_every_process_of_the_service_answers_behind_one_gateway(
    start_service: StartService, start_gateway: StartGateway
) -> None:
    service = start_service(PREDICTION_PROCESSES="2")
    gateway = start_gateway(service.address, GATEWAY_CONNECTIONS="32")  # by chance, the kernel gives each to a process
    assert states(gateway, fit(gateway, "iris", load=True))[-1] == "JOB_STATE_SUCCEEDED"
    for _ in range(64):
        answer = gateway.call("POST", "/v1/models/iris:predict", {"inputs": {"rows": [[4.6, 1.3]]}})
        assert answer.json["predictions"] == ["versicolor"]
    port = int(service.address.rpartition(":")[2])
    further = [one for one in service.family() if "service.prediction_process" in one.cmdline()]
    held = [len(connections(pid, port)) for pid in (service.pid, *(one.pid for one in further))]
    assert (len(held), sum(held), min(held) > 0) == (2, 32, True)
