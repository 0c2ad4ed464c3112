"""Derives a manifest: flags go before --manifest-from, that before what the source says, that before defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from onnx import ModelProto
from pydantic import ValidationError

from graticule.errors import BadInput, ConversionFailed, InvalidManifest
from graticule.manifest import Manifest, Normalisation, ObjectClass, Postprocessing, Task, Tensor
from graticule_exporters import graph
from graticule_exporters.network import Network, Port, Size
from graticule_exporters.request import Request

COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#46f0f0", "#f032e6", "#bcf60c", "#fabebe", "#008080")
BATCH = 8
LARGEST_WARM_UP = 1024
DERIVED = ("schema_version", "name", "version", "inputs", "outputs", "model", "provenance", "precision")
"""Parts of a manifest that --manifest-from cannot give: they follow from the export itself."""


@dataclass(frozen=True)
class Draft:
    """What the parity gate needs to know of the manifest to come."""

    task: Task
    normalisation: Normalisation
    postprocessing: Postprocessing
    given: Mapping[str, Any]
    """The contents of --manifest-from."""
    strip_softmax: bool
    """The graph ends with a softmax that the worker will apply itself."""


def make_draft(request: Request, network: Network, model: ModelProto) -> Draft:
    """Decide what the model's answers mean. Raises BadInput, ConversionFailed."""
    given = read_given(request.manifest_from)
    outputs = graph.ports(model.graph.output)
    activation = graph.final_activation(model)
    task = _task(request, given, network, outputs[0], activation)
    normalisation = _normalisation(request, given, network)
    postprocessing, strip = _postprocessing(request, given, network, outputs[0], task, activation)
    return Draft(task, normalisation, postprocessing, given, strip)


def read_given(path: Path | None) -> dict[str, Any]:
    """The manifest, or part of one, that a user wrote. Raises BadInput."""
    if path is None:
        return {}
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadInput(f"--manifest-from {str(path)!r} cannot be read: {graph.one_line(error)}.") from error
    if not isinstance(found, dict):
        raise BadInput(f"--manifest-from {str(path)!r} is not a manifest: expected a mapping of fields.")
    return found


def make_manifest(
    request: Request,
    network: Network,
    draft: Draft,
    model: ModelProto,
    *,
    size: Mapping[str, Any],
    warm_up: Size,
    sha256: str,
    precision: str,
    source_sha256: str,
    parity: Mapping[str, Any],
) -> Manifest:
    """The whole manifest. Raises InvalidManifest that names every field that is wrong."""
    given = {name: value for name, value in draft.given.items() if name not in DERIVED}
    preprocessing = {**_part(given, "preprocessing"), "normalisation": draft.normalisation.model_dump(mode="json")}
    preprocessing["colour"] = request.colour or preprocessing.get("colour") or _colour(network.picture)
    preprocessing["size"] = {**_part(preprocessing, "size"), **size}
    told = _part(draft.given, "provenance")
    inputs = [_tensor(port, request) for port in graph.ports(model.graph.input)]
    free_batch = inputs[0]["shape"][0] == "batch"
    contents = {
        "title": request.title or given.pop("title", "") or request.name,
        **given,
        "name": request.name,
        "version": request.version,
        "task": draft.task,
        "description": request.description or given.get("description", ""),
        "license": request.license or given.get("license", ""),
        "inputs": inputs,
        "outputs": [_tensor(port) for port in graph.ports(model.graph.output)],
        "preprocessing": preprocessing,
        "postprocessing": draft.postprocessing.model_dump(mode="json"),
        "batch": given.get("batch", {"maximum": BATCH}) if free_batch else {"maximum": 1},
        "warm_up": given.get("warm_up", {"shapes": [warm_up] if max(warm_up) <= LARGEST_WARM_UP else []}),
        "precision": precision,
        "model": {"sha256": sha256},
        "provenance": {
            "framework": network.origin.framework,
            "framework_version": network.origin.framework_version,
            "versions": network.origin.versions,
            "source_file": request.source.name,
            "source_sha256": source_sha256,
            "trusted_source": network.origin.trusted,
            "training_data": request.training_data or told.get("training_data", ""),
            "metrics": {**network.hints.notes, **_part(told, "metrics")},
            "parity": dict(parity),
        },
    }
    try:
        return Manifest.model_validate(contents)
    except ValidationError as error:
        mistakes = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False))
        raise InvalidManifest(
            f"The manifest would not be valid: {'; '.join(mistakes)}.", data="No model was written."
        ) from error


def _part(contents: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = contents.get(name)
    return dict(found) if isinstance(found, dict) else {}


def _tensor(port: Port, request: Request | None = None) -> dict[str, Any]:
    made: dict[str, Any] = {"name": port.name, "shape": list(port.shape), "type": port.type}
    if request and not port.is_picture and (quantity := request.quantity_of(port.name)):
        made["quantity"] = quantity.model_dump(mode="json")
    return Tensor.model_validate(made).model_dump(mode="json")


def _task(request: Request, given: Mapping[str, Any], network: Network, output: Port, activation: str) -> Task:
    if name := request.task or given.get("task"):
        try:
            return Task(name)
        except ValueError as error:
            raise BadInput(f"--task: expected one of {', '.join(Task)}, found {name!r}.") from error
    if output.is_picture:
        return Task.SEMANTIC_SEGMENTATION
    labelled = request.labels or network.hints.labels or activation == "softmax"
    return Task.LABEL_DISTRIBUTION if labelled else Task.REGRESSION


def _normalisation(request: Request, given: Mapping[str, Any], network: Network) -> Normalisation:
    told = _part(_part(given, "preprocessing"), "normalisation")
    hinted = network.hints.normalisation.model_dump() if network.hints.normalisation else {"kind": "scale"}
    chosen: dict[str, Any] = told or hinted
    if request.normalisation:
        chosen = {"kind": request.normalisation}
    elif request.mean:
        chosen = {"kind": "standardise"}
    if request.mean or request.std:
        chosen = {**chosen, "mean": request.mean, "std": request.std}
    try:
        return Normalisation.model_validate(chosen)
    except ValidationError as error:
        mistakes = "; ".join(e["msg"].removeprefix("Value error, ") for e in error.errors(include_url=False))
        raise BadInput(f"--normalisation: {mistakes}.", data="No model was written.") from error


def _postprocessing(
    request: Request, given: Mapping[str, Any], network: Network, output: Port, task: Task, found: str
) -> tuple[Postprocessing, bool]:
    told = _part(given, "postprocessing")
    channels = output.shape[1] if len(output.shape) > 1 and isinstance(output.shape[1], int) else 1
    activation, strip = _activation(request.activation or told.get("activation"), network, task, found, channels)
    chosen: dict[str, Any] = {**told, "activation": activation}
    if request.threshold is not None:
        chosen["threshold"] = request.threshold
    if task in (Task.SEMANTIC_SEGMENTATION, Task.INSTANCE_SEGMENTATION):
        background = activation == "softmax"
        names = request.classes or (() if told.get("classes") else network.hints.classes)
        if names or not told.get("classes"):
            chosen["classes"] = _classes(names, channels, background=background)
        _check_count(len(chosen["classes"]), channels)
    elif tables := request.label_tables(network.outputs) or network.hints.labels:
        chosen["labels"] = [table.model_dump(mode="json") for table in tables]
        for table in tables:
            if table.output == output.name and len(table.values) != channels:
                raise BadInput(
                    f"The label table for {output.name!r} has {len(table.values)} values, the output {channels}.",
                    data="No model was written.",
                )
    try:
        return Postprocessing.model_validate(chosen), strip
    except ValidationError as error:
        mistakes = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False))
        raise BadInput(f"Post-processing: {'; '.join(mistakes)}.", data="No model was written.") from error


def _activation(asked: str | None, network: Network, task: Task, found: str, channels: int) -> tuple[str, bool]:
    """What the worker applies, and whether the graph's own softmax has to go."""
    if task is Task.REGRESSION:
        return "none", False
    if task is Task.LABEL_DISTRIBUTION:
        return ("none" if found == "softmax" else asked or "softmax"), False
    if found == "sigmoid":
        return "none", False
    if found == "softmax":
        return ("none", False) if asked == "none" else ("softmax", True)
    return asked or network.hints.activation or ("sigmoid" if channels == 1 else "softmax"), False


def _classes(names: tuple[str, ...], channels: int, *, background: bool) -> list[dict[str, Any]]:
    if not names:
        names = tuple(f"class-{number}" for number in range(1, channels + 1 - background)) or ("object",)
        names = ("object",) if len(names) == 1 else names
    if background and len(names) == channels - 1:
        names = ("background", *names)
    made = []
    for index, text in enumerate(names):
        name, equals, colour = text.partition("=")
        usual = "#000000" if background and index == 0 else COLOURS[(index - background) % len(COLOURS)]
        made.append({"index": index, "name": name, "colour": colour if equals else usual})
    try:
        return [ObjectClass.model_validate(one).model_dump(mode="json") for one in made]
    except ValidationError as error:
        raise BadInput(f"--class: expected NAME or NAME=#rrggbb, found {', '.join(names)}.") from error


def _check_count(classes: int, channels: int) -> None:
    if classes != channels:
        raise BadInput(
            f"The network has {channels} output channel(s), {classes} class(es) are named.",
            data="No model was written.",
            advice="Name one --class for each channel; with softmax, the background is the first and may be left out.",
        )


def _colour(picture: Port) -> str:
    channels = picture.shape[1]
    if channels not in (1, 3):
        raise ConversionFailed(
            f"The input {picture.name!r} has {channels} channels; workers feed 1 (grey) or 3 (rgb).",
            data="No model was written.",
        )
    return "grey" if channels == 1 else "rgb"
