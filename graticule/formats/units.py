"""Sizes of pixels: units as files spell them, and what a user says instead of the file."""

from __future__ import annotations

import math
from typing import Any

from graticule.errors import InvalidParameters
from graticule.results import Calibration

PARAMETERS = ("pixel_size", "pixel_unit")
"""Names of a job's parameters that tell the size of a pixel."""

_SPELLINGS = {
    "m": ("m", "meter", "meters", "metre", "metres"),
    "cm": ("cm", "centimeter", "centimetre"),
    "mm": ("mm", "millimeter", "millimetre"),
    "um": ("um", "µm", "μm", "micron", "microns", "micrometer", "micrometre", "\\u00b5m"),
    "nm": ("nm", "nanometer", "nanometers", "nanometre", "nanometres"),
    "Å": ("å", "a", "ang", "angstrom", "angstroms", "ångström"),
    "pm": ("pm", "picometer", "picometre"),
    "inch": ("inch", "in"),
}
_UNITS = {spelling: unit for unit, spellings in _SPELLINGS.items() for spelling in spellings}


def calibration(width: float, height: float, unit: str, source: str) -> Calibration | None:
    """A calibration from what a file says; None when it says nothing that can be meant."""
    if not (math.isfinite(width) and math.isfinite(height)) or width <= 0 or height <= 0:
        return None
    if not unit.strip() or unit.strip().casefold() in ("px", "pixel", "pixels"):
        return None
    return Calibration(pixel_width=width, pixel_height=height, unit=canonical_unit(unit), source=source)


def canonical_unit(unit: str) -> str:
    """`µm`, `micron`, ... -> `um`; what is no unit of length stays as it is."""
    return _UNITS.get(unit.strip().casefold(), unit.strip())


def given_by_user(parameters: dict[str, Any]) -> Calibration | None:
    """The calibration in a job's parameters: `pixel_size`, a number or [width, height], and `pixel_unit` (nm).

    Raises InvalidParameters.
    """
    if "pixel_size" not in parameters:
        if "pixel_unit" in parameters:
            raise InvalidParameters("pixel_unit alone says nothing: pixel_size is missing.")
        return None
    size, unit = parameters["pixel_size"], parameters.get("pixel_unit", "nm")
    sizes = size if isinstance(size, (list, tuple)) else [size, size]
    good = len(sizes) == 2 and all(isinstance(side, (int, float)) and not isinstance(side, bool) for side in sizes)
    found = calibration(float(sizes[0]), float(sizes[1]), unit, "user") if good and isinstance(unit, str) else None
    if found is None:
        raise InvalidParameters(
            "pixel_size is a number above 0 or [width, height], pixel_unit a unit such as nm;"
            f" found {size!r}, {unit!r}."
        )
    return found


def without_calibration(parameters: dict[str, Any]) -> dict[str, Any]:
    """The other parameters of a job: those of its model's post-processing."""
    return {name: value for name, value in parameters.items() if name not in PARAMETERS}
