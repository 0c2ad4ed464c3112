"""Packages of the extra `streams`, loaded when they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from graticule.errors import MissingPart


def package(name: str) -> Any:  # noqa: ANN401 (a module)
    """Import a package. Raises MissingPart that names the pip command."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingPart("The analysis of streams", "streams", error.name or name) from error
