"""Stage `evaluate`: choose the postprocessing on validation, then measure it on the test split.

The network of `train` is measured on whole tiles that it never saw; that of `refit`, which ships, on the exposures
that were held out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import params
from data import Example, hold_out, load_part
from metrics import Counts, count
from predict import Logits, Postprocessing, object_classes, probabilities, to_mask
from sheets import write_sheet


@dataclass(frozen=True)
class Prediction:
    """An example and what the network says about it."""

    example: Example
    values: np.ndarray
    """float32 (classes, height, width), probabilities."""

    @property
    def defect(self) -> np.ndarray:
        """float32 (height, width): probability of any defect."""
        return 1 - self.values[0]


def predict_all(logits: Logits, examples: Iterable[Example]) -> list[Prediction]:
    """Analyse whole pictures at native size."""
    return [Prediction(example, probabilities(logits, example.pixels)) for example in examples]


@dataclass(frozen=True)
class Objects:
    """The objects of one mask before small ones are dropped."""

    areas: np.ndarray
    """Pixels of each object."""
    hits: np.ndarray
    """Pixels of each object that are defect in the truth."""
    truth: int
    """Defect pixels of the truth."""
    pixels: int
    defective: bool

    def counts(self, minimum_area: int) -> Counts:
        """Counts with the objects of at least that many pixels."""
        kept = self.areas >= minimum_area
        return Counts(int(self.hits[kept].sum()), self.truth, int(self.areas[kept].sum()), self.pixels)


def find_objects(prediction: Prediction, threshold: float, fill_holes: int) -> Objects:
    """Objects of one prediction."""
    mask = to_mask(prediction.defect, Postprocessing(threshold, 0, fill_holes))
    number, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    truth = prediction.example.labels > 0
    areas = np.bincount(labels.ravel(), minlength=number)[1:]
    hits = np.bincount(labels[truth], minlength=number)[1:]
    return Objects(areas, hits, int(truth.sum()), truth.size, prediction.example.defective)


def choose(predictions: Sequence[Prediction], parameters: dict[str, Any]) -> Postprocessing:
    """The best pooled dice among the settings that keep the false-alarm rate, else the lowest rate."""
    best: tuple[tuple[bool, float, float], Postprocessing] | None = None
    for threshold in parameters["thresholds"]:
        found = [find_objects(prediction, threshold, parameters["fill_holes"]) for prediction in predictions]
        for area in parameters["minimum_areas"]:
            free = [objects.counts(area).prediction > 0 for objects in found if not objects.defective]
            rate = sum(free) / len(free) if free else 0.0
            dice = sum((objects.counts(area) for objects in found if objects.defective), Counts()).dice
            good = rate <= parameters["false_alarms"]
            score = (good, 0.0 if good else -rate, dice)
            if best is None or score > best[0]:
                best = (score, Postprocessing(threshold, area, parameters["fill_holes"]))
    assert best is not None
    return best[1]


def to_frame(pixels: np.ndarray, side: int) -> np.ndarray:
    """The reference's frame: the short side scaled to `side`, the centre square cut out. uint8 in and out.

    A mask is scaled by nearest neighbour, a picture (see `picture_to_frame`) by area.
    """
    return _centre(_scaled(pixels, side, cv2.INTER_NEAREST), side)


def picture_to_frame(pixels: np.ndarray, side: int) -> np.ndarray:
    """As `to_frame`, for a grey picture."""
    return _centre(_scaled(pixels, side, cv2.INTER_AREA), side)


def _scaled(pixels: np.ndarray, side: int, interpolation: int) -> np.ndarray:
    factor = side / min(pixels.shape)
    size = (max(side, round(pixels.shape[1] * factor)), max(side, round(pixels.shape[0] * factor)))
    return cv2.resize(pixels, size, interpolation=interpolation)


def _centre(pixels: np.ndarray, side: int) -> np.ndarray:
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    return pixels[top : top + side, left : left + side]


def figures(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Pooled and per-picture figures of (truth, prediction) pairs, and the counts that they are made from."""
    each = [count(truth, prediction) for truth, prediction in pairs]
    pooled = sum(each, Counts())
    return {
        "dice": round(pooled.dice, 4),
        "jaccard": round(pooled.jaccard, 4),
        "pixel_accuracy": round(pooled.accuracy, 4),
        "mean_picture_dice": round(float(np.mean([counts.dice for counts in each])), 4),
        "pictures": len(each),
        "pixels": pooled.pixels,
        "truth_pixels": pooled.truth,
        "predicted_pixels": pooled.prediction,
        "common_pixels": pooled.both,
    }


def class_accuracy(predictions: Sequence[Prediction], masks: Sequence[np.ndarray]) -> dict[str, float]:
    """Of the defective pictures with any object, the share in which most objects carry the picture's class."""
    right = found = 0
    for prediction, mask in zip(predictions, masks, strict=True):
        if not prediction.example.defective or not mask.any():
            continue
        votes = np.bincount(object_classes(mask, prediction.values), minlength=len(params.CLASSES))
        found += 1
        right += params.CLASSES[int(votes.argmax())] == prediction.example.picture.kind
    return {"right": right, "pictures": found, "share": round(right / found, 4) if found else 0.0}


def measure(
    predictions: Sequence[Prediction], postprocessing: Postprocessing, logits: Logits, side: int
) -> dict[str, Any]:
    """All figures of one part of the split."""
    masks = [to_mask(prediction.defect, postprocessing) for prediction in predictions]
    defective = [(p.example, mask) for p, mask in zip(predictions, masks, strict=True) if p.example.defective]
    free = [mask for p, mask in zip(predictions, masks, strict=True) if not p.example.defective]
    native = [(example.labels, mask) for example, mask in defective]
    truths = [to_frame(example.labels, side) for example, _ in defective]
    framed = [to_frame(mask.astype(np.uint8), side) for _, mask in defective]
    frames = [probabilities(logits, picture_to_frame(example.pixels, side)) for example, _ in defective]
    analysed = [to_mask(1 - values[0], postprocessing) for values in frames]
    alarms = sum(bool(mask.any()) for mask in free)
    kinds = sorted({example.picture.kind for example, _ in defective})
    return {
        "native": figures(native),
        "reference_frame": figures(list(zip(truths, framed, strict=True))),
        "reference_frame_input": figures(list(zip(truths, analysed, strict=True))),
        "all_pictures_native": figures([(p.example.labels, m) for p, m in zip(predictions, masks, strict=True)]),
        "classes_native": {
            kind: figures([(e.labels, mask) for e, mask in defective if e.picture.kind == kind]) for kind in kinds
        },
        "missed_pictures": sum(not ((e.labels > 0) & mask).any() for e, mask in defective),
        "object_class": class_accuracy(predictions, masks),
        "false_alarms": {
            "rate": round(alarms / len(free), 4) if free else 0.0,
            "alarms": alarms,
            "tiles": len(free),
        },
    }


def write_sheets(predictions: Sequence[Prediction], postprocessing: Postprocessing, folder: Path) -> None:
    """One picture "image / truth / prediction" per example, its dice in the file's name."""
    folder.mkdir(parents=True, exist_ok=True)
    for prediction in predictions:
        example = prediction.example
        mask = to_mask(prediction.defect, postprocessing)
        dice = count(example.labels, mask).dice
        name = f"{example.picture.kind}_{round(dice * 100):03d}_{Path(example.picture.path).stem}.png"
        write_sheet(folder / name, example.pixels, example.labels > 0, mask)


def main() -> None:
    """Evaluate the trained network."""
    # Imported here so that the tests of the shipped model can use this module with onnxruntime alone.
    from tqdm import tqdm

    from checkpoint import load_network
    from train import as_logits

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index", type=Path, default=params.RECIPE / "work/index.json")
    parser.add_argument("--split", type=Path, default=params.RECIPE / "split.json")
    parser.add_argument("--checkpoint", type=Path, default=params.RECIPE / "work/train/checkpoint.pt")
    parser.add_argument("--refit", type=Path, default=params.RECIPE / "work/refit/checkpoint.pt")
    parser.add_argument("--metrics", type=Path, default=params.RECIPE / "metrics.json")
    parser.add_argument("--sheets", type=Path, help="also write a picture per held exposure into this folder")
    options = parser.parse_args()
    parameters = params.load()
    folder = params.data_folder(parameters)
    logits = as_logits(load_network(options.checkpoint))
    parts = {
        part: predict_all(logits, tqdm(load_part(folder, options.index, options.split, part), desc=part, mininterval=5))
        for part in ("validation", "test")
    }
    postprocessing = choose(parts["validation"], parameters["evaluate"])
    side = parameters["evaluate"]["frame"]
    metrics = {part: measure(found, postprocessing, logits, side) for part, found in parts.items()}
    _, held = hold_out([prediction.example for prediction in parts["test"]])
    shipped = as_logits(load_network(options.refit))
    found = predict_all(shipped, tqdm(held, desc="held exposures", mininterval=5))
    metrics["held_exposures"] = measure(found, postprocessing, shipped, side)
    options.metrics.write_text(json.dumps({"postprocessing": postprocessing.as_dict()} | metrics, indent=1) + "\n")
    if options.sheets:
        write_sheets(found, postprocessing, options.sheets)
    print(postprocessing)
    for part in ("test", "held_exposures"):
        brief = {name: metrics[part][name] for name in ("native", "reference_frame", "false_alarms")}
        print(part, json.dumps(brief, indent=1))


if __name__ == "__main__":
    main()
