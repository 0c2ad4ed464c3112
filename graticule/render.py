"""Pictures for people: a mask drawn over the image that it was measured in."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from graticule.results import DetectedObject

Rgb = NDArray[np.uint8]
"""height x width x 3."""
Box = tuple[float, float, float, float]
"""left, top, right, bottom."""

PALETTE = ("#ff3b6b", "#2ec4ff", "#ffc21a", "#6be36b", "#c77dff", "#ff8a3d")
"""Colours of classes for which the manifest names none."""
MOST_NUMBERS = 30
"""Objects are numbered up to this many; more numbers would hide what they stand at."""

_FILL = 0.30
_ROOMY = 8
"""An object of so many times a number's own area carries the number inside."""
_HALO = 0.45
_DARK = np.array([10, 12, 18], dtype=np.float32)
_PERCENTILES = (0.5, 99.5)
_SAMPLES = 4_000_000
_COMPRESSION = 3


def overlay(
    pixels: NDArray[Any],
    mask: NDArray[Any],
    objects: Iterable[DetectedObject],
    colours: Mapping[str, str],
    *,
    numbers: int = MOST_NUMBERS,
) -> Rgb:
    """The picture with each object filled lightly and outlined in its class's colour.

    The outline runs around the object, not on it: a defect of a few pixels stays visible. `colours`: class name ->
    `#rrggbb`. Objects are numbered when there are at most `numbers` of them.
    """
    objects = tuple(objects)
    picture = viewable(pixels)
    if not mask.any():
        return picture
    table = _colour_table(int(mask.max()), objects, colours)
    width = line_width(picture)
    ring = _grown(mask, width)
    borders = _borders(mask)
    inside = (mask > 0) & ~borders
    halo = _grown(ring, max(1, width // 2))
    drawn = picture.astype(np.float32)
    _blend(drawn, (halo > 0) & (ring == 0), _DARK, _HALO)
    _blend(drawn, inside, table[mask], _FILL)
    _blend(drawn, ((ring > 0) & (mask == 0)) | borders, table[ring], 1.0)
    result = np.rint(drawn).astype(np.uint8)
    return _numbered(result, mask, objects, width) if len(objects) <= numbers else result


def viewable(pixels: NDArray[Any]) -> Rgb:
    """Any picture as 8-bit RGB. Eight bits stay as they are; anything else is stretched from its darkest to its
    brightest values (without the extreme half percent), values that are not numbers become black."""
    grey = pixels if pixels.dtype == np.uint8 else _stretched(pixels)
    if grey.ndim == 2:
        grey = grey[:, :, None]
    return np.ascontiguousarray(np.broadcast_to(grey[:, :, :3], (*grey.shape[:2], 3)))


def binary_mask(mask: NDArray[Any]) -> NDArray[np.uint8]:
    """255 where there is an object, 0 elsewhere."""
    return (mask > 0).astype(np.uint8) * np.uint8(255)


def line_width(picture: NDArray[Any]) -> int:
    """Pixels of an outline that is visible on a picture of this size when it is looked at as a whole."""
    return max(1, round(min(picture.shape[:2]) / 250))


def encode_png(pixels: NDArray[Any]) -> bytes:
    """A picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=_COMPRESSION)
    return buffer.getvalue()


def _stretched(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * np.uint8(255)
    values = pixels.astype(np.float32)
    finite = np.isfinite(values)
    sample = values[finite][:: max(1, values.size // _SAMPLES)]
    if not sample.size:
        return np.zeros(values.shape, dtype=np.uint8)
    low, high = np.percentile(sample, _PERCENTILES)
    if high <= low:  # nearly constant: the few other values are all there is to see
        low, high = float(sample.min()), float(sample.max())
    span = high - low or 1.0
    scaled = np.clip((np.where(finite, values, low) - low) / span, 0, 1)
    return np.rint(scaled * 255).astype(np.uint8)


def _colour_table(highest: int, objects: tuple[DetectedObject, ...], colours: Mapping[str, str]) -> NDArray[np.float32]:
    """Colour of each id; ids without an object get the first colour of the palette."""
    table = np.tile(_rgb(PALETTE[0]), (highest + 1, 1))
    classes = {name: place for place, name in enumerate(dict.fromkeys(found.class_name for found in objects))}
    for found in objects:
        if found.id <= highest:
            default = PALETTE[classes[found.class_name] % len(PALETTE)]
            table[found.id] = _rgb(colours.get(found.class_name, default))
    return table


def _rgb(colour: str) -> NDArray[np.float32]:
    return np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)], dtype=np.float32)


def _grown(mask: NDArray[Any], steps: int) -> NDArray[Any]:
    """Every object `steps` pixels larger; diagonal steps in turn with straight ones make round corners."""
    grown = mask.copy()
    for step in range(steps):
        before = grown.copy()
        for rows, columns in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            _spread(before, grown, rows, columns)
        if step % 2:
            for rows, columns in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
                _spread(before, grown, rows, columns)
    return grown


def _spread(source: NDArray[Any], target: NDArray[Any], rows: int, columns: int) -> None:
    """Copy ids to the neighbours in one direction where there is background."""
    height, width = source.shape
    there = (slice(max(rows, 0), height + min(rows, 0)), slice(max(columns, 0), width + min(columns, 0)))
    here = (slice(max(-rows, 0), height + min(-rows, 0)), slice(max(-columns, 0), width + min(-columns, 0)))
    np.copyto(target[there], source[here], where=target[there] == 0)


def _borders(mask: NDArray[Any]) -> NDArray[np.bool_]:
    """Where two objects touch: the first row or column of the second one."""
    borders = np.zeros(mask.shape, dtype=bool)
    for here, there in ((np.s_[1:, :], np.s_[:-1, :]), (np.s_[:, 1:], np.s_[:, :-1])):
        borders[here] |= (mask[here] != mask[there]) & (mask[here] > 0) & (mask[there] > 0)
    return borders


def _blend(drawn: NDArray[np.float32], where: NDArray[np.bool_], colour: NDArray[np.float32], share: float) -> None:
    chosen = colour[where] if colour.ndim == 3 else colour
    drawn[where] = drawn[where] * (1 - share) + chosen * share


def _numbered(picture: Rgb, mask: NDArray[Any], objects: tuple[DetectedObject, ...], gap: int) -> Rgb:
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    size = max(10, round(min(image.size) / 20))
    font = ImageFont.load_default(size)
    stroke = max(1, size // 8)
    taken: list[Box] = []
    for found in objects:
        left, top, right, bottom = draw.textbbox((0, 0), str(found.id), font=font, stroke_width=stroke)
        box = _place(mask, found, (right - left, bottom - top), 2 * gap, taken)
        taken.append(box)
        at = (box[0] - left, box[1] - top)
        draw.text(at, str(found.id), font=font, fill=(255, 255, 255), stroke_width=stroke, stroke_fill=(10, 12, 18))
    return np.asarray(image)


def _place(mask: NDArray[Any], found: DetectedObject, text: tuple[float, float], gap: int, taken: list[Box]) -> Box:
    """Where a number goes: into a large object, else above its highest or below its lowest pixel."""
    height, width = mask.shape
    left, top, right, bottom = found.bounding_box
    middle = found.centroid
    places = [
        (_middle_of_row(mask, found, top) - text[0] / 2, top - gap - text[1]),
        (_middle_of_row(mask, found, bottom - 1) - text[0] / 2, bottom + gap),
        (right + gap, middle[1] - text[1] / 2),
        (left - gap - text[0], middle[1] - text[1] / 2),
    ]
    if found.area > _ROOMY * text[0] * text[1]:
        places.insert(0, (middle[0] - text[0] / 2, middle[1] - text[1] / 2))
    boxes = [(x, y, x + text[0], y + text[1]) for x, y in places]
    free = (b for b in boxes if b[0] >= 0 and b[1] >= 0 and b[2] <= width and b[3] <= height)
    clear = (b for b in free if not any(_overlap(b, other) for other in taken))
    x, y, *_ = next(clear, boxes[0])
    x, y = max(0.0, min(x, width - text[0])), max(0.0, min(y, height - text[1]))
    return x, y, x + text[0], y + text[1]


def _middle_of_row(mask: NDArray[Any], found: DetectedObject, row: int) -> float:
    left, _, right, _ = found.bounding_box
    columns = np.flatnonzero(mask[row, left:right] == found.id)
    return left + (float(columns.mean()) if columns.size else (right - left) / 2)


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
