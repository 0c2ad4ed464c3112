"""Stage `export`: write the model folder (model.onnx, manifest.yaml, parity.json) from the checkpoint."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
import yaml

import params
from checkpoint import load_network
from data import load_part
from network import STRIDE, TileNet
from parity import report
from predict import Logits, prepare_input
from train import as_logits

LARGEST = 10_000_000
"""Bytes: the file lies in git."""
DATA = "Magnetic-tile-defect-datasets (Huang et al., Saliency of magnetic tile surface defects)"
WARM_UP = ((224, 224), (256, 256), (352, 352), (384, 256))


def session_logits(path: Path) -> Logits:
    """The ONNX file as a function of arrays."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def logits(pixels: np.ndarray) -> np.ndarray:
        return session.run(["logits"], {"image": pixels})[0]

    return logits


def export_network(network: TileNet, path: Path, opset: int) -> None:
    """Write one ONNX file with free batch, height and width."""
    network.eval()
    free = {0: "batch", 2: "height", 3: "width"}
    torch.onnx.export(
        network,
        (torch.zeros(1, 1, 8 * STRIDE, 8 * STRIDE),),
        str(path),
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": free, "logits": free},
        opset_version=opset,
        # The older exporter folds the norms into the convolutions and needs no external data.
        dynamo=False,
    )
    onnx.checker.check_model(str(path), full_check=True)
    if path.stat().st_size > LARGEST:
        raise SystemExit(f"{path} has {path.stat().st_size:,} bytes, more than the {LARGEST:,} that fit into git")


def parity_inputs(folder: Path, index: Path, split: Path) -> list[tuple[str, np.ndarray]]:
    """Random inputs of two shapes and two batch sizes, and test pictures of every class, alone and as a batch."""
    chance = np.random.default_rng(0)
    shapes = [(1, 1, 256, 256), (3, 1, 256, 256), (1, 1, 192, 352), (2, 1, 192, 352)]
    inputs = [("random", chance.random(shape, dtype=np.float32)) for shape in shapes]
    examples = load_part(folder, index, split, "test")
    firsts = {example.picture.kind: example for example in reversed(examples)}
    whole = {kind: prepare_input(example.pixels) for kind, example in sorted(firsts.items())}
    inputs += [(f"picture of {kind}", pixels) for kind, pixels in whole.items()]
    height, width = (min(pixels.shape[axis] for pixels in whole.values()) for axis in (2, 3))
    inputs.append(("one picture a class", np.concatenate([pixels[..., :height, :width] for pixels in whole.values()])))
    return inputs


def manifest(
    version: str, model: Path, checkpoint: Path, metrics: dict[str, Any], parity: dict[str, Any]
) -> dict[str, Any]:
    """The contents of manifest.yaml; its schema is `graticule.manifest.Manifest`."""
    free = ["batch", "height", "width"]
    post = metrics["postprocessing"]
    test, held = metrics["test"], metrics["held_exposures"]
    return {
        "schema_version": 1,
        "name": "tile-defects",
        "version": version,
        "task": "semantic-segmentation",
        "title": "Surface defects of magnetic tiles",
        "description": "Finds blowholes, breaks, cracks, frays and uneven areas on photographs of magnetic tiles.",
        "license": "Apache-2.0",
        "inputs": [{"name": "image", "shape": [free[0], 1, *free[1:]], "type": "float32"}],
        "outputs": [{"name": "logits", "shape": [free[0], len(params.CLASSES), *free[1:]], "type": "float32"}],
        "preprocessing": {
            "colour": "grey",
            "resize": None,
            "size": {"policy": "multiple-of", "multiple": STRIDE},
            "padding": {"mode": "constant", "value": 0.0},
            "normalisation": {"kind": "scale"},
        },
        "postprocessing": {
            "activation": "softmax",
            **post,
            "touches_edge_buffer": 8,
            "classes": [
                {"index": index, "name": name, "colour": colour}
                for index, (name, colour) in enumerate(zip(params.CLASSES, params.COLOURS, strict=True))
            ],
        },
        "batch": {"maximum": 8},
        "warm_up": {"shapes": [list(shape) for shape in WARM_UP]},
        "precision": "float32",
        "model": {"file": model.name, "sha256": hashlib.sha256(model.read_bytes()).hexdigest()},
        "provenance": {
            "framework": "pytorch",
            "framework_version": str(torch.__version__),
            "source_sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
            "training_data": DATA,
            "metrics": {
                "held_exposures_native": held["native"],
                "held_exposures_reference_frame": held["reference_frame"],
                "held_exposures_false_alarms": held["false_alarms"],
                "before_refit_unseen_tiles_native": test["native"],
                "before_refit_unseen_tiles_reference_frame": test["reference_frame"],
                "before_refit_unseen_tiles_false_alarms": test["false_alarms"],
            },
            "parity": {key: value for key, value in parity.items() if key != "cases"},
        },
    }


def main() -> None:
    """Export, compare and describe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index", type=Path, default=params.RECIPE / "work/index.json")
    parser.add_argument("--split", type=Path, default=params.RECIPE / "split.json")
    parser.add_argument("--checkpoint", type=Path, default=params.RECIPE / "work/refit/checkpoint.pt")
    parser.add_argument("--metrics", type=Path, default=params.RECIPE / "metrics.json")
    parser.add_argument("--output", type=Path, default=params.PROJECT / "models/tile-defects")
    options = parser.parse_args()
    parameters = params.load()
    folder = params.data_folder(parameters)
    options.output.mkdir(parents=True, exist_ok=True)
    model = options.output / "model.onnx"
    metrics = json.loads(options.metrics.read_text())
    network = load_network(options.checkpoint)
    export_network(network, model, parameters["export"]["opset"])
    inputs = parity_inputs(folder, options.index, options.split)
    threshold = metrics["postprocessing"]["threshold"]
    parity = report(as_logits(network), session_logits(model), inputs, threshold, parameters["export"]["tolerance"])
    (options.output / "parity.json").write_text(json.dumps(parity, indent=1) + "\n")
    if not parity["passed"]:
        raise SystemExit(f"the exported network differs by {parity['max_difference']:.2e}: see parity.json")
    contents = manifest(parameters["export"]["version"], model, options.checkpoint, metrics, parity)
    (options.output / "manifest.yaml").write_text(yaml.safe_dump(contents, sort_keys=False, width=110))
    print(f"{model.stat().st_size:,} bytes, largest difference {parity['max_difference']:.1e}")


if __name__ == "__main__":
    main()
