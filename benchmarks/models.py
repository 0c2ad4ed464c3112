"""The models that are measured: the one that ships, a heavier U-Net, and one that costs nothing."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from graticule.manifest import MANIFEST_FILE, Manifest
from graticule.registry import shipped_models_dir

TILE, UNET, NOOP = "tile-defects", "bench-unet", "bench-noop"

WIDTHS = (32, 64, 128, 256, 512)
"""Channels of the U-Net at 1/2, 1/4, ... 1/32 of the picture's size: 7.8 million parameters."""

DARK = 0.1
"""Both made models call darker pixels an object's: few and small ones on a simulated tile."""
STEEPNESS = 50.0
"""Logit for each unit of brightness."""

_SEED = 2026
_SHAPE = ("batch", 1, "height", "width")
_OPSET, _IR_VERSION = 18, 9


@dataclass(frozen=True)
class BenchModel:
    """A model folder and the pictures that go with it."""

    name: str
    side: int
    """Height and width of its pictures, pixels."""
    folder: Path


def prepare_models(folder: Path) -> dict[str, BenchModel]:
    """The three models by name; those that are made are written below `folder`."""
    return {
        TILE: BenchModel(TILE, 256, shipped_models_dir() / TILE),
        UNET: BenchModel(
            UNET, 512, _write(folder / UNET, UNET, _unet_graph(WIDTHS), multiple=2 ** len(WIDTHS), side=512)
        ),
        NOOP: BenchModel(NOOP, 256, _write(folder / NOOP, NOOP, _noop_graph(), multiple=1, side=256)),
    }


@dataclass
class _Graph:
    """A network under construction. Each method adds a layer and gives the name of its output."""

    random: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def add(self, operator: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:  # noqa: ANN401
        output = output or f"x{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def constant(self, values: float | NDArray[Any]) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
        return name

    def convolution(self, x: str, inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> str:
        """Convolution and ReLU, padded so that only the stride changes the size."""
        weights = self._he(inputs * kernel**2, (outputs, inputs, kernel, kernel))
        convolved = self.add(
            "Conv", [x, weights], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[kernel // 2] * 4
        )
        return self.add("Relu", [convolved])

    def pair(self, x: str, inputs: int, outputs: int) -> str:
        """Two convolutions, as a U-Net has them at every level."""
        return self.convolution(self.convolution(x, inputs, outputs), outputs, outputs)

    def enlarge(self, x: str, inputs: int, outputs: int) -> str:
        """Twice the height and width."""
        weights = self._he(inputs, (inputs, outputs, 2, 2))
        return self.add("ConvTranspose", [x, weights], kernel_shape=[2, 2], strides=[2, 2])

    def _he(self, fan_in: int, shape: tuple[int, ...]) -> str:
        return self.constant(self.random.normal(0, math.sqrt(2 / fan_in), shape))

    def darkness(self, output: str) -> str:
        """Logits of dark pixels: STEEPNESS * (DARK - image)."""
        scaled = self.add("Mul", ["image", self.constant(-STEEPNESS)])
        return self.add("Add", [scaled, self.constant(STEEPNESS * DARK)], output)

    def finish(self, name: str) -> onnx.ModelProto:
        """The model, from `image` to `logits`."""
        graph = helper.make_graph(
            self.nodes,
            name,
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, _SHAPE)],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, _SHAPE)],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)


def _unet_graph(widths: Sequence[int]) -> onnx.ModelProto:
    """A U-Net with random weights. They hardly touch the logits, so that the masks stay those of dark pixels."""
    graph = _Graph(np.random.default_rng(_SEED))
    x = graph.convolution("image", 1, widths[0], kernel=5, stride=2)
    x = graph.pair(x, widths[0], widths[0])
    skips: list[str] = []
    for above, width in itertools.pairwise(widths):
        skips.append(x)
        x = graph.pair(graph.add("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2]), above, width)
    for above, width in reversed(list(itertools.pairwise(widths))):
        x = graph.add("Concat", [graph.enlarge(x, width, above), skips.pop()], axis=1)
        x = graph.pair(x, 2 * above, above)
    whisper = graph.add("Mul", [graph.enlarge(x, widths[0], 1), graph.constant(1e-3)])
    graph.add("Add", [graph.darkness("dark"), whisper], "logits")
    return graph.finish(UNET)


def _noop_graph() -> onnx.ModelProto:
    graph = _Graph(np.random.default_rng(_SEED))
    graph.darkness("logits")
    return graph.finish(NOOP)


def _write(folder: Path, name: str, model: onnx.ModelProto, *, multiple: int, side: int) -> Path:
    folder.mkdir(parents=True)
    data = model.SerializeToString()
    (folder / "model.onnx").write_bytes(data)
    manifest = _manifest(name, hashlib.sha256(data).hexdigest(), multiple, side)
    (folder / MANIFEST_FILE).write_text(manifest.to_yaml(), encoding="utf-8")
    return folder


def _manifest(name: str, sha256: str, multiple: int, side: int) -> Manifest:
    return Manifest.model_validate(
        {
            "name": name,
            "version": "1.0.0",
            "task": "semantic-segmentation",
            "title": "Dark pixels, for benchmarks",
            "inputs": [{"name": "image", "shape": _SHAPE}],
            "outputs": [{"name": "logits", "shape": _SHAPE}],
            "preprocessing": {
                "colour": "grey",
                "size": {"policy": "multiple-of", "multiple": multiple},
                "normalisation": {"kind": "scale"},
            },
            "postprocessing": {
                "activation": "sigmoid",
                "minimum_area": 20,
                "classes": [{"index": 0, "name": "dark", "colour": "#ff0000"}],
            },
            "batch": {"maximum": 8},
            "warm_up": {"shapes": [[side, side]]},
            "model": {"sha256": sha256},
            "provenance": {"framework": "none", "training_data": "none: random weights"},
        }
    )
