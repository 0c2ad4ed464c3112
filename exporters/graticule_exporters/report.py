"""`parity.md`: the parity report for people."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from graticule_exporters.parity import Comparison, Report


def to_markdown(report: Report, title: str, facts: Mapping[str, str], speed: Mapping[str, float]) -> str:
    """A page: the verdict, where the model comes from, one line for each case."""
    verdict = "The converted model answers as the trained one." if report.passed else "The answers differ too much."
    lines = [f"# Parity of {title}", "", f"**{verdict}**", ""]
    lines += [f"* {name}: {value}" for name, value in facts.items() if value]
    lines += ["", "| inputs | batch | size | largest difference | mean | IoU of masks | label changes | |"]
    lines += ["| --- | --- | --- | --- | --- | --- | --- | --- |"]
    lines += [_row(case) for case in report.cases]
    lines += ["", *_limits(report)]
    if speed:
        lines += ["", "| precision | ms for one picture on this machine's processor |", "| --- | --- |"]
        lines += [f"| {name} | {value:.1f} |" for name, value in speed.items()]
    return "\n".join(lines) + "\n"


def failure(report: Report) -> str:
    """One sentence: where the answers differ most, and how."""
    case = report.cases[report.worst]
    failed = sum(not one.passed for one in report.cases)
    return (
        f"{failed} of {len(report.cases)} comparisons failed; the worst: {case.inputs}, batch {case.batch},"
        f" {case.size[0]} x {case.size[1]} px: {'; '.join(case.faults)}."
    )


def success(report: Report) -> str:
    """One sentence: how near the answers are."""
    iou = "" if report.lowest_mask_iou is None else f", masks agree to {report.lowest_mask_iou:.4f} (IoU)"
    return f"{len(report.cases)} comparisons: largest difference {report.max_difference:.1e}{iou}."


def _row(case: Comparison) -> str:
    iou = "" if case.mask_iou is None else f"{case.mask_iou:.4f}"
    changes = "" if case.label_changes is None else f"{case.label_changes:.3%}"
    verdict = "; ".join(case.faults) or "good"
    return (
        f"| {case.inputs} | {case.batch} | {case.size[0]} x {case.size[1]} | {_number(case.max_difference)} |"
        f" {_number(case.mean_difference)} | {iou} | {changes} | {verdict} |"
    )


def _number(value: float) -> str:
    return f"{value:.1e}" if math.isfinite(value) else "no answer"


def _limits(report: Report) -> Iterator[str]:
    limits = report.limits
    if limits.difference is not None:
        yield f"Limits: a number may differ by {limits.difference:g} of the largest one (at least of 1);"
    else:
        yield "Limits, for what looks like pictures:"
    yield (
        f"masks must agree to {limits.mask_iou:g} (IoU), their share of the picture to {limits.area_fraction:g}, and"
        f" at most {limits.label_changes:.2%} of the labels may change."
    )
