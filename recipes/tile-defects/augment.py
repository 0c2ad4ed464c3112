"""Augmentation: what a tile could have looked like under another camera, light or position."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

Chance = np.random.Generator

OUTSIDE = 255
"""Label of the pixels of a crop that lie outside the picture; they count nowhere."""


def smooth_field(chance: Chance, shape: tuple[int, int], nodes: int) -> np.ndarray:
    """float32 (height, width): a random smooth surface, about -2..2."""
    grid = chance.standard_normal((nodes, nodes)).astype(np.float32)
    return cv2.resize(grid, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)


class Augmenter:
    """Cuts a crop of a given shape out of a picture, bent and lit at random."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        self.parameters = parameters

    def __call__(
        self, chance: Chance, pixels: np.ndarray, labels: np.ndarray, shape: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """uint8 pixels and labels (height, width) -> float32 pixels 0..1 and uint8 labels of `shape`,
        `OUTSIDE` where the crop reaches past the picture."""
        if chance.random() < self.parameters["quarter_turn"]:
            pixels, labels = np.rot90(pixels), np.rot90(labels)
        if chance.random() < 0.5:
            pixels, labels = pixels[::-1], labels[::-1]
        if chance.random() < 0.5:
            pixels, labels = pixels[:, ::-1], labels[:, ::-1]
        pixels, labels = np.ascontiguousarray(pixels), np.ascontiguousarray(labels)
        x, y = self.positions(chance, labels, shape)
        cut = cv2.remap(pixels, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        truth = cv2.remap(labels, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=OUTSIDE)
        lit = self.light(chance, cut.astype(np.float32) / 255)
        # Zeros around the picture are what the convolutions see at its edge when it is analysed whole.
        lit[truth == OUTSIDE] = 0
        return lit, truth

    def positions(self, chance: Chance, labels: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """float32 x and y, each of `shape`: where in the picture each pixel of the crop comes from."""
        low, high = self.parameters["scale"]
        scale = np.exp(chance.uniform(np.log(low), np.log(high)))
        stretch = np.exp(chance.uniform(-1, 1) * self.parameters["stretch"])
        angle = np.deg2rad(chance.uniform(-1, 1) * self.parameters["rotation"])
        height, width = shape
        v, u = np.meshgrid(np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2, indexing="ij")
        u, v = u / (scale * stretch), v / (scale / stretch)
        centre_y, centre_x = self.centre(chance, labels, (height / scale, width / scale))
        x = centre_x + np.cos(angle) * u - np.sin(angle) * v
        y = centre_y + np.sin(angle) * u + np.cos(angle) * v
        if chance.random() < 0.5:
            strength = chance.random() * self.parameters["elastic"]
            x = x + strength * smooth_field(chance, shape, 6)
            y = y + strength * smooth_field(chance, shape, 6)
        return x.astype(np.float32), y.astype(np.float32)

    @staticmethod
    def centre(chance: Chance, labels: np.ndarray, view: tuple[float, float]) -> tuple[float, float]:
        """Row and column of the crop's middle: inside the picture as far as it is larger than the view.

        Half of the crops of a defective picture are centred near a defect, which small ones would else seldom enter.
        """
        wanted = None
        if chance.random() < 0.5:
            rows, columns = np.nonzero(labels)
            if len(rows):
                pick = chance.integers(len(rows))
                wanted = (rows[pick], columns[pick])
        middle = []
        for axis in (0, 1):
            size, half = labels.shape[axis], view[axis] / 2
            low, high = min(half, size / 2), max(size - half, size / 2)
            value = chance.uniform(low, high)
            if wanted is not None:
                value = min(max(wanted[axis] + chance.uniform(-0.6, 0.6) * half, low), high)
            middle.append(value)
        return middle[0], middle[1]

    def light(self, chance: Chance, pixels: np.ndarray) -> np.ndarray:
        """Another exposure of the same float32 pixels, 0..1."""
        low, high = self.parameters["brightness"]
        pixels = pixels * np.exp(chance.uniform(np.log(low), np.log(high)))
        if chance.random() < 0.5:
            mean = pixels.mean()
            pixels = mean + (pixels - mean) * chance.uniform(0.7, 1.4)
        if chance.random() < 0.5:
            amplitude = chance.random() * self.parameters["illumination"]
            pixels = pixels * (1 + amplitude * smooth_field(chance, pixels.shape, 3))
        pixels = np.clip(pixels, 0, 1)
        if chance.random() < 0.5:
            low, high = self.parameters["gamma"]
            pixels = pixels ** np.float32(chance.uniform(low, high))
        if chance.random() < 0.25:
            pixels = cv2.GaussianBlur(pixels, (0, 0), 0.3 + chance.random() * self.parameters["blur"])
        if chance.random() < 0.4:
            noise = chance.standard_normal(pixels.shape, dtype=np.float32)
            pixels = np.clip(pixels + chance.random() * self.parameters["noise"] * noise, 0, 1)
        if chance.random() < 0.2:
            quality = int(chance.integers(40, 95))
            _, coded = cv2.imencode(".jpg", (pixels * 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])
            pixels = cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE).astype(np.float32) / 255
        return pixels.astype(np.float32)

    @staticmethod
    def paste(
        chance: Chance, pixels: np.ndarray, donor: np.ndarray, donor_labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """A copy of defect-free `pixels` with the donor's defect at a random place, and its labels.

        The defect is carried over as a ratio to its surroundings, so that it takes on the new tile's brightness.
        """
        labels = np.zeros_like(pixels)
        rows, columns = np.nonzero(donor_labels)
        if not len(rows):
            return pixels, labels
        margin = 6
        top, left = max(rows.min() - margin, 0), max(columns.min() - margin, 0)
        window = np.s_[top : rows.max() + margin + 1, left : columns.max() + margin + 1]
        patch, mask = donor[window].astype(np.float32), donor_labels[window]
        height, width = patch.shape
        if height >= pixels.shape[0] or width >= pixels.shape[1] or (mask == 0).sum() == 0:
            return pixels, labels
        y, x = chance.integers(pixels.shape[0] - height + 1), chance.integers(pixels.shape[1] - width + 1)
        place = np.s_[y : y + height, x : x + width]
        weight = cv2.GaussianBlur(cv2.dilate((mask > 0).astype(np.float32), np.ones((3, 3))), (0, 0), 1)
        ratio = patch / max(float(np.median(patch[mask == 0])), 1.0)
        below = pixels[place].astype(np.float32)
        result = pixels.copy()
        # The darkening multiplies the tile's own brightness, smoothed, so that its lines do not shine through.
        carried = cv2.GaussianBlur(below, (0, 0), 4) * ratio
        result[place] = np.clip(below * (1 - weight) + carried * weight, 0, 255).astype(np.uint8)
        labels[place] = mask
        return result, labels
