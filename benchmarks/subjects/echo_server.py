"""The bare gRPC server that answers each call with the bytes that came: what grpc.aio can do at most.

It is what grpc's own documentation shows, without interceptors and without a model: `python -m
benchmarks.subjects.echo_server PORT asyncio|uvloop`. It takes every method's name.
"""

from __future__ import annotations

import asyncio
import sys

import grpc
import uvloop


async def _echo(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    return request


class _EveryMethod(grpc.GenericRpcHandler):
    """Answers every method with the echo, its messages left as bytes."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        """Returns the echo's handler."""
        return grpc.unary_unary_rpc_method_handler(_echo)


async def _serve(port: int) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_EveryMethod(),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    run = {"asyncio": asyncio.run, "uvloop": uvloop.run}[sys.argv[2]]
    run(_serve(int(sys.argv[1])))
