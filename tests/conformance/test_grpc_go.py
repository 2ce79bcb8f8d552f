"""grpc-go's client of gRPC's interoperability tests: one of its processes a test case.

Left out are the cases that need TLS, credentials or reports of load (ORCA).
"""

from __future__ import annotations

import subprocess

import pytest

from tests.conformance.conftest import Served, tool

pytestmark = pytest.mark.long

CASES = (
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
    "pick_first_unary",
)
SOAK = ("-soak_iterations=300", "-soak_num_threads=4", "-soak_overall_timeout_seconds=60")


def run(served: Served, case: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs one test case; the client ends with an exit code other than 0 if something is not as it should be."""
    command = [tool("grpc-interop-client"), f"-test_case={case}", "-server_host=127.0.0.1"]
    return subprocess.run(
        [*command, f"-server_port={served.port}", *options], capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("case", CASES)
def test_a_case_of_the_interoperability_tests_passes(served: Served, case: str) -> None:
    ended = run(served, case)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("case", ["rpc_soak", "channel_soak"])
def test_hundreds_of_large_calls_pass_one_after_the_other(served: Served, case: str) -> None:
    """On one connection, and on a new one for each."""
    ended = run(served, case, *SOAK)
    assert ended.returncode == 0, ended.stderr
