"""Pictures and tables made from a result when somebody asks for them; nothing of this is stored."""

from __future__ import annotations

import io
import json
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from graticule import formats
from graticule.errors import ImageTooLarge, UnknownModel
from graticule.jobs import Job
from graticule.manifest import Manifest
from graticule.render import PALETTE, Rgb, binary_mask, encode_png, overlay, viewable
from graticule.results import Result
from graticule.settings import Settings
from graticule.store import Store
from graticule.tables import OBJECT_COLUMNS, CsvTable, Entry, ParquetTable, object_rows
from graticule_producers.gateway.models import Models
from graticule_producers.gateway.outlines import outline_of
from graticule_producers.gateway.uploads import check_decoded_size

TableKind = Literal["csv", "parquet", "geojson"]

_MEMORY = 64 * 1024**2
"""Bytes of finished renderings that are kept."""
_AT_ONCE = 2
"""Pictures that are decoded at the same time: each may be large."""
_WEBP_LIMIT = 16_383
"""Longest side of a WebP picture, px."""


class Renderings:
    """Makes renderings. Thread-safe."""

    def __init__(self, store: Store, models: Models, settings: Settings) -> None:
        self.store = store
        self.models = models
        self.settings = settings
        self._finished = _Memory(_MEMORY)
        self._slots = threading.BoundedSemaphore(_AT_ONCE)

    def mask(self, result: Result) -> bytes:
        """`mask.png` as it is stored: each pixel the id of its object."""
        return self.store.get("results", result.artifacts["mask"].key)

    def labels(self, result: Result) -> NDArray[Any]:
        """The mask: height x width, each pixel the id of its object, 0 = background."""
        return np.asarray(Image.open(io.BytesIO(self.mask(result))))

    def binary_png(self, result: Result) -> bytes:
        """The mask as 8-bit PNG: 255 where there is an object."""
        return self._kept(f"binary:{result.job.job_id}", lambda: encode_png(binary_mask(self.labels(result))))

    def picture_png(self, job: Job, width: int | None = None) -> bytes:
        """The picture as a PNG that every browser shows, at most `width` px wide. Raises UnreadableImage."""

        def make() -> bytes:
            return encode_png(_narrowed(viewable(self._pixels(job)), width))

        return self._kept(f"picture:{job.image.sha256}:{job.image.frame}:{width}", make)

    def overlay_webp(self, result: Result, opacity: float, width: int | None = None) -> bytes:
        """The picture with its objects drawn in; `opacity` 0 shows the picture alone, 1 the full drawing."""

        def make() -> bytes:
            picture = viewable(self._pixels(result.job))
            mixed = Image.blend(Image.fromarray(picture), Image.fromarray(self._drawn(picture, result)), opacity)
            buffer = io.BytesIO()
            Image.fromarray(_narrowed(np.asarray(mixed), width or _WEBP_LIMIT)).save(buffer, "WEBP", quality=88)
            return buffer.getvalue()

        return self._kept(f"overlay:{result.job.job_id}:{opacity}:{width}", make)

    def overlay_png(self, result: Result) -> bytes:
        """The picture with its objects drawn in."""

        def make() -> bytes:
            return encode_png(self._drawn(viewable(self._pixels(result.job)), result))

        return self._kept(f"drawn:{result.job.job_id}", make)

    def layer_png(self, result: Result, width: int | None = None) -> bytes:
        """The objects alone, filled in their classes' colours, on transparent ground."""

        def make() -> bytes:
            layer = Image.fromarray(self._coloured(result), "RGBA")
            if width and width < layer.width:
                layer = layer.resize((width, max(1, round(layer.height * width / layer.width))), Image.Resampling.BOX)
            buffer = io.BytesIO()
            layer.save(buffer, "PNG", compress_level=3)
            return buffer.getvalue()

        return self._kept(f"layer:{result.job.job_id}:{width}", make)

    def objects(self, result: Result, kind: TableKind) -> bytes:
        """The table of the objects, one row or feature each. Raises MissingPart for Parquet without pyarrow."""
        if kind == "geojson":
            return self._kept(f"geojson:{result.job.job_id}", lambda: self._geojson(result))
        return _table(result, kind)

    def colours(self, result: Result) -> dict[str, str]:
        """Class name -> `#rrggbb`, as the model's manifest says."""
        manifest = self._manifest(result)
        return {kind.name: kind.colour for kind in manifest.postprocessing.classes} if manifest else {}

    def _manifest(self, result: Result) -> Manifest | None:
        """The manifest of the version that gave the answer; None when it was removed since."""
        try:
            return self.models.resolve(f"{result.model.name}@{result.model.version}")
        except UnknownModel:
            return None

    def _pixels(self, job: Job) -> NDArray[Any]:
        image = job.image
        if image.size > self.settings.gateway_max_decoded:
            raise ImageTooLarge(f"{image.filename!r} is too large to be drawn: {image.size:,} bytes.")
        with self._slots:
            data = self.store.get_image(image)
            info = formats.probe(data, image.filename, max_pixels=self.settings.max_pixels)
            check_decoded_size(info.width * info.height * info.channels, info.dtype, image.filename, self.settings)
            return formats.decode(data, image.filename, frame=image.frame, max_pixels=self.settings.max_pixels).pixels

    def _drawn(self, picture: Rgb, result: Result) -> Rgb:
        return overlay(picture, self.labels(result), result.segmentation.objects, self.colours(result))

    def _coloured(self, result: Result) -> NDArray[np.uint8]:
        labels, colours = self.labels(result), self.colours(result)
        table = np.zeros((int(labels.max(initial=0)) + 1, 4), np.uint8)
        table[1:] = _rgba(PALETTE[0])
        for found in result.segmentation.objects:
            if found.id < len(table):
                table[found.id] = _rgba(colours.get(found.class_name, PALETTE[0]))
        return table[labels]

    def _geojson(self, result: Result) -> bytes:
        labels = self.labels(result)
        features = [
            {
                "type": "Feature",
                "id": found.id,
                "geometry": {"type": "MultiPolygon", "coordinates": outline_of(labels, found.id, found.bounding_box)},
                "properties": found.model_dump(mode="json", exclude={"id"}),
            }
            for found in result.segmentation.objects
        ]
        collection = {"type": "FeatureCollection", "features": features, "properties": _picture_properties(result)}
        return json.dumps(collection, separators=(",", ":")).encode()

    def _kept(self, key: str, make: Callable[[], bytes]) -> bytes:
        if (known := self._finished.get(key)) is not None:
            return known
        made = make()
        self._finished.put(key, made)
        return made


class _Memory:
    """The renderings that were asked for last, up to so many bytes. Thread-safe."""

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self._lock = threading.Lock()
        self._items: OrderedDict[str, bytes] = OrderedDict()

    def get(self, key: str) -> bytes | None:
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
            return self._items.get(key)

    def put(self, key: str, data: bytes) -> None:
        with self._lock:
            if len(data) > self._limit or key in self._items:
                return
            self._items[key] = data
            self._size += len(data)
            while self._size > self._limit:
                self._size -= len(self._items.popitem(last=False)[1])


def _table(result: Result, kind: Literal["csv", "parquet"]) -> bytes:
    job = result.job
    entry = Entry(job.image.filename, job.source.path, result, "succeeded", job_id=job.job_id)
    with tempfile.TemporaryDirectory() as folder:
        make = CsvTable if kind == "csv" else ParquetTable
        table = make(Path(folder) / f"objects.{kind}", OBJECT_COLUMNS)
        try:
            table.write(object_rows(entry))
            return table.finish().read_bytes()
        except BaseException:
            table.discard()
            raise


def _picture_properties(result: Result) -> dict[str, Any]:
    return {
        "job_id": result.job.job_id,
        "filename": result.job.image.filename,
        "model": f"{result.model.name}@{result.model.version}",
        "width": result.picture.width,
        "height": result.picture.height,
        "unit": "px; x to the right, y down, (0, 0) = centre of the first pixel",
    }


def _narrowed(picture: Rgb, width: int | None) -> Rgb:
    """The picture at most `width` px wide, and as high as WebP allows."""
    if width is None:
        return picture
    height_now, width_now = picture.shape[:2]
    scale = min(1.0, width / width_now, _WEBP_LIMIT / height_now)
    if scale == 1.0:
        return picture
    size = (max(1, round(width_now * scale)), max(1, round(height_now * scale)))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))


def _rgba(colour: str) -> tuple[int, int, int, int]:
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue, 255
