"""gRPC over HTTP/2 on the event loop, by libnghttp2: a server, and streams to other servers (docs/adr/0004-nghttp2.md)."""


class Nghttp2Missing(ImportError):
    """The library is not installed; the message says how to mend it."""
