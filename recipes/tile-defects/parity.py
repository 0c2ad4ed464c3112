"""Does the exported network say the same as the trained one?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from predict import Logits, softmax


def compare(trained: Logits, exported: Logits, pixels: np.ndarray, threshold: float) -> dict[str, Any]:
    """Differences of the probabilities, and intersection over union of the masks, for one input (n, 1, h, w)."""
    first, second = softmax(trained(pixels)), softmax(exported(pixels))
    difference = np.abs(first - second)
    masks = [1 - values[:, 0] > threshold for values in (first, second)]
    either = int((masks[0] | masks[1]).sum())
    return {
        "shape": list(pixels.shape),
        "max_difference": float(difference.max()),
        "mean_difference": float(difference.mean()),
        "mask_iou": int((masks[0] & masks[1]).sum()) / either if either else 1.0,
        "mask_pixels": either,
    }


def report(
    trained: Logits, exported: Logits, inputs: Sequence[tuple[str, np.ndarray]], threshold: float, tolerance: float
) -> dict[str, Any]:
    """Compare on all named inputs; `passed` is false where a probability differs by more than the tolerance."""
    cases = [{"input": name} | compare(trained, exported, pixels, threshold) for name, pixels in inputs]
    worst = max(case["max_difference"] for case in cases)
    return {
        "passed": worst <= tolerance,
        "tolerance": tolerance,
        "max_difference": worst,
        "mean_difference": float(np.mean([case["mean_difference"] for case in cases])),
        "lowest_mask_iou": min(case["mask_iou"] for case in cases),
        "cases": cases,
    }
