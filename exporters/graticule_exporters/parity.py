"""The parity gate: does the converted network answer as the trained one, in numbers and in results?"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from graticule.jobs import Message
from graticule.manifest import Postprocessing, Task
from graticule_exporters.network import Array, Feed, Size
from graticule_exporters.pictures import Case

Precision = Literal["float32", "float16", "int8"]
Answer = Callable[[Feed], list[Array]]
"""Runs a network: an array for each output. Pictures have their channels first."""

SEGMENTATION = (Task.SEMANTIC_SEGMENTATION, Task.INSTANCE_SEGMENTATION)


class Limits(Message):
    """How far two networks may differ. A limit that is None is not looked at."""

    difference: float | None = Field(
        description="Largest difference of a number, as a share of the largest number answered, or of 1 if that is"
        " smaller."
    )
    mask_iou: float = Field(
        description="Least intersection over union of the masks: in fp32 of each case, else of all pictures together."
    )
    area_fraction: float = Field(description="Largest difference of the share of the picture that the mask takes.")
    label_changes: float = Field(description="Largest share of pixels (or answers) that get another label.")


LIMITS: dict[Precision, Limits] = {
    "float32": Limits(difference=1e-4, mask_iou=0.999, area_fraction=1e-3, label_changes=1e-3),
    "float16": Limits(difference=None, mask_iou=0.98, area_fraction=5e-3, label_changes=1e-2),
    "int8": Limits(difference=None, mask_iou=0.90, area_fraction=2e-2, label_changes=5e-2),
}
NUMBER_LIMITS: dict[Precision, float] = {"float32": 1e-4, "float16": 1e-2, "int8": 5e-2}
"""Limits of the difference for networks whose answer is a number: there is no result beside it."""


class Comparison(Message):
    """One case, compared."""

    inputs: str = Field(description="What was fed.")
    batch: int
    size: tuple[int, int] = Field(description="Height and width, in pixels.")
    real: bool = Field(description="Looks like what the network will see.")
    max_difference: float = Field(description="Largest absolute difference over all outputs; inf: another shape.")
    mean_difference: float = Field(description="Mean absolute difference.")
    scale: float = Field(description="Largest absolute number that the trained network answered, at least 1.")
    mask_iou: float | None = Field(default=None, description="Intersection over union of the masks; 1 if both empty.")
    mask_pixels: int | None = Field(default=None, description="Pixels in either mask.")
    area_fraction: float | None = Field(default=None, description="Difference of the masks' shares of the picture.")
    label_changes: float | None = Field(default=None, description="Share of pixels or answers with another label.")
    passed: bool
    faults: tuple[str, ...] = Field(default=(), description="What is beyond the limits.")


class Report(Message):
    """All cases of one conversion."""

    passed: bool
    precision: Precision
    way: str = Field(description="How it was converted.")
    limits: Limits
    max_difference: float
    mean_difference: float
    lowest_mask_iou: float | None
    largest_label_changes: float | None
    cases: tuple[Comparison, ...]

    @property
    def worst(self) -> int:
        """Place of the case that differs most, those that fail before those that pass."""
        return max(range(len(self.cases)), key=lambda i: (not self.cases[i].passed, self.cases[i].max_difference))

    def to_json(self) -> str:
        """The text of `parity.json`. An infinite difference is written as null: JSON has no infinity."""
        return json.dumps(_finite(self.model_dump(mode="json")), indent=1) + "\n"


@dataclass(frozen=True)
class Gate:
    """What counts as the same answer."""

    task: Task
    postprocessing: Postprocessing
    precision: Precision
    limits: Limits
    softmax_found: bool = False
    """The converted network gives logits where the trained one gives probabilities."""

    def compare(self, trained: Answer, converted: Answer, cases: Iterable[Case], way: str) -> Report:
        """Compare two networks on all cases. A converted network that fails to run differs infinitely."""
        compared = self._pooled([self._compare(trained, converted, case) for case in cases])
        return Report(
            passed=all(one.passed for one in compared),
            precision=self.precision,
            way=way,
            limits=self.limits,
            max_difference=max(one.max_difference for one in compared),
            mean_difference=float(np.mean([one.mean_difference for one in compared])),
            lowest_mask_iou=min((one.mask_iou for one in compared if one.mask_iou is not None), default=None),
            largest_label_changes=max(
                (one.label_changes for one in compared if one.label_changes is not None), default=None
            ),
            cases=tuple(compared),
        )

    def _pooled(self, compared: list[Comparison]) -> list[Comparison]:
        """Smaller precisions are judged by all masks together: one pixel of a small object says little."""
        masked = [one for one in compared if one.real and one.mask_iou is not None]
        either = sum(one.mask_pixels or 0 for one in masked)
        if self.precision == "float32" or not either:
            return compared
        pooled = sum((one.mask_iou or 0) * (one.mask_pixels or 0) for one in masked) / either
        if pooled >= self.limits.mask_iou:
            return compared
        worst = min(masked, key=lambda one: one.mask_iou or 0)
        fault = (
            f"all masks together have an intersection over union of {pooled:.4f}, less than {self.limits.mask_iou:g}"
        )
        failed = worst.model_copy(update={"passed": False, "faults": (*worst.faults, fault)})
        return [failed if one is worst else one for one in compared]

    def _compare(self, trained: Answer, converted: Answer, case: Case) -> Comparison:
        expected = trained(case.feed)
        try:
            found = converted(case.feed)
        except Exception as error:  # onnxruntime's exceptions share no base class
            return self._unlike(case, f"it cannot be run: {_short(error)}")
        if [array.shape for array in expected] != [array.shape for array in found]:
            shapes = " and ".join(str([tuple(array.shape) for array in some]) for some in (expected, found))
            return self._unlike(case, f"answers of other shapes: expected and found {shapes}")
        if self.softmax_found:
            found = [_softmax(found[0]), *found[1:]]
        return self._measure(case, expected, found)

    def _unlike(self, case: Case, fault: str) -> Comparison:
        return _comparison(
            case, max_difference=math.inf, mean_difference=math.inf, scale=1, passed=False, faults=(fault,)
        )

    def _measure(self, case: Case, expected: list[Array], found: list[Array]) -> Comparison:
        pairs = [(a.astype(np.float64), b.astype(np.float64)) for a, b in zip(expected, found, strict=True)]
        differences = [np.abs(a - b) for a, b in pairs]
        # NaN on both sides is agreement; on one, the worst difference there is.
        differences = [
            np.where(np.isnan(a) & np.isnan(b), 0, np.where(np.isnan(d), np.inf, d))
            for d, (a, b) in zip(differences, pairs, strict=True)
        ]
        numbers = {
            "max_difference": float(max(d.max(initial=0) for d in differences)),
            "mean_difference": float(np.mean([d.mean() for d in differences])),
            "scale": float(max(1, *(np.nan_to_num(np.abs(a)).max(initial=0) for a, _ in pairs))),
            **self._results(expected[0], found[0]),
        }
        faults = tuple(self._faults(numbers, real=case.real))
        return _comparison(case, **numbers, passed=not faults, faults=faults)

    def _results(self, expected: Array, found: Array) -> dict[str, float | int]:
        """What a user would see of the difference."""
        if self.task in SEGMENTATION and expected.ndim == 4:
            return _mask_differences(self._probabilities(expected), self._probabilities(found), self.postprocessing)
        if self.task is Task.LABEL_DISTRIBUTION:
            changed = expected.argmax(axis=1) != found.argmax(axis=1)
            return {"label_changes": float(changed.mean())}
        return {}

    def _probabilities(self, answer: Array) -> Array:
        answer = answer.astype(np.float64)
        if self.softmax_found:
            return answer
        if self.postprocessing.activation == "softmax":
            return _softmax(answer)
        if self.postprocessing.activation == "sigmoid":
            return 1 / (1 + np.exp(-np.clip(answer, -500, 500)))
        return answer

    def _faults(self, numbers: dict[str, float | int], *, real: bool) -> Iterator[str]:
        limits = self.limits
        if limits.difference is not None:
            most = limits.difference * numbers["scale"]
            if not numbers["max_difference"] <= most:
                yield f"a number differs by {numbers['max_difference']:.2g}, more than {most:.2g}"
        # What a smaller precision makes of pictures that it will never see is reported, but is no reason to refuse.
        if not real and self.precision != "float32":
            return
        if self.precision == "float32" and numbers.get("mask_iou", 1) < limits.mask_iou:
            yield f"the masks' intersection over union is {numbers['mask_iou']:.4f}, less than {limits.mask_iou:g}"
        if numbers.get("area_fraction", 0) > limits.area_fraction:
            yield f"the mask's share differs by {numbers['area_fraction']:.2g}, more than {limits.area_fraction:g}"
        if numbers.get("label_changes", 0) > limits.label_changes:
            yield f"{numbers['label_changes']:.2%} of the labels change, more than {limits.label_changes:.2%}"


def limits_for(precision: Precision, task: Task, difference: float | None) -> Limits:
    """The limits for a precision; `difference` is the user's own for the numbers."""
    limits = LIMITS[precision]
    if difference is None and task is Task.REGRESSION:
        difference = NUMBER_LIMITS[precision]
    return limits if difference is None else limits.model_copy(update={"difference": difference})


def agrees_at(report: Report, size: Size, batch: int | None = None) -> bool:
    """Whether every case of one size (and batch) passed."""
    chosen = [case for case in report.cases if case.size == size and batch in (None, case.batch)]
    return bool(chosen) and all(case.passed for case in chosen)


def _comparison(case: Case, **measured: object) -> Comparison:
    told = {"inputs": case.name, "batch": case.batch, "size": case.size, "real": case.real}
    return Comparison.model_validate(told | measured)


def _softmax(logits: Array) -> Array:
    shifted = logits - logits.max(axis=1, keepdims=True)
    powers = np.exp(shifted)
    return powers / powers.sum(axis=1, keepdims=True)


def _mask_differences(expected: Array, found: Array, spec: Postprocessing) -> dict[str, float | int]:
    masks, labels = zip(*(_mask_and_labels(values, spec) for values in (expected, found)), strict=True)
    either = int((masks[0] | masks[1]).sum())
    both = int((masks[0] & masks[1]).sum())
    shares = [mask.mean(axis=(1, 2)) for mask in masks]
    return {
        "mask_iou": both / either if either else 1.0,
        "mask_pixels": either,
        "area_fraction": float(np.abs(shares[0] - shares[1]).max()),
        "label_changes": float((labels[0] != labels[1]).mean()),
    }


def _mask_and_labels(probabilities: Array, spec: Postprocessing) -> tuple[Array, Array]:
    """As a worker reads them: foreground, and the class of each pixel of it (-1: none)."""
    first = 1 if spec.has_background else 0
    foreground = 1 - probabilities[:, 0] if spec.has_background else probabilities.max(axis=1)
    mask = foreground > spec.threshold
    return mask, np.where(mask, probabilities[:, first:].argmax(axis=1), -1)


def _short(error: object) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:199] + "…"


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
