"""Free ports on the loopback interface, kept from one start to the next."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterable

GRPC_OFFSET = 10_000
"""SeaweedFS opens a second port for each of its servers, this much higher."""

_FIRST, _LAST = 12_000, 22_000
"""With the second ports this stays below the range from which systems take ports for outgoing connections (from 32768
on Linux): a part that is started again would sometimes find its port taken by one of those."""
_MOST_TRIES = 1000


def choose_ports(names: Iterable[str], kept: dict[str, int]) -> dict[str, int]:
    """A free port for each name: the one that it had before, if nobody else took it meanwhile.

    Raises OSError when no port is free.
    """
    chosen: dict[str, int] = {}
    for name in names:
        port = kept.get(name, 0)
        if not port or port in chosen.values() or not is_free(port):
            port = _any_free_port(set(chosen.values()))
        chosen[name] = port
    return chosen


def is_free(port: int) -> bool:
    """Whether nobody listens on the port, nor on the second one that belongs to it."""
    return _can_listen(port) and _can_listen(port + GRPC_OFFSET)


def _any_free_port(taken: set[int]) -> int:
    for _ in range(_MOST_TRIES):
        port = random.randrange(_FIRST, _LAST)
        if port not in taken and is_free(port):
            return port
    raise OSError(f"no free port between {_FIRST} and {_LAST}")


def _can_listen(port: int) -> bool:
    try:
        with socket.create_server(("127.0.0.1", port)):
            return True
    except (OSError, OverflowError):
        return False
