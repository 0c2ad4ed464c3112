"""TensorFlow SavedModels: their signature is run and converted; operators that touch files or Python are refused."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from graticule.errors import ConversionFailed, UnreadableModel
from graticule_exporters import frameworks
from graticule_exporters.files import damaged, read_file
from graticule_exporters.graph import one_line
from graticule_exporters.network import Origin
from graticule_exporters.request import Request
from graticule_exporters.sources.tensorflow_network import TensorFlowNetwork

PACKAGES = ("tensorflow", "tf2onnx", "onnx", "onnxruntime")
SIGNATURE = "serving_default"
_REACHING_OUT = (
    "PyFunc", "EagerPyFunc", "PyFuncStateless", "ReadFile", "WriteFile", "MatchingFiles", "LoadLibrary", "RpcCall",
    "WholeFileReader", "WholeFileReaderV2", "TFRecordReader", "TFRecordReaderV2",
)  # fmt: skip
"""Operators that read or write files, or call other programs. What loads the weights is not part of a signature."""


def open_network(request: Request) -> TensorFlowNetwork:
    """Load a SavedModel. Raises UnreadableModel, ConversionFailed, MissingPart."""
    tensorflow = frameworks.tensorflow()
    _check_operators(request.source)
    try:
        loaded = tensorflow.saved_model.load(str(request.source))
    except Exception as error:  # as many kinds as there are parts in such a folder
        raise damaged(request.source, "a SavedModel", one_line(error)) from error
    function = _signature(request.source, loaded)
    inputs = _inputs(function)
    names = [name for name, _, _ in inputs]
    outputs = list(function.structured_outputs)

    def call(given: list[Any]) -> list[Any]:
        answer = function(**dict(zip(names, given, strict=True)))
        return [answer[name] for name in outputs]

    version = str(getattr(loaded, "tensorflow_version", ""))
    network = TensorFlowNetwork(
        call, inputs, outputs, origin=Origin("tensorflow", version, frameworks.versions(*PACKAGES))
    )
    network.keep = loaded  # type: ignore[attr-defined]  # its variables go with it
    return network


def describe(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """For `inspect`: inputs and outputs of the signature, from the folder's description alone."""
    graph = _description(path).meta_graphs[0]
    signature = graph.signature_def.get(SIGNATURE)
    if signature is None:
        return (), ()
    told = (
        tuple(
            f"{name}: {' x '.join(str(size.size) if size.size > 0 else '?' for size in tensor.tensor_shape.dim)}"
            for name, tensor in sorted(part.items())
        )
        for part in (signature.inputs, signature.outputs)
    )
    inputs, outputs = told
    return inputs, outputs


def _signature(path: Path, loaded: Any) -> Any:  # noqa: ANN401 (a function of TensorFlow)
    signatures = getattr(loaded, "signatures", {})
    if SIGNATURE not in signatures:
        known = ", ".join(signatures) or "none"
        raise ConversionFailed(
            f"The SavedModel {path.name!r} has no signature {SIGNATURE!r}; it has {known}.",
            data="No model was written.",
        )
    return signatures[SIGNATURE]


def _inputs(function: Any) -> list[tuple[str, tuple[int | None, ...], str]]:  # noqa: ANN401
    _, specifications = function.structured_input_signature
    return [(name, tuple(spec.shape), spec.dtype.name) for name, spec in specifications.items()]


def _check_operators(path: Path) -> None:
    bad = sorted({name for name in _operators(path) if name in _REACHING_OUT})
    if bad:
        raise UnreadableModel(
            f"The SavedModel {path.name!r} was not loaded: it has operators that reach out of the network"
            f" ({', '.join(bad)}).",
            data="Nothing of it was run, no model was written.",
        )


def _operators(path: Path) -> Iterator[str]:
    for graph in _description(path).meta_graphs:
        for node in graph.graph_def.node:
            yield node.op
        for function in graph.graph_def.library.function:
            for node in function.node_def:
                yield node.op


def _description(path: Path) -> Any:  # noqa: ANN401 (a protobuf message)
    frameworks.tensorflow()
    protobuf = importlib.import_module("tensorflow.core.protobuf.saved_model_pb2")
    description = protobuf.SavedModel()
    try:
        description.ParseFromString(read_file(path / "saved_model.pb"))
    except UnreadableModel:
        raise
    except Exception as error:  # protobuf has a class of its own for each of its implementations
        raise damaged(path / "saved_model.pb", "a SavedModel", one_line(error)) from error
    if not description.meta_graphs:
        raise damaged(path / "saved_model.pb", "a SavedModel", "it holds no graph")
    return description
