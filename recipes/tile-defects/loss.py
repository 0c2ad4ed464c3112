"""What training minimises."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from augment import OUTSIDE


def soft_dice(probability: Tensor, truth: Tensor) -> Tensor:
    """1 - dice of soft masks (0..1) with counts pooled over the whole batch; any shape, both alike."""
    intersection = (probability * truth).sum()
    return 1 - (2 * intersection + 1) / (probability.sum() + truth.sum() + 1)


def segmentation_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy, dice of defect against background and mean dice of the classes present.

    logits (n, classes, h, w) float32; labels (n, h, w) int64, `OUTSIDE` where nothing is to be learnt.
    """
    entropy = F.cross_entropy(logits, labels, ignore_index=OUTSIDE)
    inside = labels != OUTSIDE
    probabilities = logits.softmax(1) * inside[:, None]
    background = probabilities[:, 0]
    defect = soft_dice(inside.float() - background, (inside & (labels > 0)).float())
    present = [index for index in range(1, logits.shape[1]) if bool((labels == index).any())]
    if not present:
        return entropy + defect
    classes = [soft_dice(probabilities[:, index], (labels == index).float()) for index in present]
    return entropy + defect + 0.5 * torch.stack(classes).mean()


def supervised_loss(outputs: tuple[Tensor, Tensor, Tensor], labels: Tensor) -> Tensor:
    """Loss of the logits and, weighing less, of the auxiliary logits at 1/4 and 1/8 of the size."""
    logits, quarter, eighth = (output.float() for output in outputs)
    total = segmentation_loss(logits, labels)
    total = total + 0.3 * segmentation_loss(quarter, labels[:, 2::4, 2::4])
    return total + 0.2 * segmentation_loss(eighth, labels[:, 4::8, 4::8])
