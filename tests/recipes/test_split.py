"""The split keeps the pictures of one tile together, meets the shares and never changes."""

import collections
import json
from pathlib import Path

import numpy as np
import pytest

RECIPE = Path(__file__).parents[2] / "recipes" / "tile-defects"

PARAMETERS = {"seed": 7, "test": 0.2, "validation": 0.15}


def pictures(recipe, tiles_per_kind=12, exposures=5):
    picture = recipe("prepare").Picture
    return [
        picture(f"{kind}/exp{e}_num_{t * 9000 + e}.jpg", "", kind, t * 9000 + e, e, f"{kind}-{t * 9000}", "")
        for kind in ("blowhole", "crack", "free")
        for t in range(tiles_per_kind)
        for e in range(1, 2 + t % exposures)
    ]


def test_parts_share_no_tile_and_lose_no_picture(recipe):
    found = pictures(recipe)
    parts = recipe("split").split(found, PARAMETERS)
    tile = {picture.path: picture.tile for picture in found}
    tiles = {part: {tile[path] for path in paths} for part, paths in parts.items()}
    assert not tiles["train"] & tiles["test"]
    assert not tiles["train"] & tiles["validation"]
    assert not tiles["validation"] & tiles["test"]
    assert sorted(path for paths in parts.values() for path in paths) == sorted(tile)


def test_each_class_has_its_share(recipe):
    found = pictures(recipe)
    parts = recipe("split").split(found, PARAMETERS)
    totals = collections.Counter(picture.kind for picture in found)
    for part, share in (("test", 0.2), ("validation", 0.15)):
        counts = collections.Counter(path.split("/")[0] for path in parts[part])
        for kind, total in totals.items():
            # One tile has up to five pictures: the share can be missed by half of that.
            assert abs(counts[kind] - share * total) <= 2.5, (part, kind)


def test_split_depends_on_the_seed_alone(recipe):
    found = pictures(recipe)
    split = recipe("split").split
    assert split(found, PARAMETERS) == split(found, PARAMETERS)
    assert split(found, PARAMETERS) != split(found, PARAMETERS | {"seed": 8})


@pytest.fixture
def spectra(recipe):
    thumbnail = recipe("prepare").thumbnail_spectrum
    chance = np.random.default_rng(0)
    first, second = (chance.integers(0, 255, (80, 90), dtype=np.uint8) for _ in range(2))
    brighter = np.clip(first * 1.1 + 5, 0, 255).astype(np.uint8)
    return [thumbnail(pixels) for pixels in (first, second, brighter)]


RULES = {"number_gap": 400, "duplicate_gap": 3000, "duplicate_correlation": 0.85}


@pytest.mark.parametrize(
    ("numbers", "tiles"),
    [
        ([10, 5000, 10000], [10, 5000, 10000]),
        ([10, 300, 9000], [10, 10, 9000]),
        ([10, 1000, 2500], [10, 1000, 10]),
        ([10, 350, 700], [10, 10, 10]),
    ],
    ids=["far apart", "near numbers", "same picture further on", "chain"],
)
def test_tile_numbers(recipe, spectra, numbers, tiles):
    assert recipe("prepare").tile_numbers(numbers, spectra, RULES) == tiles


def test_committed_split_is_grouped_and_complete(recipe, tiles):
    prepare = recipe("prepare")
    parameters = recipe("params").load()
    kinds = (*recipe("params").DEFECTS, "free")
    found = [picture for kind in kinds for picture in prepare.list_class(tiles, kind, parameters["prepare"])]
    assert recipe("split").split(found, parameters["split"]) == json.loads((RECIPE / "split.json").read_text())


def test_every_other_exposure_of_a_tile_is_held(recipe):
    data = recipe("data")

    def example(kind, tile, number):
        fields = {"kind": kind, "tile": tile, "path": f"{kind}/exp{number}.jpg"}
        picture = type("Picture", (), fields)()
        return data.Example(picture, None, None)

    test = [example("crack", "a", number) for number in (3, 1, 2, 5, 4)] + [example("crack", "b", 9)]
    learn, held = data.hold_out(test)
    names = [[e.picture.path[-5] for e in part] for part in (learn, held)]
    assert names == [["2", "4"], ["1", "3", "5", "9"]]
