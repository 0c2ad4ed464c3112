"""Counts of pixels and the figures made from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Counts:
    """Pixels of a comparison; sums pool several pictures."""

    both: int = 0
    """Defect in truth and prediction."""
    truth: int = 0
    """Defect in the truth."""
    prediction: int = 0
    """Defect in the prediction."""
    pixels: int = 0
    """All."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.both + other.both,
            self.truth + other.truth,
            self.prediction + other.prediction,
            self.pixels + other.pixels,
        )

    @property
    def dice(self) -> float:
        """2 * both / (truth + prediction), 0..1; 1 where neither has a defect."""
        total = self.truth + self.prediction
        return 2 * self.both / total if total else 1.0

    @property
    def jaccard(self) -> float:
        """both / either, 0..1; 1 where neither has a defect."""
        either = self.truth + self.prediction - self.both
        return self.both / either if either else 1.0

    @property
    def accuracy(self) -> float:
        """Share of the pixels on which truth and prediction agree, 0..1; 1 without pixels."""
        wrong = self.truth + self.prediction - 2 * self.both
        return 1 - wrong / self.pixels if self.pixels else 1.0


def count(truth: np.ndarray, prediction: np.ndarray) -> Counts:
    """Compare two masks of one shape; non-zero is defect."""
    if truth.shape != prediction.shape:
        raise ValueError(f"truth is {truth.shape}, prediction {prediction.shape}")
    truth, prediction = truth != 0, prediction != 0
    return Counts(int((truth & prediction).sum()), int(truth.sum()), int(prediction.sum()), truth.size)
