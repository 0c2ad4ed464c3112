"""Messages and shared memory between a task process and the engine process, over a Unix socket.

A message is a JSON object behind its length. Pixels never travel: they lie in a memory segment that both sides have
mapped; its file descriptor is passed over the socket once, has no name, and goes with its last holder.
"""

from __future__ import annotations

import json
import mmap
import os
import socket
import struct
import tempfile
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from graticule_workers.engine.session import Array

_LENGTH = struct.Struct("!I")
_LONGEST = 1024**2
"""Bytes of a message; the peer is our own process, but a wrong length must not fill the memory."""


class Channel:
    """One end of a connection. Used by one thread at a time."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        weakref.finalize(self, connection.close)  # a connection goes with the thread that held it

    def send(self, message: dict[str, Any], descriptor: int | None = None) -> None:
        """Send a message, and a file descriptor with it. Raises OSError."""
        body = json.dumps(message).encode()
        data = _LENGTH.pack(len(body)) + body
        if descriptor is None:
            self._socket.sendall(data)
            return
        sent = socket.send_fds(self._socket, [data], [descriptor])
        self._socket.sendall(data[sent:])

    def receive(self) -> tuple[dict[str, Any], int | None]:
        """The next message and the file descriptor that came with it. Raises EOFError, OSError."""
        head, descriptors, _, _ = socket.recv_fds(self._socket, _LENGTH.size, 1)
        if not head:
            raise EOFError
        (length,) = _LENGTH.unpack(head + self._exactly(_LENGTH.size - len(head)))
        if length > _LONGEST:
            raise EOFError(f"a message of {length} bytes")
        return json.loads(self._exactly(length)), descriptors[0] if descriptors else None

    def close(self) -> None:
        """Hang up; the other end reads the end of the file."""
        self._socket.close()

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self._socket.recv(count - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data


class Segment:
    """Memory that two processes share."""

    def __init__(self, descriptor: int, size: int) -> None:
        self.size = size
        self._map = mmap.mmap(descriptor, size)

    @classmethod
    def create(cls, size: int) -> tuple[Segment, int]:
        """A new segment and its file descriptor, which the caller closes after passing it on."""
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("graticule")
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        os.ftruncate(descriptor, size)
        return cls(descriptor, size), descriptor

    def array(self, shape: Sequence[int]) -> Array:
        """The segment's beginning as a float32 array, without a copy."""
        count = int(np.prod(shape))
        return np.frombuffer(self._map, np.float32, count).reshape(shape)

    def view(self, size: int) -> memoryview:
        """The segment's first bytes, without a copy."""
        return memoryview(self._map)[:size]


def bytes_of(shape: Sequence[int]) -> int:
    """Size of a float32 array."""
    return 4 * int(np.prod(shape))
