"""The size of a pixel in a TIFF: by what microscopes and programs write there, the most telling first."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any
from xml.etree import ElementTree

from tifffile import TiffFile, TiffPage

from graticule.formats.units import calibration
from graticule.results import Calibration

_METRE = 1e9
"""Nanometres."""
_DM_UNIT, _DM_WIDTH, _DM_HEIGHT = 65003, 65009, 65010
"""Tags of DigitalMicrograph: unit of the horizontal axis, its step, that of the vertical one."""
_LONGEST = 64
"""Letters of a unit."""
_RESOLUTION_UNITS = {2: 25.4e6, 3: 1e7}
"""Nanometres in the unit of XResolution: inch, centimetre."""
_LARGEST_MEANT = 1000.0
"""A pixel in nm. Cameras and scanners write 72 or 300 dots per inch, which says nothing about the object."""


def calibration_of(tiff: TiffFile, page: TiffPage) -> Calibration | None:
    """What the file says about the size of its pixels; None: nothing that is meant."""
    for source in _SOURCES:
        # Anybody writes metadata: what cannot be understood is no calibration, and no reason to refuse the picture.
        with suppress(
            ValueError, TypeError, KeyError, IndexError, ZeroDivisionError, AttributeError, ElementTree.ParseError
        ):
            if found := source(tiff, page):
                return found
    return None


def _ome(tiff: TiffFile, page: TiffPage) -> Calibration | None:
    if not tiff.ome_metadata:
        return None
    for element in ElementTree.fromstring(tiff.ome_metadata).iter():  # noqa: S314
        if element.tag.rpartition("}")[2] == "Pixels" and "PhysicalSizeX" in element.attrib:
            width = float(element.attrib["PhysicalSizeX"])
            height = float(element.attrib.get("PhysicalSizeY", width))
            unit = element.attrib.get("PhysicalSizeXUnit", "µm")
            if element.attrib.get("PhysicalSizeYUnit", "µm") == unit:
                return calibration(width, height, unit, "OME PhysicalSize")
    return None


def _imagej(tiff: TiffFile, page: TiffPage) -> Calibration | None:
    unit = str((tiff.imagej_metadata or {}).get("unit", ""))
    pixels = _pixels_per_unit(page)
    if not pixels or unit in ("", "inch"):
        return None
    return calibration(1 / pixels[0], 1 / pixels[1], unit.replace("\\u00B5", "µ"), "ImageJ resolution and unit")


def _fei(tiff: TiffFile, page: TiffPage) -> Calibration | None:
    scan = (tiff.fei_metadata or {}).get("Scan") or (tiff.fei_metadata or {}).get("EScan") or {}
    return _metres(scan["PixelWidth"], scan["PixelHeight"], "FEI Scan PixelWidth")


def _olympus(tiff: TiffFile, page: TiffPage) -> Calibration | None:
    found: dict[str, Any] = tiff.sis_metadata or {}
    return _metres(found["pixelsizex"], found["pixelsizey"], "Olympus SIS pixel size")


def _zeiss(tiff: TiffFile, page: TiffPage) -> Calibration | None:
    _, size, unit = (tiff.sem_metadata or {})["ap_image_pixel_size"]
    return calibration(float(size), float(size), unit, "Zeiss SEM pixel size")


def _digital_micrograph(tiff: TiffFile, page: TiffPage) -> Calibration | None:
    width, height = (float(page.tags[tag].value) for tag in (_DM_WIDTH, _DM_HEIGHT))
    unit = str(page.tags[_DM_UNIT].value).strip("\x00 ")
    return calibration(width, height, unit[:_LONGEST], "DigitalMicrograph TIFF tags")


def _resolution(tiff: TiffFile, page: TiffPage) -> Calibration | None:
    pixels, unit = _pixels_per_unit(page), page.tags["ResolutionUnit"].value
    if not pixels or tiff.is_imagej:
        return None
    width, height = (_RESOLUTION_UNITS[int(unit)] / number for number in pixels)
    if max(width, height) > _LARGEST_MEANT:
        return None
    return calibration(width, height, "nm", "TIFF resolution")


_SOURCES: tuple[Callable[[TiffFile, TiffPage], Calibration | None], ...] = (
    _ome,
    _imagej,
    _fei,
    _olympus,
    _zeiss,
    _digital_micrograph,
    _resolution,
)


def _pixels_per_unit(page: TiffPage) -> tuple[float, float] | None:
    numbers = [page.tags[name].value for name in ("XResolution", "YResolution")]
    across, down = (above / below for above, below in numbers)
    return (across, down) if across > 0 and down > 0 else None


def _metres(width: float, height: float, source: str) -> Calibration | None:
    return calibration(float(width) * _METRE, float(height) * _METRE, "nm", source)
