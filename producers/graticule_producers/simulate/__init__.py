"""Simulators of instruments: they make the pictures that the demo and the tests are about."""

from __future__ import annotations

from graticule_producers.simulate.series import Report, simulate_tiles
from graticule_producers.simulate.tile import KINDS, Kind, Tile, draw_tile

__all__ = ["KINDS", "Kind", "Report", "Tile", "draw_tile", "simulate_tiles"]
