"""Whether the steps around the model overlap: how much faster two threads are than one, step by step.

A step in a library that releases the interpreter's lock comes near 2 on two free cores; pure Python stays at 1.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.figures import Figure, figure, ratio
from benchmarks.models import TILE, prepare_models
from benchmarks.pictures import tiles
from graticule import formats
from graticule.manifest import read_model_folder
from graticule_workers.analysis.instances import analyse
from graticule_workers.pipelines.preprocess import prepare
from graticule_workers.pipelines.segmentation import encode_mask

_THREADS = 2
_SIDES = (256, 2048)
_ROUND_SECONDS = 0.4


def measure(place: Path, *, rounds: int = 5) -> list[Figure]:
    """Milliseconds of each step in one thread, and the speed of two threads divided by that of one."""
    manifest, _ = read_model_folder(prepare_models(place)[TILE].folder)
    figures = []
    for side in _SIDES:
        data = tiles(1, side=side)[0]
        pixels = formats.decode(data, "x.png").pixels
        output = np.random.default_rng(0).normal(0, 1, (6, side, side)).astype(np.float32)
        output[0] += 20 * (pixels > np.quantile(pixels, 0.02))  # background, but for the darkest pixels
        labels = analyse(output, manifest.postprocessing).labels
        steps: dict[str, Callable[[], object]] = {
            "decode": lambda data=data: formats.decode(data, "x.png"),
            "preprocess": lambda pixels=pixels: prepare(pixels, manifest.preprocessing),
            "analyse": lambda output=output: analyse(output, manifest.postprocessing),
            "encode the mask": lambda labels=labels: encode_mask(labels),
        }
        for name, step in steps.items():
            alone, together = [], []
            for _ in range(rounds):
                alone.append(_speed(step, 1))
                together.append(_speed(step, _THREADS))
            group = f"steps around the model, {side} x {side}"
            figures.append(figure(group, name, "ms", [1000 / speed for speed in alone]))
            figures.append(ratio(group, f"{name}, {_THREADS} threads / 1", together, alone))
    return figures


def _speed(step: Callable[[], object], threads: int) -> float:
    """Steps a second, all threads together."""

    def work(_: int) -> int:
        done = 0
        while not done or time.perf_counter() < end:
            step()
            done += 1
        return done

    with ThreadPoolExecutor(threads) as pool:
        started = time.perf_counter()
        end = started + _ROUND_SECONDS
        return sum(pool.map(work, range(threads))) / (time.perf_counter() - started)
