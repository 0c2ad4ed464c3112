"""Stage `split`: share whole tiles out over train, validation and test, class by class."""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import params
from prepare import Picture, read_index

PARTS = ("train", "validation", "test")
TRIALS = 200
"""Random orders of the tiles that are tried; the one that meets the wanted shares best is kept."""


def take(tiles: Sequence[str], sizes: Counter[str], wanted: float) -> list[str]:
    """Tiles from the front, skipping those that would overshoot by more than stopping would fall short."""
    taken: list[str] = []
    total = 0
    for tile in tiles:
        if abs(total + sizes[tile] - wanted) < abs(total - wanted):
            taken.append(tile)
            total += sizes[tile]
    return taken


def split_class(tiles: Sequence[str], parameters: dict[str, Any], chance: random.Random) -> dict[str, str]:
    """Part of each tile of one class; `tiles` names the tile of every picture."""
    sizes = Counter(tiles)
    best: tuple[float, dict[str, str]] | None = None
    for _ in range(TRIALS):
        order = sorted(sizes)
        chance.shuffle(order)
        test = take(order, sizes, parameters["test"] * len(tiles))
        rest = [tile for tile in order if tile not in test]
        validation = take(rest, sizes, parameters["validation"] * len(tiles))
        error = abs(sum(sizes[tile] for tile in test) - parameters["test"] * len(tiles)) + abs(
            sum(sizes[tile] for tile in validation) - parameters["validation"] * len(tiles)
        )
        if best is None or error < best[0] - 1e-9:
            parts = dict.fromkeys(rest, "train") | dict.fromkeys(validation, "validation") | dict.fromkeys(test, "test")
            best = (error, parts)
    assert best is not None
    return best[1]


def split(pictures: Sequence[Picture], parameters: dict[str, Any]) -> dict[str, list[str]]:
    """Paths of the pictures of each part."""
    kinds = defaultdict(list)
    for picture in pictures:
        kinds[picture.kind].append(picture)
    result: dict[str, list[str]] = {part: [] for part in PARTS}
    for kind, members in sorted(kinds.items()):
        chance = random.Random(f"{parameters['seed']} {kind}")
        parts = split_class([picture.tile for picture in members], parameters, chance)
        for picture in members:
            result[parts[picture.tile]].append(picture.path)
    return result


def main() -> None:
    """Write the split and print its counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index", type=Path, default=params.RECIPE / "work/index.json")
    parser.add_argument("--split", type=Path, default=params.RECIPE / "split.json")
    options = parser.parse_args()
    pictures = read_index(options.index)
    parts = split(pictures, params.load()["split"])
    options.split.write_text(json.dumps(parts, indent=1) + "\n")
    by_path = {picture.path: picture for picture in pictures}
    for part, paths in parts.items():
        counts = Counter(by_path[path].kind for path in paths)
        tiles = Counter(kind for kind, _ in {(by_path[path].kind, by_path[path].tile) for path in paths})
        print(part, len(paths), {kind: f"{counts[kind]} pictures, {tiles[kind]} tiles" for kind in sorted(counts)})


if __name__ == "__main__":
    main()
