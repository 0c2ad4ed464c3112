"""Small ONNX models whose answers can be worked out by hand, as model folders."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from graticule.manifest import MANIFEST_FILE, Manifest, Tensor

Trap = Literal["crash", "hang", "wait"]
TRAP_LEVEL = 77
"""Brightness, 0..255: a picture whose brightest pixel is exactly this springs the trap of a model that has one."""
STEEPNESS = 100.0
"""Logit of the brightness model: STEEPNESS * (brightness - 0.5), brightness in 0..1."""


def write_brightness_model(
    folder: Path,
    *,
    name: str = "brightness",
    version: str = "1.0.0",
    extra_logit: float = 0.0,
    trap: Trap | None = None,
    padding: int = 0,
    peak: bool = False,
    **postprocessing: object,
) -> Manifest:
    """A model that calls every pixel brighter than half of the scale a 'bright' object's.

    `trap`: what happens when a picture has a pixel of exactly `TRAP_LEVEL`. `padding`: bytes that make the file larger.
    `peak`: a second output, the class (int64: 0 or 1) of the brightest pixel of each picture.
    """
    folder.mkdir(parents=True, exist_ok=True)
    graph = _brightness_graph(extra_logit, trap)
    if peak:
        _add_peak(graph.graph)
    graph.doc_string = " " * padding
    data = graph.SerializeToString()
    (folder / "model.onnx").write_bytes(data)
    manifest = brightness_manifest(hashlib.sha256(data).hexdigest(), name=name, version=version, **postprocessing)
    if peak:
        outputs = (*manifest.outputs, Tensor(name="peak", shape=("batch",), type="int64"))
        manifest = manifest.model_copy(update={"outputs": outputs})
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


def _brightness_graph(extra_logit: float, trap: Trap | None = None) -> onnx.ModelProto:
    shape = ["batch", 1, "height", "width"]
    nodes, constants = TRAPS[trap]() if trap else ([], [])
    graph = helper.make_graph(
        [
            helper.make_node("Sub", ["image", "half"], ["centred"]),
            helper.make_node("Mul", ["centred", "steepness"], ["steep"]),
            *nodes,
            helper.make_node("Add", ["steep", "trapped" if trap else "extra"], ["logits"]),
        ],
        "brightness",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
        [
            numpy_helper.from_array(np.float32(0.5), "half"),
            numpy_helper.from_array(np.float32(STEEPNESS), "steepness"),
            numpy_helper.from_array(np.float32(extra_logit), "extra"),
            *constants,
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _add_peak(graph: onnx.GraphProto) -> None:
    graph.node.extend(
        [
            helper.make_node("ReduceMax", ["image", "over_picture"], ["brightest"], keepdims=0),
            helper.make_node("Greater", ["brightest", "half"], ["is_bright"]),
            helper.make_node("Cast", ["is_bright"], ["peak"], to=TensorProto.INT64),
        ]
    )
    graph.initializer.append(numpy_helper.from_array(np.array([1, 2, 3]), "over_picture"))
    graph.output.append(helper.make_tensor_value_info("peak", TensorProto.INT64, ["batch"]))


def _distance_to_trap() -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """`distance`: int64, grey levels from `TRAP_LEVEL` to the brightest pixel of the picture that comes nearest."""
    nodes = [
        helper.make_node("ReduceMax", ["image", "within_picture"], ["peaks"], keepdims=0),
        helper.make_node("Mul", ["peaks", "full"], ["levels"]),
        helper.make_node("Round", ["levels"], ["rounded"]),
        helper.make_node("Cast", ["rounded"], ["greys"], to=TensorProto.INT64),
        helper.make_node("Sub", ["greys", "trap_level"], ["differences"]),
        helper.make_node("Abs", ["differences"], ["distances"]),
        helper.make_node("ReduceMin", ["distances"], ["distance"], keepdims=0),
    ]
    constants = [
        numpy_helper.from_array(np.array([1, 2, 3]), "within_picture"),
        numpy_helper.from_array(np.float32(255), "full"),
        numpy_helper.from_array(np.int64(TRAP_LEVEL), "trap_level"),
        numpy_helper.from_array(np.float32(0), "nothing"),
        numpy_helper.from_array(np.int64(0), "none"),
    ]
    return nodes, constants


def _crash() -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Divide the smallest integer by 2 * distance - 1: by -1, it is a signal that ends the process on x86."""
    nodes, constants = _distance_to_trap()
    nodes += [
        helper.make_node("Add", ["distance", "distance"], ["twice"]),
        helper.make_node("Sub", ["twice", "one"], ["divisor"]),
        helper.make_node("Div", ["smallest", "divisor"], ["ratio"]),
        helper.make_node("Cast", ["ratio"], ["ratio_float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["ratio_float", "nothing"], ["zero"]),
        helper.make_node("Add", ["zero", "extra"], ["trapped"]),
    ]
    numbers = {"one": 1, "smallest": np.iinfo(np.int64).min}
    return nodes, [*constants, *(numpy_helper.from_array(np.int64(value), name) for name, value in numbers.items())]


def _loop(turns: int) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Go round and round when the distance is zero."""
    nodes, constants = _distance_to_trap()
    body = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["still"]), helper.make_node("Identity", ["before"], ["after"])],
        "round",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, []),
        ],
    )
    nodes += [
        helper.make_node("Equal", ["distance", "none"], ["caught"]),
        helper.make_node("Cast", ["caught"], ["caught_number"], to=TensorProto.INT64),
        helper.make_node("Mul", ["caught_number", "many"], ["turns"]),
        helper.make_node("Loop", ["turns", "", "extra"], ["trapped"], body=body),
    ]
    return nodes, [*constants, numpy_helper.from_array(np.int64(turns), "many")]


TRAPS = {
    "crash": _crash,
    "hang": lambda: _loop(10**12),  # practically for ever
    "wait": lambda: _loop(25 * 10**6),  # some fifteen seconds
}
