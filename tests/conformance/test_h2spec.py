"""h2spec, the conformance tests of HTTP/2 and of its compressed headers."""

from __future__ import annotations

import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.conformance.conftest import Start, tool

pytestmark = pytest.mark.long

SECTIONS = ("generic", "http2", "hpack")
SECONDS = 15
"""How long h2spec waits for an answer. The case that opens 65,537 streams at once is work for longer than its 2 s."""

KNOWN = {
    # libnghttp2 ignores it, as frames of a stream that has been closed and that may have been on their way.
    "http2/5.1.1: Sends stream identifier that is numerically smaller than previous",
    # The session is told to forget streams that have ended (`http2/connection.py`), which saves a quarter of an empty call,
    # and ignores frames of theirs, as it has to for a moment anyway.
    "http2/5.1: closed: Sends a DATA frame",
    "http2/5.1: closed: Sends a DATA frame after sending RST_STREAM frame",
    "http2/5.1: closed: Sends a HEADERS frame",
    "http2/5.1: closed: Sends a HEADERS frame after sending RST_STREAM frame",
}
"""What fails, and why that is right or harmless."""


def has_failed(case: ElementTree.Element) -> bool:
    """Tells whether a case has failed. Where a closed connection is wanted, h2spec takes none that is reset."""
    told = "".join(case.itertext())
    return len(case) > 0 and not ("Connection closed" in told and told.strip().endswith("connection reset by peer"))


def test_http2_is_spoken_as_the_standard_has_it(start: Start, tmp_path: Path) -> None:
    """Its requests are made calls of gRPC, which are answered with an empty message."""
    report = tmp_path / "report.xml"
    where = ["-h", "127.0.0.1", "-p", str(start(0.5, "any").port), "-P", "/grpc.testing.TestService/StreamingInputCall"]
    command = [tool("h2spec"), *SECTIONS, *where, "-o", str(SECONDS), "-j", report]
    subprocess.run(command, capture_output=True, timeout=500)
    xml = report.read_text().replace("\0", "")  # of the contents of frames
    cases = list(ElementTree.fromstring(xml).iter("testcase"))
    assert len(cases) > 140
    assert {f"{case.get('package')}: {case.get('classname')}" for case in cases if has_failed(case)} == KNOWN
