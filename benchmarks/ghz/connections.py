"""The connections of a load, with ghz's options for TLS, sizes, keepalive and balancing (runner/requester.go)."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from benchmarks.ghz.config import Config, ConfigError

GO_RECEIVE_LIMIT = 4 * 1024 * 1024  # grpc-go's, which holds as soon as either limit is given
NO_LIMIT = -1


def open_channel(config: Config) -> grpc.aio.Channel:
    """Opens one connection of its own; connecting happens with the first call.

    Raises:
        ConfigError: A certificate cannot be read.
    """
    options = _options(config)
    if config.insecure:
        return grpc.aio.insecure_channel(config.host, options=options)
    roots = _read("cacert", config.cacert)
    if config.skip_tls:
        roots, name = _certificate_of(config.host)
        if not config.cname:
            options.append(("grpc.ssl_target_name_override", name))
    if config.cname:
        options.append(("grpc.ssl_target_name_override", config.cname))
    credentials = grpc.ssl_channel_credentials(roots, _read("key", config.key), _read("cert", config.cert))
    return grpc.aio.secure_channel(config.host, credentials, options=options)


def _options(config: Config) -> list[tuple[str, str | int]]:
    receive, send = config.max_recv_message_size, config.max_send_message_size
    unset = NO_LIMIT if send is None else GO_RECEIVE_LIMIT
    options: list[tuple[str, str | int]] = [
        ("grpc.use_local_subchannel_pool", 1),  # without it, all channels of a process share one connection
        ("grpc.max_receive_message_length", unset if receive is None else receive),
        ("grpc.max_send_message_length", NO_LIMIT if send is None else send),
    ]
    if config.authority:
        options.append(("grpc.default_authority", config.authority))
    if config.keepalive:
        options.append(("grpc.keepalive_time_ms", config.keepalive // 1_000_000))
        options.append(("grpc.keepalive_timeout_ms", config.keepalive // 1_000_000))
    if config.lb_strategy:
        options.append(("grpc.lb_policy_name", config.lb_strategy))
    return options


def _read(key: str, path: str) -> bytes | None:
    try:
        return Path(path.strip()).read_bytes() if path.strip() else None
    except OSError as error:
        raise ConfigError(f"{key}: {path}: {error.strerror}") from error


def _certificate_of(host: str) -> tuple[bytes, str]:
    """Returns the certificate that a server shows now and a name it is for.

    grpcio always verifies, so not verifying (`skipTLS`) is trusting whatever the server shows.
    """
    name, _, port = host.removeprefix("dns:///").rpartition(":")
    try:
        certificate = ssl.get_server_certificate((name.strip("[]"), int(port)), timeout=10)
    except (OSError, ValueError) as error:
        raise ConfigError(f"skipTLS: {host}: no certificate to be had: {error}") from error
    return certificate.encode(), _a_name_in(certificate) or name


def _a_name_in(certificate: str) -> str | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=certificate)
    # Any: ssl gives a certificate's fields as nested tuples of several shapes.
    shown: list[dict[str, Any]] = context.get_ca_certs()
    names = [
        name for fields in shown for kind, name in fields.get("subjectAltName", ()) if kind in ("DNS", "IP Address")
    ]
    subjects = [pair[0] for fields in shown for pair in fields.get("subject", ())]
    return next(iter([*names, *(value for field, value in subjects if field == "commonName")]), None)
