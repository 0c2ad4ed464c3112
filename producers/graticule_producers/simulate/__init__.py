"""Simulators of instruments: they make the pictures that the demo and the tests are about."""

from __future__ import annotations

from graticule_producers.simulate.micrograph import CLASSES, FOCI, Experiment, Focus, Micrograph
from graticule_producers.simulate.series import Report, simulate_tiles
from graticule_producers.simulate.tem_series import TemReport, simulate_tem
from graticule_producers.simulate.tile import KINDS, Kind, Tile, draw_tile

__all__ = [
    "CLASSES",
    "FOCI",
    "KINDS",
    "Experiment",
    "Focus",
    "Kind",
    "Micrograph",
    "Report",
    "TemReport",
    "Tile",
    "draw_tile",
    "simulate_tem",
    "simulate_tiles",
]
