"""Makes the README's picture: `python docs/images/make.py` in a clone where `make demo` works."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
COLUMNS, CELL, GAP = 6, 220, 8


def main() -> None:
    """Simulate tiles, analyse them, and put the overlays of those with objects on one sheet."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        run = [sys.executable, "-m", "graticule"]
        pictures = ["simulate", "tiles", "--out", str(place / "in"), "--count", "60", "--rate", "0", "--seed", "11"]
        subprocess.run([*run, *pictures], check=True)
        analyse = ["run", str(place / "in"), "--model", "tile-defects", "--out", str(place / "out")]
        subprocess.run([*run, *analyse, "--data-dir", str(place / "cluster")], check=True)
        masks = [mask for mask in sorted((place / "out" / "masks").glob("*.png")) if _is_telling(mask)]
        overlays = [Image.open(place / "out" / "overlays" / mask.name) for mask in masks[: 2 * COLUMNS]]
        _sheet(overlays).save(HERE / "demo-overlays.png", optimize=True)


def _is_telling(mask: Path) -> bool:
    """Whether objects can be seen without hiding the tile."""
    picture = Image.open(mask)
    return 0.002 < picture.histogram()[255] / (picture.width * picture.height) < 0.2


def _sheet(pictures: list[Image.Image]) -> Image.Image:
    rows = -(-len(pictures) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (CELL + GAP) - GAP, rows * (CELL + GAP) - GAP), "white")
    for number, picture in enumerate(pictures):
        tile = picture.convert("RGB")
        tile.thumbnail((CELL, CELL))
        left, top = (number % COLUMNS) * (CELL + GAP), number // COLUMNS * (CELL + GAP)
        sheet.paste(tile, (left + (CELL - tile.width) // 2, top + (CELL - tile.height) // 2))
    return sheet


if __name__ == "__main__":
    main()
