"""gRPC over HTTP/2 on the event loop, by libnghttp2: what answers and asks when gRPC's own Python library is too slow."""
