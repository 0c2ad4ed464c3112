"""From a picture to a mask, as the manifest of the shipped model describes it.

Free of torch: the network is any function from float32 (n, 1, h, w) to logits (n, classes, h, w).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import cv2
import numpy as np

MULTIPLE = 32
"""The network halves the size five times."""
Logits = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Postprocessing:
    """How probabilities become a mask."""

    threshold: float = 0.5
    """A pixel is defect where 1 - p(background) exceeds it."""
    minimum_area: int = 0
    """Pixels: smaller objects are dropped."""
    fill_holes: int = 0
    """Pixels: holes of fewer are filled."""

    def as_dict(self) -> dict[str, float]:
        """For JSON and the manifest."""
        return asdict(self)


def prepare_input(pixels: np.ndarray) -> np.ndarray:
    """uint8 (height, width) -> float32 (1, 1, h, w), 0..1, padded right and below by zeros."""
    height, width = pixels.shape
    padded = cv2.copyMakeBorder(pixels, 0, -height % MULTIPLE, 0, -width % MULTIPLE, cv2.BORDER_CONSTANT)
    return (padded.astype(np.float32) / 255)[None, None]


def probabilities(logits: Logits, pixels: np.ndarray) -> np.ndarray:
    """uint8 (height, width) -> float32 (classes, height, width), which sum to 1 over the classes."""
    return softmax(logits(prepare_input(pixels)))[0, :, : pixels.shape[0], : pixels.shape[1]]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Logits (n, classes, h, w) -> probabilities, which sum to 1 over the classes."""
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def drop_small(mask: np.ndarray, minimum: int) -> np.ndarray:
    """Bool mask without its 8-connected objects of fewer than `minimum` pixels."""
    if minimum <= 1:
        return mask
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    keep = statistics[:, cv2.CC_STAT_AREA] >= minimum
    keep[0] = False
    return keep[labels]


def fill_holes(mask: np.ndarray, limit: int) -> np.ndarray:
    """Bool mask whose holes of fewer than `limit` pixels are filled; background that touches the edge is no hole."""
    if limit <= 1:
        return mask
    _, labels, statistics, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    hole = statistics[:, cv2.CC_STAT_AREA] < limit
    hole[0] = False
    hole[np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))] = False
    return mask | hole[labels]


def to_mask(defect: np.ndarray, postprocessing: Postprocessing) -> np.ndarray:
    """Probability of a defect (height, width) -> bool mask."""
    mask = fill_holes(defect > postprocessing.threshold, postprocessing.fill_holes)
    return drop_small(mask, postprocessing.minimum_area)


def object_classes(mask: np.ndarray, values: np.ndarray) -> list[int]:
    """Class index of each object of the mask: the defect class with the largest summed probability over it."""
    number, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    return [1 + int(values[1:, labels == index].sum(1).argmax()) for index in range(1, number)]
