"""`graticule export inspect`: what a file is, what it takes and gives, and which command fits. Runs nothing of it."""

from __future__ import annotations

import json
import shlex
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from graticule.errors import GraticuleError, MissingPart, UnreadableModel
from graticule.jobs import Message
from graticule_exporters import graph
from graticule_exporters.files import damaged
from graticule_exporters.folder import source_sha256
from graticule_exporters.kinds import COMMANDS, HF_CONFIG, Kind, detect, read_json, train_config
from graticule_exporters.sources.keras_config import describe_config, hidden_code, input_shapes


class Findings(Message):
    """What is known of a source without running it."""

    file: str
    kind: str
    sha256: str
    inputs: tuple[str, ...] = Field(default=(), description="`name: shape`, as the file has them.")
    outputs: tuple[str, ...] = ()
    facts: dict[str, str] = Field(default_factory=dict, description="Versions, layers, size.")
    warnings: tuple[str, ...] = Field(default=(), description="What stands in the way.")
    command: str = Field(default="", description="The command that converts it; empty: none does.")

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"{self.file}: {self.kind}"
        yield f"  SHA-256  {self.sha256}"
        for label, values in (("inputs", self.inputs), ("outputs", self.outputs)):
            for value in values:
                yield f"  {label:8} {value}"
        for name, value in self.facts.items():
            yield f"  {name:8} {value}"
        for warning in self.warnings:
            yield f"  note     {warning}"
        if self.command:
            yield f"Convert it with: {self.command}"


def inspect_source(path: Path) -> Findings:
    """Look at a source. Raises UnreadableModel."""
    source = detect(path)
    try:
        told: dict[str, Any] = _LOOKS.get(source.kind, lambda _: {})(path)
    except MissingPart as missing:
        told = {"warnings": (f"To see more: {missing.advice}",)}
    config = train_config(path) if source.kind in (Kind.TORCH_PICKLE, Kind.TORCH_LEGACY) else None
    command = told.pop("command", None) or _command(path, source.kind, config, told.pop("family", ""))
    kind = f"Lightning checkpoint of {config.get('model', 'a network')}" if config else source.kind.value
    return Findings(file=path.name, kind=kind, sha256=source_sha256(path), **{"command": command, **told})


def _command(path: Path, kind: Kind, config: dict[str, Any] | None, family: str) -> str:
    name = family or COMMANDS.get(kind, "")
    if config and config.get("model") in ("segformer", "smp"):
        name = str(config["model"])
    if not name:
        return ""
    more = ""
    if name == "torch" and kind in (Kind.TORCH_PICKLE, Kind.TORCH_LEGACY, Kind.SAFETENSORS):
        more = " --network FILE.py:CLASS"
    elif name == "smp" and not config and path.is_file():
        more = " --architecture ARCHITECTURE --encoder ENCODER"
    elif name == "segformer" and not config and path.is_file():
        more = " --encoder b0"
    return f"graticule export {name} {shlex.quote(str(path))} --name NAME --out FOLDER{more}"


def _look_at_onnx(path: Path) -> dict[str, Any]:
    from graticule_exporters.sources.onnx import load_graph

    try:
        model = load_graph(path)
    except UnreadableModel:
        raise
    except GraticuleError as error:
        return {"warnings": (error.sentence,), "command": " "}
    opsets = ", ".join(f"{opset.domain or 'ai.onnx'} {opset.version}" for opset in model.opset_import)
    return {
        "inputs": tuple(_written(value) for value in graph.real_inputs(model.graph)),
        "outputs": tuple(_written(value) for value in model.graph.output),
        "facts": {
            "made by": f"{model.producer_name} {model.producer_version}".strip() or "unknown",
            "opset": opsets,
            "nodes": str(sum(1 for _ in graph.nodes(model.graph))),
        },
    }


def _written(value: Any) -> str:  # noqa: ANN401 (a ValueInfoProto)
    return f"{value.name}: {' x '.join(map(str, graph.shape_of(value)))}"


def _look_at_keras3(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read(HF_CONFIG))
            metadata = json.loads(archive.read("metadata.json")) if "metadata.json" in archive.namelist() else {}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise damaged(path, "a .keras file", graph.one_line(error)) from error
    return _keras_told(config, str(metadata.get("keras_version", "")))


def _look_at_keras2(path: Path) -> dict[str, Any]:
    from graticule_exporters.sources.keras import read_h5_config

    config, version = read_h5_config(path)
    return _keras_told(config, version)


def _keras_told(config: dict[str, Any], version: str) -> dict[str, Any]:
    code = hidden_code(config)
    return {
        "inputs": tuple(f"{name}: {' x '.join(map(str, shape))}" for name, shape in input_shapes(config)),
        "facts": {"keras": version or "unknown", "layers": describe_config(config)},
        "warnings": (f"It holds code of its own ({code}): loading needs --trust-source.",) if code else (),
    }


def _look_at_tflite(path: Path) -> dict[str, Any]:
    from graticule_exporters.sources.tflite import describe

    inputs, outputs, operators = describe(path)
    return {"inputs": inputs, "outputs": outputs, "facts": {"operators": operators}}


def _look_at_saved_model(path: Path) -> dict[str, Any]:
    from graticule_exporters.sources.saved_model import describe

    inputs, outputs = describe(path)
    return {"inputs": inputs, "outputs": outputs}


def _look_at_folder(path: Path) -> dict[str, Any]:
    config = read_json(path / HF_CONFIG)
    facts = {
        name: str(config[name])
        for name in ("architectures", "encoder_name", "depths", "num_channels")
        if name in config
    }
    classes = config.get("id2label")
    if isinstance(classes, dict):
        facts["classes"] = ", ".join(map(str, classes.values()))
    return {"facts": facts}


def _look_at_torch(path: Path) -> dict[str, Any]:
    from graticule_exporters.sources.checkpoint import describe

    return describe(path)


_LOOKS = {
    Kind.ONNX: _look_at_onnx,
    Kind.KERAS2: _look_at_keras2,
    Kind.KERAS3: _look_at_keras3,
    Kind.TFLITE: _look_at_tflite,
    Kind.SAVED_MODEL: _look_at_saved_model,
    Kind.SEGFORMER: _look_at_folder,
    Kind.SMP: _look_at_folder,
    Kind.TORCH_PICKLE: _look_at_torch,
    Kind.TORCH_LEGACY: _look_at_torch,
}
