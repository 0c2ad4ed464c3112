"""Pictures and labels in memory, and the batches that training draws from them."""

from __future__ import annotations

import json
import queue
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import params
from augment import Augmenter
from prepare import Picture, read_grey, read_index


@dataclass(frozen=True)
class Example:
    """One picture with its truth."""

    picture: Picture
    pixels: np.ndarray
    """uint8, (height, width)."""
    labels: np.ndarray
    """uint8, (height, width): index into `params.CLASSES`."""

    @property
    def defective(self) -> bool:
        """Whether the picture belongs to a defect class."""
        return self.picture.kind != params.FREE


def load_example(folder: Path, picture: Picture) -> Example:
    """Read one picture and its mask; any non-zero pixel of the mask is defect."""
    pixels = read_grey(folder / picture.path)
    mask = read_grey(folder / picture.mask) > 0
    if mask.shape != pixels.shape:
        raise SystemExit(f"{picture.path}: {pixels.shape} pixels but a mask of {mask.shape}")
    index = 0 if picture.kind == params.FREE else params.CLASSES.index(picture.kind)
    return Example(picture, pixels, mask.astype(np.uint8) * index)


def load_part(folder: Path, index: Path, split: Path, part: str) -> list[Example]:
    """All examples of one part of the split."""
    pictures = {picture.path: picture for picture in read_index(index)}
    return [load_example(folder, pictures[path]) for path in json.loads(split.read_text())[part]]


def hold_out(test: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """(to be learnt, held): of each tile's exposures, in the order of their names, every other one is held."""
    tiles: defaultdict[tuple[str, str], list[Example]] = defaultdict(list)
    for example in sorted(test, key=lambda example: example.picture.path):
        tiles[example.picture.kind, example.picture.tile].append(example)
    learn = [example for members in tiles.values() for example in members[1::2]]
    held = [example for members in tiles.values() for example in members[::2]]
    return learn, held


class Sampler:
    """Draws augmented batches: the class by its share, then a tile, then one of its pictures.

    Tiles weigh alike, however many exposures they have.
    """

    def __init__(self, examples: Sequence[Example], train: dict[str, Any], augment: dict[str, Any]) -> None:
        self.kinds: dict[str, dict[str, list[Example]]] = {}
        for example in examples:
            tiles = self.kinds.setdefault(example.picture.kind, {})
            tiles.setdefault(example.picture.tile, []).append(example)
        shares = np.array([train["shares"][kind] for kind in self.kinds])
        self.shares = shares / shares.sum()
        self.train = train
        self.augmenter = Augmenter(augment)

    def draw(self, chance: np.random.Generator, kind: str | None = None) -> Example:
        """A random example, of one class if asked."""
        kind = kind or str(chance.choice(list(self.kinds), p=self.shares))
        tiles = list(self.kinds[kind].values())
        pictures = tiles[chance.integers(len(tiles))]
        return pictures[chance.integers(len(pictures))]

    def batch(self, chance: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """float32 (n, 1, h, w) in 0..1 and int64 labels (n, h, w); the shape varies from batch to batch."""
        shape = tuple(self.train["shapes"][chance.integers(len(self.train["shapes"]))])
        samples = [self.sample(chance, shape) for _ in range(self.train["batch"])]
        pixels, labels = zip(*samples, strict=True)
        return np.stack(pixels)[:, None], np.stack(labels).astype(np.int64)

    def sample(self, chance: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """One augmented crop of the shape."""
        example = self.draw(chance)
        pixels, labels = example.pixels, example.labels
        if not example.defective and chance.random() < self.augmenter.parameters["paste"]:
            kinds = [kind for kind in ("blowhole", "crack") if kind in self.kinds]
            if kinds:
                donor = self.draw(chance, str(chance.choice(kinds)))
                pixels, labels = self.augmenter.paste(chance, pixels, donor.pixels, donor.labels)
        return self.augmenter(chance, pixels, labels, shape)

    def epoch(self, seed: int, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The batches of one epoch; a thread prepares them while the network computes."""
        ready: queue.Queue[tuple[np.ndarray, np.ndarray] | BaseException] = queue.Queue(maxsize=4)
        stop = threading.Event()

        def produce() -> None:
            chance = np.random.default_rng([seed, epoch])
            try:
                for _ in range(self.train["batches"]):
                    item = self.batch(chance)
                    while not stop.is_set():
                        try:
                            ready.put(item, timeout=0.2)
                            break
                        except queue.Full:
                            continue
                    if stop.is_set():
                        return
            except BaseException as error:
                ready.put(error)

        threading.Thread(target=produce, daemon=True).start()
        try:
            for _ in range(self.train["batches"]):
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
