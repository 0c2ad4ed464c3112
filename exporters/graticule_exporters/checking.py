"""Checks a model before it is published: would workers be able to run it, and does it keep its manifest's promises?

Works on the file's bytes alone: what the graph says of other files is never followed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import TypeVar

import onnx
from google.protobuf.message import DecodeError, Message
from onnx import ModelProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto
from onnx.checker import ValidationError
from onnx.shape_inference import InferenceError

from graticule.errors import InvalidManifest
from graticule.manifest import Dimension, Manifest, Tensor

Part = TypeVar("Part", bound=Message)

# What onnxruntime 1.26 loads, the oldest release that a worker may have; newer ones load it too.
OLDEST_OPSET = 7
NEWEST_OPSETS = {"ai.onnx": 26, "ai.onnx.ml": 5, "com.microsoft": 1}
NEWEST_IR_VERSION = 13

FULL_CHECK_LIMIT = 256 * 1024**2
"""Bytes; shapes are inferred through graphs up to this size only, because that copies the weights."""

_TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "uint8": TensorProto.UINT8,
    "int64": TensorProto.INT64,
}


def check_model(manifest: Manifest, model: bytes) -> None:
    """Refuse a model that needs other files, that workers cannot run, or that differs from its manifest.

    Raises InvalidManifest with a sentence for each mistake.
    """
    try:
        parsed = onnx.load_model_from_string(model)
    except DecodeError as error:
        raise _refusal(manifest, ["It is not an ONNX file."]) from error
    if mistakes := list(unusable(parsed)):
        raise _refusal(manifest, mistakes)
    _check_graph(manifest, model)
    if mistakes := [*_input_mismatches(manifest, parsed), *_output_mismatches(manifest, parsed)]:
        raise _refusal(manifest, mistakes)


def unusable(model: ModelProto) -> Iterator[str]:
    """A sentence for each reason for which workers could not run a graph."""
    yield from _external_data(model)
    yield from _unknown_versions(model)
    yield from _unknown_operators(model)


def _check_graph(manifest: Manifest, model: bytes) -> None:
    """The ONNX project's own rules. Not before external data are ruled out: it looks for the files that they name."""
    try:
        onnx.checker.check_model(model, full_check=len(model) <= FULL_CHECK_LIMIT)
    except (ValidationError, InferenceError, ValueError, RuntimeError) as error:
        raise _refusal(manifest, [f"It breaks the rules of ONNX: {' '.join(str(error).split())}"]) from error


def _refusal(manifest: Manifest, mistakes: Iterable[str]) -> InvalidManifest:
    return InvalidManifest(
        f"{manifest.model.file} of {manifest.reference} cannot be published. {' '.join(mistakes)}",
        data="Nothing was uploaded.",
    )


# -- what workers can run -------------------------------------------------------------------------------------


def _external_data(model: ModelProto) -> Iterator[str]:
    outside = [tensor for tensor in _find(TensorProto, model) if _is_outside(tensor)]
    if outside:
        first = outside[0]
        location = next((entry.value for entry in first.external_data if entry.key == "location"), "")
        others = f" (and {len(outside) - 1} more)" if len(outside) > 1 else ""
        yield (
            f"Its tensor {first.name!r}{others} lies in another file, {location!r}; a model must be one file: export it"
            " again without external data."
        )


def _is_outside(tensor: TensorProto) -> bool:
    return tensor.data_location == TensorProto.EXTERNAL or bool(tensor.external_data)


def _unknown_versions(model: ModelProto) -> Iterator[str]:
    if model.ir_version > NEWEST_IR_VERSION:
        yield f"It has the ONNX IR version {model.ir_version}; workers know those up to {NEWEST_IR_VERSION}."
    imports = {(_domain(opset), opset.version) for opset in _find(OperatorSetIdProto, model)}
    for domain, version in sorted(imports):
        newest = NEWEST_OPSETS.get(domain, version)
        oldest = OLDEST_OPSET if domain == "ai.onnx" else 1
        if not oldest <= version <= newest:
            yield (
                f"It uses opset {version} of {domain}; workers know {oldest} to {newest}: export it again with one of"
                " these."
            )


def _unknown_operators(model: ModelProto) -> Iterator[str]:
    own = {(function.domain, function.name) for function in model.functions}
    unknown: dict[str, set[str]] = defaultdict(set)
    for node in _find(NodeProto, model):
        if _domain(node) not in NEWEST_OPSETS and (node.domain, node.op_type) not in own:
            unknown[node.domain].add(node.op_type)
    for domain, operators in sorted(unknown.items()):
        yield (
            f"It uses operators of the domain {domain!r} ({', '.join(sorted(operators))}), which workers do not have;"
            f" they know {', '.join(NEWEST_OPSETS)}."
        )


def _domain(part: OperatorSetIdProto | NodeProto) -> str:
    return part.domain or "ai.onnx"


def _find(kind: type[Part], message: Message) -> Iterator[Part]:
    """Everything of one kind within a message, at any depth: in sub-graphs, functions, attributes."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for part in (value,) if isinstance(value, Message) else value:
            if isinstance(part, kind):
                yield part
            # To list the fields of a tensor copies its values, and there is nothing in it to find.
            if not isinstance(part, TensorProto):
                yield from _find(kind, part)


# -- what the manifest promises -------------------------------------------------------------------------------


def _input_mismatches(manifest: Manifest, model: ModelProto) -> Iterator[str]:
    # Older exporters list the weights among the inputs.
    weights = {tensor.name for tensor in model.graph.initializer}
    found = {value.name: value for value in model.graph.input if value.name not in weights}
    promised = {tensor.name for tensor in manifest.inputs}
    yield from _mismatches("input", manifest.inputs, found)
    if promised <= set(found):
        for name in sorted(set(found) - promised):
            yield f"The graph needs the input {name!r}, which the manifest does not name."


def _output_mismatches(manifest: Manifest, model: ModelProto) -> Iterator[str]:
    yield from _mismatches("output", manifest.outputs, {value.name: value for value in model.graph.output})


def _mismatches(kind: str, promised: Iterable[Tensor], found: dict[str, ValueInfoProto]) -> Iterator[str]:
    for tensor in promised:
        if tensor.name not in found:
            names = ", ".join(map(repr, found)) or "none"
            yield f"The manifest names the {kind} {tensor.name!r}; the graph has {names}."
            continue
        here = found[tensor.name].type.tensor_type
        if here.elem_type != _TYPES[tensor.type]:
            yield f"The {kind} {tensor.name!r} is {tensor.type} in the manifest, {_type_name(here)} in the graph."
        shape = _shape(here)
        if not _agree(tensor.shape, shape):
            yield (
                f"The {kind} {tensor.name!r} has the shape {_written(tensor.shape)} in the manifest,"
                f" {_written(shape)} in the graph."
            )


def _type_name(tensor: onnx.TypeProto.Tensor) -> str:
    known: dict[int, str] = {number: name for name, number in _TYPES.items()}
    known[TensorProto.UNDEFINED] = "no tensor"
    return known.get(tensor.elem_type) or TensorProto.DataType.Name(tensor.elem_type).lower()


def _shape(tensor: onnx.TypeProto.Tensor) -> tuple[Dimension, ...] | None:
    """Sizes, `?` where one is free and has no name. None: not even the number of dimensions is known."""
    if not tensor.HasField("shape"):
        return None
    return tuple(size.dim_value if size.HasField("dim_value") else size.dim_param or "?" for size in tensor.shape.dim)


def _agree(promised: tuple[Dimension, ...], found: tuple[Dimension, ...] | None) -> bool:
    """A dimension that the manifest calls free must be free; one that it fixes may be."""
    if found is None or len(promised) != len(found):
        return False
    return all(isinstance(there, str) or here == there for here, there in zip(promised, found, strict=True))


def _written(shape: tuple[Dimension, ...] | None) -> str:
    if shape is None:
        return "unknown"
    return "(" + ", ".join(map(str, shape)) + ")"
