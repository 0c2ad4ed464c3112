"""Pictures "image / truth / prediction" for people."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

TRUTH = (80, 200, 60)
PREDICTION = (60, 60, 230)
GAP = 6
"""Pixels between the panels."""


def overlay(pixels: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """uint8 (height, width, 3), blue-green-red: the grey picture with the bool mask tinted and outlined."""
    picture = cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)
    picture[mask] = (0.7 * picture[mask] + 0.3 * np.array(colour)).astype(np.uint8)
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(picture, outlines, -1, colour, 1)


def write_sheet(path: Path, pixels: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> None:
    """Image, truth and prediction side by side as a PNG; pixels uint8, masks bool, all (height, width)."""
    gap = np.full((pixels.shape[0], GAP, 3), 255, np.uint8)
    panels = [
        cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR),
        gap,
        overlay(pixels, truth, TRUTH),
        gap,
        overlay(pixels, prediction, PREDICTION),
    ]
    cv2.imwrite(str(path), np.hstack(panels))
