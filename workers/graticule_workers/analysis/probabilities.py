"""What a network's output says of each pixel."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graticule.manifest import Postprocessing

Output = NDArray[Any]
"""float32, classes x height x width, as the network gives it: logits or probabilities, see the manifest."""


def evidence(output: Output, spec: Postprocessing) -> list[NDArray[Any]]:
    """What objects are measured by: the foreground probability, then that of each class without the background.

    `output`: classes x any shape; each array of the answer has that shape.
    """
    if spec.activation == "softmax":
        weights = np.exp(output - output.max(axis=0))
        weights /= weights.sum(axis=0)
        return [1 - weights[0], *weights[1:]]
    classes = 1 / (1 + np.exp(-output)) if spec.activation == "sigmoid" else output
    return [classes.max(axis=0), *classes]


def foreground(output: Output, spec: Postprocessing) -> NDArray[Any]:
    """The pixels whose foreground probability is above the threshold: bool, height x width."""
    if spec.activation != "softmax":
        return evidence(output.max(axis=0, keepdims=True), spec)[0] > spec.threshold
    # Most pixels are far from being an object's: they are spared the exponentials.
    flat = output.reshape(len(output), -1)
    likely = np.flatnonzero(flat[1:].max(axis=0) - flat[0] > _least_lead(spec))
    mask = np.zeros(flat.shape[1], bool)
    mask[likely] = evidence(flat.take(likely, axis=1), spec)[0] > spec.threshold
    return mask.reshape(output.shape[1:])


def _least_lead(spec: Postprocessing) -> float:
    """What the largest logit must have ahead of the background's at least, when all others are as large."""
    if spec.threshold in (0, 1):
        return -math.inf
    odds = spec.threshold / (1 - spec.threshold)
    return math.log(odds / (len(spec.classes) - 1)) - 0.01  # far more than rounding
