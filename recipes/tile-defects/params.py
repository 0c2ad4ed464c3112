"""The recipe's parameters and places."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

RECIPE = Path(__file__).resolve().parent
PROJECT = RECIPE.parents[1]

CLASSES = ("background", "blowhole", "break", "crack", "fray", "uneven")
"""A pixel's label is the index of its class here."""
DEFECTS = CLASSES[1:]
FREE = "free"
COLOURS = ("#000000", "#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4")


def load(path: Path = RECIPE / "params.yaml") -> dict[str, Any]:
    """All sections of `params.yaml`."""
    return yaml.safe_load(path.read_text())


def data_folder(parameters: dict[str, Any]) -> Path:
    """The folder with one sub-folder of pictures a class: the variable GRATICULE_TILES, else the parameter."""
    folder = PROJECT / os.environ.get("GRATICULE_TILES", parameters["data"])
    if not folder.is_dir():
        raise SystemExit(f"no data folder at {folder}: set GRATICULE_TILES or `data` in params.yaml (see README.md)")
    return folder
