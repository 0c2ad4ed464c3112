"""graticule turns instruments' images into measurements on a small cluster."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graticule.client import Client, JobHandle

# onnxruntime (1.29 and later) reports to its maker, and leaves an identifier in the home folder, as soon as it is
# imported: nothing that runs in a laboratory does so unasked. Every part imports this package first.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = ["Client", "JobHandle", "__version__"]

try:
    __version__ = version("graticule")
except PackageNotFoundError:  # a source tree that was not installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> object:
    """Load the client only when it is asked for, so that `import graticule` stays cheap."""
    if name in ("Client", "JobHandle"):
        from graticule import client

        return getattr(client, name)
    raise AttributeError(f"module 'graticule' has no attribute {name!r}")
