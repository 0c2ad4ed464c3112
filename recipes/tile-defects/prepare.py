"""Stage `prepare`: list the pictures and find out which of them show the same tile.

The set holds each defective tile under up to six exposures (`exp1_num_3191`, `exp2_num_3223`, ...): the numbers of one
tile's pictures lie close together. Pictures of one tile must not be shared out over train and test.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import params

NAME = re.compile(r"exp(?P<exposure>\d+)_num_(?P<number>\d+)$")
SIDE = 64
"""Pixels: side of the thumbnails that are compared."""


@dataclass(frozen=True)
class Picture:
    """One picture of the set; paths are relative to the data folder."""

    path: str
    mask: str
    kind: str
    """The class folder: a defect or `free`."""
    number: int
    exposure: int
    tile: str
    """Same for all pictures of one tile."""
    sha256: str


def read_grey(path: Path) -> np.ndarray:
    """The file's pixels: uint8, (height, width)."""
    pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if pixels is None:
        raise SystemExit(f"{path}: not a readable picture")
    return pixels


def thumbnail_spectrum(pixels: np.ndarray) -> np.ndarray:
    """Fourier transform of the picture's fine structure, standardised, so that exposures compare."""
    small = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    fine = small - cv2.GaussianBlur(small, (0, 0), 6)
    return np.fft.rfft2(fine / (fine.std() + 1e-6))


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Best correlation (-1..1) of two spectra over all shifts."""
    return float(np.fft.irfft2(first * np.conj(second)).max() / SIDE**2)


def tile_numbers(numbers: Sequence[int], spectra: Sequence[np.ndarray], parameters: dict[str, Any]) -> list[int]:
    """For each picture of one class, in ascending order of number, the lowest number among its tile's pictures."""
    tiles = list(range(len(numbers)))
    for later in range(len(numbers)):
        for earlier in range(later - 1, -1, -1):
            gap = numbers[later] - numbers[earlier]
            if gap > parameters["duplicate_gap"]:
                break
            if tiles[later] != tiles[earlier] and (
                gap <= parameters["number_gap"]
                or correlation(spectra[later], spectra[earlier]) >= parameters["duplicate_correlation"]
            ):
                low, high = sorted((tiles[later], tiles[earlier]))
                tiles = [low if tile == high else tile for tile in tiles]
    return [numbers[tile] for tile in tiles]


def list_class(folder: Path, kind: str, parameters: dict[str, Any]) -> list[Picture]:
    """The pictures of one class, in ascending order of number."""
    found = []
    for path in sorted((folder / kind).glob("*.jpg")):
        match = NAME.match(path.stem)
        if match is None:
            raise SystemExit(f"{path}: expected a name such as exp1_num_3191.jpg")
        found.append((int(match["number"]), int(match["exposure"]), path))
    found.sort()
    spectra = [thumbnail_spectrum(read_grey(path)) for _, _, path in found]
    tiles = tile_numbers([number for number, _, _ in found], spectra, parameters)
    return [
        Picture(
            path=path.relative_to(folder).as_posix(),
            mask=path.with_suffix(".png").relative_to(folder).as_posix(),
            kind=kind,
            number=number,
            exposure=exposure,
            tile=f"{kind}-{tile}",
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for (number, exposure, path), tile in zip(found, tiles, strict=True)
    ]


def read_index(path: Path) -> list[Picture]:
    """The pictures that `prepare` listed."""
    return [Picture(**row) for row in json.loads(path.read_text())]


def main() -> None:
    """Write the index."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index", type=Path, default=params.RECIPE / "work/index.json")
    options = parser.parse_args()
    parameters = params.load()
    folder = params.data_folder(parameters)
    kinds = (*params.DEFECTS, params.FREE)
    pictures = [picture for kind in kinds for picture in list_class(folder, kind, parameters["prepare"])]
    if not pictures:
        raise SystemExit(f"{folder}: no pictures; expected folders {', '.join(kinds)}")
    options.index.parent.mkdir(parents=True, exist_ok=True)
    options.index.write_text(json.dumps([asdict(picture) for picture in pictures], indent=0))
    print(f"{len(pictures)} pictures of {len({picture.tile for picture in pictures})} tiles")


if __name__ == "__main__":
    main()
