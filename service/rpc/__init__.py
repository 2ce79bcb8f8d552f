"""The transport: gRPC in, domain calls, gRPC out."""
