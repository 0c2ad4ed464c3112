"""Imports a part of graticule when it is asked for; each may be missing."""

from __future__ import annotations

import importlib
from typing import Any

from graticule.errors import MissingPart


def load_part(module: str, part: str, extra: str) -> Any:  # noqa: ANN401 (a module)
    """Import a part of graticule, or say which pip command installs it. Raises MissingPart."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingPart(part, extra, error.name or module) from error
