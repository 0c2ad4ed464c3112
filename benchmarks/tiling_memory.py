"""Peak memory of one process that segments a large picture through a 512 px network, and where its time goes.

Each case runs in a process of its own, because the peak of a process never falls. The network is small and has random
weights: what is measured is the memory and the time of everything around it. `python -m benchmarks.tiling_memory` runs
one case and prints it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks.bare import open_session
from benchmarks.figures import Figure, figure
from graticule.manifest import Manifest, Postprocessing
from graticule_producers.simulate import draw_tile
from graticule_workers.analysis.probabilities import evidence
from graticule_workers.engine.session import usable_cores
from graticule_workers.pipelines.preprocess import prepare
from graticule_workers.pipelines.segmentation import Infer, encode_mask, segment

CLASSES = (1, 6)
TYPES = ("uint8", "uint16")
SIDE, TILE, OVERLAP = 8192, 512, 128

_COVERED = 0.05
"""Share of the picture that objects cover."""


def measure(side: int = SIDE) -> list[Figure]:
    """Memory and seconds of a picture of `side` x `side` pixels, for each number of classes and type of pixels."""
    return [made for classes in CLASSES for dtype in TYPES for made in _figures(side, classes, dtype)]


def _figures(side: int, classes: int, dtype: str) -> list[Figure]:
    case = [f"--side={side}", f"--classes={classes}", f"--dtype={dtype}"]
    child = subprocess.run(
        [sys.executable, "-m", "benchmarks.tiling_memory", *case], stdout=subprocess.PIPE, check=True, text=True
    )
    found = json.loads(child.stdout)
    group = f"{side:,} x {side:,} {dtype} in tiles of {TILE} px, classes: {classes}"
    return [
        figure(group, "peak memory", "MB", [found["peak_mb"]]),
        figure(group, "peak memory before: the picture and two runs of the network", "MB", [found["before_mb"]]),
        figure(group, "whole", "s", [found["seconds"]]),
        *(figure(group, f"stage {stage}", "s", [seconds]) for stage, seconds in found["stages"].items()),
    ]


def _run_case(side: int, classes: int, dtype: str) -> dict[str, Any]:
    cv2.setNumThreads(1)  # as in the worker
    manifest, pixels = _manifest(classes), _picture(side, dtype)
    infer = _network(classes)
    for _ in range(2):  # its arena grows to what a full batch takes
        infer(np.zeros((manifest.batch.maximum, 1, TILE, TILE), np.float32))
    spec = _covering(pixels, infer, manifest)
    stages: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def timed(stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        stages[stage] += time.perf_counter() - began

    before, began = _peak_mb(), time.perf_counter()
    found = segment(pixels, manifest, spec, infer, timed)
    with timed("encode the mask"):
        encode_mask(found.labels)
    return {
        "peak_mb": _peak_mb(),
        "before_mb": before,
        "seconds": time.perf_counter() - began,
        "stages": dict(stages),
        "objects": found.measurements.count,
    }


def _picture(side: int, dtype: str) -> NDArray[Any]:
    """The same simulated surface again and again."""
    surface = draw_tile(7, 0, (1024, 1024)).pixels.astype(dtype)
    surface *= np.iinfo(dtype).max // 255
    times = -(-side // 1024)
    return np.ascontiguousarray(np.tile(surface, (times, times))[:side, :side])


def _network(classes: int) -> Infer:
    session = open_session(_graph(classes), usable_cores())
    return lambda batch: np.asarray(session.run(None, {"image": batch})[0])


def _graph(classes: int) -> bytes:
    """Convolutions at a quarter of the size, smoothed so that there are objects and not only specks, then back."""
    generator = np.random.default_rng(2026)
    shapes = {"w0": (16, 1, 7, 7), "w1": (32, 16, 3, 3), "w2": (classes, 32, 1, 1)}
    weights = {name: generator.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape) for name, shape in shapes.items()}
    weights["scales"] = np.array([1, 1, 4, 4])
    tensor = ["batch", None, "height", "width"]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "w0"], ["a"], strides=[4, 4], pads=[3, 3, 3, 3]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Conv", ["b", "w1"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["d"]),
            helper.make_node("AveragePool", ["d"], ["e"], kernel_shape=[5, 5], pads=[2, 2, 2, 2]),
            helper.make_node("Conv", ["e", "w2"], ["f"]),
            helper.make_node("Resize", ["f", "", "scales"], ["logits"], mode="linear"),
        ],
        "random",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, tensor)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, tensor)],
        [numpy_helper.from_array(values.astype(np.float32), name) for name, values in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return model.SerializeToString()


def _manifest(classes: int) -> Manifest:
    names = ["object"] if classes == 1 else ["background", *(f"class {i}" for i in range(1, classes))]
    return Manifest.model_validate(
        {
            "name": "bench-tiles",
            "version": "1.0.0",
            "task": "semantic-segmentation",
            "title": "Random weights, for benchmarks",
            "inputs": [{"name": "image", "shape": ["batch", 1, TILE, TILE]}],
            "outputs": [{"name": "logits", "shape": ["batch", classes, TILE, TILE]}],
            "preprocessing": {
                "size": {"policy": "tiled", "height": TILE, "width": TILE, "multiple": 4, "overlap": OVERLAP},
                "normalisation": {"kind": "minmax"},
            },
            "postprocessing": {
                "activation": "sigmoid" if classes == 1 else "softmax",
                "minimum_area": 80,
                "fill_holes": 64,
                "classes": [{"index": i, "name": name, "colour": "#ff0000"} for i, name in enumerate(names)],
            },
            "batch": {"maximum": 8},
            "model": {"sha256": "0" * 64},
            "provenance": {"framework": "none", "training_data": "none: random weights"},
        }
    )


def _covering(pixels: NDArray[Any], infer: Infer, manifest: Manifest) -> Postprocessing:
    """The threshold that leaves `_COVERED` of one tile to objects."""
    tile = prepare(pixels[:TILE, :TILE], manifest.preprocessing).tensor
    foreground = evidence(infer(tile[np.newaxis])[0], manifest.postprocessing)[0]
    return manifest.postprocessing.model_copy(update={"threshold": float(np.quantile(foreground, 1 - _COVERED))})


def _peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def main() -> None:
    """Run one case and print it as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tiling_memory", description=__doc__)
    parser.add_argument("--side", type=int, default=SIDE, help="height and width of the picture, px")
    parser.add_argument("--classes", type=int, choices=CLASSES, default=CLASSES[-1])
    parser.add_argument("--dtype", choices=TYPES, default=TYPES[0])
    options = parser.parse_args()
    print(json.dumps(_run_case(options.side, options.classes, options.dtype)))


if __name__ == "__main__":
    main()
