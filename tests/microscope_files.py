"""Files as microscopes write them. No library writes DM and SER: here byte by byte, by their published layout."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import h5py
import numpy as np

_DM_TYPES = {
    "int16": 1,
    "float32": 2,
    "complex64": 3,
    "uint8": 6,
    "int32": 7,
    "uint16": 10,
    "uint32": 11,
    "float64": 12,
}
_DM_CODES = {"int16": 2, "int32": 3, "uint16": 4, "uint32": 5, "float32": 6, "float64": 7, "uint8": 10}


def dm_file(array: np.ndarray, *, version: int = 3, scale: tuple[float, float] = (1.0, 1.0), unit: str = "") -> bytes:
    """A DM3 or DM4 file with one picture (height x width) or stack (frames x height x width); scale is (x, y)."""
    return _Dm(version).file(array, scale, unit)


class _Dm:
    """Tags are written big endian, values little endian, as DigitalMicrograph does on a PC."""

    def __init__(self, version: int) -> None:
        self.version = version
        self.long = ">I" if version == 3 else ">Q"

    def file(self, array: np.ndarray, scale: tuple[float, float], unit: str) -> bytes:
        sizes = [("", self.simple(5, struct.pack("<I", side))) for side in reversed(array.shape)]
        steps = [*scale, *([1.0] * (array.ndim - 2))]
        calibrations = [
            self.group(
                [
                    ("Origin", self.simple(6, struct.pack("<f", 0))),
                    ("Scale", self.simple(6, struct.pack("<f", step))),
                    ("Units", self.text(unit if number < 2 else "")),
                ]
            )
            for number, step in enumerate(steps)
        ]
        data = self.group(
            [
                (
                    "Calibrations",
                    self.group(
                        [
                            (
                                "Brightness",
                                self.group(
                                    [
                                        ("Origin", self.simple(6, struct.pack("<f", 0))),
                                        ("Scale", self.simple(6, struct.pack("<f", 1))),
                                        ("Units", self.text("")),
                                    ]
                                ),
                            ),
                            ("Dimension", self.group([("", calibration) for calibration in calibrations])),
                        ]
                    ),
                ),
                ("Data", self.array(array)),
                ("DataType", self.simple(5, struct.pack("<I", _DM_TYPES[str(array.dtype)]))),
                ("Dimensions", self.group(sizes)),
                ("PixelDepth", self.simple(5, struct.pack("<I", array.dtype.itemsize))),
            ]
        )
        image = self.group([("ImageData", data), ("ImageTags", self.group([])), ("Name", self.text("picture"))])
        root = self.group(
            [
                ("DocumentObjectList", self.group([])),
                ("ImageList", self.group([("", image)])),
                ("ImageSourceList", self.group([])),
                ("Thumbnails", self.group([])),
            ]
        )[1]
        return (
            struct.pack(">I", self.version) + struct.pack(self.long, len(root)) + struct.pack(">I", 1) + root + bytes(8)
        )

    def group(self, members: list[tuple[str, tuple[int, bytes]]]) -> tuple[int, bytes]:
        body = b"".join(self.entry(name, kind, content) for name, (kind, content) in members)
        return 20, struct.pack(">BB", 1, 0) + struct.pack(self.long, len(members)) + body

    def entry(self, name: str, kind: int, content: bytes) -> bytes:
        head = struct.pack(">BH", kind, len(name)) + name.encode("latin-1")
        return head + (struct.pack(">Q", len(content)) if self.version == 4 else b"") + content

    def value(self, description: list[int], data: bytes) -> tuple[int, bytes]:
        numbers = b"".join(struct.pack(self.long, number) for number in [len(description), *description])
        return 21, b"%%%%" + numbers + data

    def simple(self, code: int, data: bytes) -> tuple[int, bytes]:
        return self.value([code], data)

    def text(self, text: str) -> tuple[int, bytes]:
        data = text.encode("utf-16-le")
        return self.value([20, 4, len(data) // 2], data)

    def array(self, array: np.ndarray) -> tuple[int, bytes]:
        return self.value([20, _DM_CODES[str(array.dtype)], array.size], array.tobytes())


def ser_file(stack: np.ndarray, *, pixel: tuple[float, float] = (1e-9, 1e-9), version: int = 0x0220) -> bytes:
    """A SER file with a series of pictures (frames x height x width); `pixel` is (x, y) in metres."""
    types = {"uint8": 1, "uint16": 2, "uint32": 3, "int8": 4, "int16": 5, "int32": 6, "float32": 7, "float64": 8}
    offset = "<q" if version >= 0x0220 else "<i"
    width = struct.calcsize(offset)
    dimension = struct.pack("<iddi", len(stack), 0, 1, 0) + struct.pack("<i", 6) + b"Number" + struct.pack("<i", 0)
    head = struct.pack("<HHHiiii", 0x4949, 0x0197, version, 0x4122, 0x4152, len(stack), len(stack))
    table = len(head) + width + 4 + len(dimension)
    head += struct.pack(offset, table) + struct.pack("<i", 1) + dimension
    first = table + 2 * width * len(stack)
    elements, places = [], []
    position = first
    for frame in stack:
        element = struct.pack("<ddi", 0, pixel[0], 0) + struct.pack("<ddi", 0, pixel[1], 0)
        element += struct.pack("<hii", types[str(frame.dtype)], frame.shape[1], frame.shape[0])
        element += np.ascontiguousarray(frame[::-1]).tobytes()
        tag = struct.pack("<HHI", 0x4152, 0, 1_600_000_000)
        places.append((position, position + len(element)))
        elements.append(element + tag)
        position += len(element) + len(tag)
    tables = b"".join(struct.pack(offset, data) for data, _ in places)
    tables += b"".join(struct.pack(offset, tag) for _, tag in places)
    return head + tables + b"".join(elements)


def write_ncem_emd(path: Path, array: np.ndarray, *, pixel: tuple[float, float], unit: str = "[n_m]") -> None:
    """An EMD file of NCEM's kind; `pixel` is (x, y)."""
    with h5py.File(path, "w") as file:
        file.attrs["version_major"], file.attrs["version_minor"] = 0, 2
        group = file.create_group("data/picture")
        group.attrs["emd_group_type"] = 1
        group.create_dataset("data", data=array)
        steps = [*([1.0] * (array.ndim - 2)), pixel[1], pixel[0]]
        names = [*(["n"] * (array.ndim - 2)), "y", "x"]
        for number, (side, step, name) in enumerate(zip(array.shape, steps, names, strict=True), start=1):
            axis = group.create_dataset(f"dim{number}", data=np.arange(side) * step)
            axis.attrs["name"] = name
            axis.attrs["units"] = unit if name != "n" else "[]"


def write_velox_emd(path: Path, stack: np.ndarray, *, pixel: tuple[float, float]) -> None:
    """An EMD file of Velox's kind with a stack (frames x height x width); `pixel` is (x, y) in metres."""
    metadata: dict[str, Any] = {
        "BinaryResult": {
            "PixelSize": {"width": str(pixel[0]), "height": str(pixel[1])},
            "PixelUnitX": "m",
            "PixelUnitY": "m",
            "Offset": {"x": "0", "y": "0"},
            "Detector": "BM-Ceta",
            "AcquisitionUnit": "",
            "CompositionType": "",
            "DetectorIndex": "0",
            "Encoding": "",
        },
        "Detectors": {"Detector-0": {"DetectorName": "BM-Ceta", "DetectorType": "ImagingDetector"}},
        "Acquisition": {"AcquisitionStartDatetime": {"DateTime": "1600000000"}},
        "Scan": {"FrameTime": "1", "ScanSize": {"width": "0", "height": "0"}},
        "Instrument": {"InstrumentClass": "Titan"},
        "Core": {"MetadataDefinitionVersion": "7.9"},
        "General": {"Title": ""},
        "Optics": {},
        "Stage": {},
    }
    text = np.frombuffer(json.dumps(metadata).encode().ljust(4096, b"\0"), np.uint8)
    with h5py.File(path, "w") as file:
        version = json.dumps({"format": "Velox", "version": "1.8"})
        file.create_dataset("Version", data=np.array([version], dtype=h5py.string_dtype()))
        file.create_group("Info")
        group = file.create_group("Data/Image/0123456789abcdef0123456789abcdef")
        group.create_dataset("Data", data=np.moveaxis(stack, 0, -1), chunks=(*stack.shape[1:], 1))
        group.create_dataset("Metadata", data=np.repeat(text[:, None], len(stack), axis=1))
        group.create_dataset("FrameLookupTable", data=np.arange(len(stack)))
