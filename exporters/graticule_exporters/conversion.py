"""From a trained network to a graph that has proved itself, or a reason why not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from onnx import ModelProto

from graticule.errors import ConversionFailed
from graticule_exporters import graph, precision, sizes
from graticule_exporters.draft import Draft, make_draft
from graticule_exporters.network import Attempt, Network, Port, Size
from graticule_exporters.parity import Gate, Report, agrees_at, limits_for
from graticule_exporters.pictures import Case, Plan, calibration, cases, load_pictures
from graticule_exporters.request import Request
from graticule_exporters.running import milliseconds, runner


@dataclass(frozen=True)
class Policy:
    """The size policy, as far as it follows from the network."""

    size: Size
    """What was exported and tried first."""
    multiple: int
    fixed: bool
    reason: str = ""

    def fields(self) -> dict[str, object]:
        """As in the manifest."""
        if self.fixed:
            height, width = self.size
            return {"policy": "fixed", "height": height, "width": width, "reason": self.reason}
        return {"policy": "multiple-of", "multiple": self.multiple, "reason": self.reason}


@dataclass(frozen=True)
class Conversion:
    """A graph with its proof. When the report did not pass, nothing of it may be used."""

    model: ModelProto
    draft: Draft
    policy: Policy
    report: Report
    worst: Case
    """Inputs of the case that differs most."""
    speed: dict[str, float]
    """Milliseconds of one run at the export size, by precision; empty for float32 alone."""


def convert(network: Network, request: Request) -> Conversion:
    """Convert, compare, and narrow the sizes until the answers agree. Raises ConversionFailed, BadInput."""
    policy = _first_policy(network, request)
    found = _convert_at(network, request, policy)
    if request.precision == "float32" or not found.report.passed:
        return found
    return _reduced(network, request, found)


def plan_for(network: Network, request: Request, draft: Draft, policy: Policy, *, batch: int | None = None) -> Plan:
    """What to feed: other sizes and batches only where the network is free."""
    free_batch = batch is None and network.picture.shape[0] == "batch"
    return Plan(
        inputs=network.inputs,
        normalisation=draft.normalisation,
        sizes=(policy.size,) if policy.fixed else sizes.gate_sizes(policy.size, policy.multiple),
        batches=(1, 3) if free_batch else (batch or _fixed_batch(network),),
        pictures=load_pictures(request.pictures) if request.pictures else (),
    )


def _first_policy(network: Network, request: Request) -> Policy:
    picture = network.picture
    if not picture.is_picture:
        raise ConversionFailed(
            f"None of the network's inputs is a picture: {_written(network.inputs)}. Expected one with four"
            " dimensions: batch, channels, height, width.",
            data="No model was written.",
        )
    _, _, height, width = picture.shape
    if isinstance(height, int) and isinstance(width, int):
        return Policy((height, width), 1, fixed=True)
    try:
        multiple = sizes.multiple_of(network)
    except ConversionFailed:
        if request.size and sizes.takes(network, request.size):
            return Policy(request.size, 1, fixed=True, reason="The network answers in another size at other sizes.")
        raise
    wanted = request.size or network.hints.size or (sizes.USUAL, sizes.USUAL)
    return Policy(sizes.rounded(wanted, multiple), multiple, fixed=False)


def _convert_at(network: Network, request: Request, policy: Policy) -> Conversion:
    fallback: Conversion | None = None
    refused: Conversion | None = None
    for attempt in _attempts(network, policy):
        found = _examined(network, request, policy, attempt)
        if found.report.passed:
            return found
        narrowed = next((one for one in _narrowed(network, request, found) if one.report.passed), None)
        fallback = fallback or narrowed
        refused = refused or found
    chosen = fallback or refused
    if chosen is None:
        raise ConversionFailed("No exporter could say the network in ONNX.", data="No model was written.")
    return chosen


def _attempts(network: Network, policy: Policy) -> Iterator[Attempt]:
    return network.attempts(sizes.example(network.inputs, policy.size, _fixed_batch(network)))


def _examined(network: Network, request: Request, policy: Policy, attempt: Attempt) -> Conversion:
    model = graph.finish(attempt.model, network.inputs, network.outputs, channels_last=attempt.channels_last)
    draft = make_draft(request, network, model)
    if draft.strip_softmax:
        model = graph.without_softmax(model) or model
    return _compared(network, request, draft, policy, model, attempt.way)


def _compared(
    network: Network,
    request: Request,
    draft: Draft,
    policy: Policy,
    model: ModelProto,
    way: str,
    *,
    batch: int | None = None,
) -> Conversion:
    plan = plan_for(network, request, draft, policy, batch=batch)
    fed = list(cases(plan))
    limits = limits_for("float32", draft.task, request.tolerance)
    gate = Gate(draft.task, draft.postprocessing, "float32", limits, softmax_found=draft.strip_softmax)
    report = gate.compare(network.run, runner(model), fed, way)
    return Conversion(model, draft, policy, report, fed[report.worst], {})


def _narrowed(network: Network, request: Request, found: Conversion) -> Iterator[Conversion]:
    """The same graph for the export size alone, and then for single pictures, where it agreed there."""
    policy, report = found.policy, found.report
    if not agrees_at(report, policy.size, 1):
        return
    fault = report.cases[report.worst]
    what = fault.faults[0].partition(": ")[0]
    reason = (
        f"The converted network agrees at {policy.size[0]} x {policy.size[1]} px only: at {fault.size[0]} x"
        f" {fault.size[1]} px, batch {fault.batch}, {what}."
    )
    height, width = policy.size
    for batch in (None, 1):
        model = graph.frozen(found.model, batch=batch, height=height, width=width)
        fixed = replace(policy, fixed=True, reason=reason)
        yield _compared(network, request, found.draft, fixed, model, f"{report.way}, fixed size", batch=batch)


def _reduced(network: Network, request: Request, full: Conversion) -> Conversion:
    """The first reduction that keeps the results, else the one that comes nearest."""
    batch = next((case.batch for case in full.report.cases), 1) if _fixed_batch(network) == 1 else None
    plan = plan_for(network, request, full.draft, full.policy, batch=batch)
    fed = list(cases(plan))
    feeds = calibration(plan)
    limits = limits_for(request.precision, full.draft.task, request.tolerance)
    gate = Gate(full.draft.task, full.draft.postprocessing, request.precision, limits, full.draft.strip_softmax)
    nearest: Conversion | None = None
    for way, model in precision.reductions(full.model, request.precision, feeds):
        report = gate.compare(network.run, runner(model), fed, f"{full.report.way}; {way}")
        speeds = milliseconds([full.model, model], fed[0].feed)
        found = Conversion(
            model,
            full.draft,
            full.policy,
            report,
            fed[report.worst],
            dict(zip(("float32", request.precision), speeds, strict=True)),
        )
        if report.passed:
            return found
        if nearest is None or _closeness(report) > _closeness(nearest.report):
            nearest = found
    if nearest is None:
        raise ConversionFailed(f"The network cannot be said in {request.precision}.", data="No model was written.")
    return nearest


def _closeness(report: Report) -> tuple[bool, float, float]:
    return report.passed, report.lowest_mask_iou or 0, -report.max_difference


def _fixed_batch(network: Network) -> int:
    first = network.picture.shape[0]
    return first if isinstance(first, int) else 1


def _written(inputs: Sequence[Port]) -> str:
    return ", ".join(f"{port.name} ({', '.join(map(str, port.shape))})" for port in inputs)
