"""Free ports on the loopback interface, kept from one start to the next."""

from __future__ import annotations

import socket

GRPC_OFFSET = 10_000
"""SeaweedFS opens a second port for each of its servers, this much higher."""


def choose_ports(names: list[str], kept: dict[str, int]) -> dict[str, int]:
    """A free port for each name: the one that it had before, if nobody else took it meanwhile."""
    chosen: dict[str, int] = {}
    for name in names:
        port = kept.get(name, 0)
        if not port or port in chosen.values() or not _is_free(port):
            port = _any_free_port(set(chosen.values()))
        chosen[name] = port
    return chosen


def _any_free_port(taken: set[int]) -> int:
    while True:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        # Two ports are needed, the second must be a possible one.
        if port not in taken and port + GRPC_OFFSET < 65_536 and _is_free(port + GRPC_OFFSET):
            return port


def _is_free(port: int) -> bool:
    try:
        with socket.create_server(("127.0.0.1", port)):
            return True
    except (OSError, OverflowError):
        return False
