"""h2spec, the conformance tests of HTTP/2 and of its compressed headers."""

from __future__ import annotations

import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.conformance.conftest import Served, tool

pytestmark = pytest.mark.long

SECTIONS = ("generic", "http2", "hpack")
KNOWN = {
    # libnghttp2 ignores such frames, as those of a stream that has been closed, which may have been on their way.
    "http2/5.1.1: Sends stream identifier that is numerically smaller than previous",
}
"""What fails, and why that is right or harmless."""


def test_http2_is_spoken_as_the_standard_has_it(served: Served, tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    where = ["-h", "127.0.0.1", "-p", str(served.port), "-P", "/grpc.testing.TestService/EmptyCall"]
    subprocess.run([tool("h2spec"), *SECTIONS, *where, "-j", report], capture_output=True, timeout=500)
    cases = {
        f"{case.get('package')}: {case.get('classname')}": [found.tag for found in case]
        for case in ElementTree.parse(report).iter("testcase")
    }
    assert len(cases) > 140
    assert {name for name, found in cases.items() if "error" in found or "failure" in found} == KNOWN
