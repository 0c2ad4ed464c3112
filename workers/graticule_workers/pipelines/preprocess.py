"""From a decoded picture to the network's input, as the manifest says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from graticule.manifest import Normalisation, Padding, Preprocessing, SizePolicy

Image = NDArray[Any]
"""float32, height x width (x channels)."""

_BORDERS = {
    "reflect": cv2.BORDER_REFLECT_101,
    "edge": cv2.BORDER_REPLICATE,
    "constant": cv2.BORDER_CONSTANT,
}


@dataclass(frozen=True)
class Prepared:
    """The network's input and the way back."""

    tensor: Image
    """channels x height x width, padded."""
    content: tuple[int, int]
    """(height, width) of the picture within the padded input."""
    original: tuple[int, int]
    """(height, width) of the picture as it was decoded."""
    flags: tuple[str, ...]
    """What was unusual: 'constant-image', 'non-finite-pixels', 'float-range-stretched'."""

    def restore(self, output: Image) -> Image:
        """Bring the network's output, channels x height x width, back to the picture's size."""
        height, width = self.content
        content = output[:, :height, :width]
        if self.content == self.original:
            return content
        rows, columns = self.original
        planes = [cv2.resize(plane, (columns, rows), interpolation=cv2.INTER_LINEAR) for plane in content]
        return np.stack(planes)


def prepare(pixels: NDArray[Any], spec: Preprocessing) -> Prepared:
    """Colour, normalisation, scaling and padding, in this order."""
    whole = np.issubdtype(pixels.dtype, np.integer)
    image = _to_colour(pixels, spec.colour)
    image, flags = (image, ()) if whole else _finite(image)
    normalised, more = _normalise(image, pixels.dtype, spec.normalisation)
    scaled = _scale(normalised, spec)
    padded = _pad(scaled, _target(scaled.shape[0], scaled.shape[1], spec.size), spec.padding)
    tensor = padded[np.newaxis] if padded.ndim == 2 else np.ascontiguousarray(padded.transpose(2, 0, 1))
    return Prepared(
        tensor=tensor,
        content=(scaled.shape[0], scaled.shape[1]),
        original=(pixels.shape[0], pixels.shape[1]),
        flags=(*flags, *more),
    )


def _to_colour(pixels: NDArray[Any], colour: str) -> Image:
    image = pixels.astype(np.float32)
    if colour == "grey":
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
    return image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)


def _finite(image: Image) -> tuple[Image, tuple[str, ...]]:
    """Replace NaN and infinities, which some detectors write for dead pixels, by the median of the others."""
    good = np.isfinite(image)
    if good.all():
        return image, ()
    median = np.float32(np.median(image[good])) if good.any() else np.float32(0)
    return np.where(good, image, median), ("non-finite-pixels",)


def _normalise(image: Image, dtype: np.dtype[Any], spec: Normalisation) -> tuple[Image, tuple[str, ...]]:
    low, high = float(image.min()), float(image.max())
    flags = ("constant-image",) if low == high else ()
    if spec.kind == "minmax":
        return _stretch(image, low, high), flags
    if np.issubdtype(dtype, np.integer):
        scaled = image * np.float32(1 / np.iinfo(dtype).max)
    elif low < 0 or high > 1:
        scaled, flags = _stretch(image, low, high), (*flags, "float-range-stretched")
    else:
        scaled = image
    if spec.kind == "standardise":
        scaled = (scaled - np.asarray(spec.mean, np.float32)) / np.asarray(spec.std, np.float32)
    return scaled, flags


def _stretch(image: Image, low: float, high: float) -> Image:
    if low == high:
        return np.zeros_like(image)
    return (image - np.float32(low)) * np.float32(1 / (high - low))


def _scale(image: Image, spec: Preprocessing) -> Image:
    """Isotropic scaling, by the manifest's `resize` and to fit into a fixed size."""
    height, width = image.shape[:2]
    factor = spec.resize.short_side / min(height, width) if spec.resize else 1.0
    if spec.size.policy == "fixed" and spec.size.height and spec.size.width:
        factor = min(spec.size.height / height, spec.size.width / width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    if size == (width, height):
        return image
    smaller = factor < 1
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)


def _target(height: int, width: int, size: SizePolicy) -> tuple[int, int]:
    if size.policy == "fixed" and size.height and size.width:
        return size.height, size.width
    multiple = size.multiple
    return -(-height // multiple) * multiple, -(-width // multiple) * multiple


def _pad(image: Image, target: tuple[int, int], padding: Padding) -> Image:
    bottom, right = target[0] - image.shape[0], target[1] - image.shape[1]
    if not bottom and not right:
        return image
    value = (padding.value,) * 4
    return cv2.copyMakeBorder(image, 0, bottom, 0, right, _BORDERS[padding.mode], value=value)
