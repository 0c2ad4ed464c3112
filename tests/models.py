"""Small ONNX models whose answers can be worked out by hand, as model folders."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from graticule.manifest import MANIFEST_FILE, Manifest

STEEPNESS = 100.0
"""Logit of the brightness model: STEEPNESS * (brightness - 0.5), brightness in 0..1."""


def write_brightness_model(
    folder: Path,
    *,
    name: str = "brightness",
    version: str = "1.0.0",
    extra_logit: float = 0.0,
    **postprocessing: object,
) -> Manifest:
    """A model that calls every pixel brighter than half of the scale a 'bright' object's."""
    folder.mkdir(parents=True, exist_ok=True)
    data = _brightness_graph(extra_logit).SerializeToString()
    (folder / "model.onnx").write_bytes(data)
    manifest = brightness_manifest(hashlib.sha256(data).hexdigest(), name=name, version=version, **postprocessing)
    (folder / MANIFEST_FILE).write_text(manifest.to_yaml(), encoding="utf-8")
    return manifest


def brightness_manifest(
    sha256: str = "0" * 64, *, name: str = "brightness", version: str = "1.0.0", **post: object
) -> Manifest:
    """The manifest of the brightness model."""
    return Manifest.model_validate(
        {
            "name": name,
            "version": version,
            "task": "semantic-segmentation",
            "title": "Bright pixels",
            "inputs": [{"name": "image", "shape": ["batch", 1, "height", "width"]}],
            "outputs": [{"name": "logits", "shape": ["batch", 1, "height", "width"]}],
            "preprocessing": {
                "colour": "grey",
                "size": {"policy": "multiple-of", "multiple": 16},
                "normalisation": {"kind": "scale"},
            },
            "postprocessing": {
                "activation": "sigmoid",
                "classes": [{"index": 0, "name": "bright", "colour": "#ff0000"}],
                **post,
            },
            "batch": {"maximum": 4},
            "warm_up": {"shapes": [[64, 64]]},
            "model": {"sha256": sha256},
            "provenance": {"framework": "none"},
        }
    )


def _brightness_graph(extra_logit: float) -> onnx.ModelProto:
    shape = ["batch", 1, "height", "width"]
    graph = helper.make_graph(
        [
            helper.make_node("Sub", ["image", "half"], ["centred"]),
            helper.make_node("Mul", ["centred", "steepness"], ["steep"]),
            helper.make_node("Add", ["steep", "extra"], ["logits"]),
        ],
        "brightness",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
        [
            numpy_helper.from_array(np.float32(0.5), "half"),
            numpy_helper.from_array(np.float32(STEEPNESS), "steepness"),
            numpy_helper.from_array(np.float32(extra_logit), "extra"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
