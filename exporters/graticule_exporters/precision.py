"""Smaller numbers: half precision, and 8-bit integers calibrated with pictures. Inputs and outputs stay float32."""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from graticule.errors import ConversionFailed, MissingPart
from graticule_exporters import frameworks
from graticule_exporters.graph import one_line, optimised, tidied
from graticule_exporters.network import Feed
from graticule_exporters.parity import Precision
from graticule_exporters.running import runner

HALF_LIMIT = 65504 / 4
"""Half of the range of half precision is kept for pictures that are brighter than those of the calibration."""
QUANTISED = (
    "Conv",
    "ConvTranspose",
    "Gemm",
    "MatMul",
    "Add",
    "Mul",
    "Concat",
    "MaxPool",
    "AveragePool",
    "Resize",
    "Relu",
)
"""Operators that may work on 8-bit integers; the others stay in float32."""
CORE = ("Conv", "Gemm", "MatMul")
"""Operators that hold nearly all the work: what is tried when more than these is too coarse."""


def reductions(
    model: ModelProto, precision: Precision, calibration: Sequence[Feed]
) -> Iterable[tuple[str, ModelProto]]:
    """Ways to say a float32 graph in a smaller precision, the fastest first, each with a few words about it."""
    if precision == "float16":
        yield _half(model, calibration)
    elif precision == "int8":
        ways = (
            ("all that can be", QUANTISED, []),
            ("convolutions and products", CORE, []),
            ("convolutions and products, without the first and the last", CORE, _end_nodes(model)),
        )
        for words, operators, without in ways:
            # Some operators cannot be quantised in some networks, which shows when the result is loaded.
            with contextlib.suppress(ConversionFailed):
                yield f"int8: {words}", _quantised(model, calibration, operators, without)


def overflowing(model: ModelProto, feeds: Sequence[Feed]) -> list[str]:
    """Names of nodes that give, take or hold numbers too large for half precision on these inputs."""
    shown = _with_all_outputs(model)
    names = [value.name for value in shown.graph.output]
    large = {tensor.name for tensor in model.graph.initializer if _is_large(numpy_helper.to_array(tensor))}
    answer = runner(shown)
    for feed in feeds:
        large |= {name for name, array in zip(names, answer(feed), strict=True) if _is_large(array)}
        large |= {name for name, array in feed.items() if _is_large(array)}
    return [node.name for node in model.graph.node if large & {*node.input, *node.output}]


def _half(model: ModelProto, feeds: Sequence[Feed]) -> tuple[str, ModelProto]:
    module = _part("onnxruntime.transformers.float16")
    kept = overflowing(model, feeds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tells of every small weight that becomes 0
        half = module.convert_float_to_float16(_copy(model), keep_io_types=True, node_block_list=kept)
    words = f"fp16: {len(kept)} of {len(model.graph.node)} operators stay in fp32 because their numbers are too large"
    for clean in (_without_empty_casts, _without_repeats, _without_round_trips, _in_order, _inferred):
        half = clean(half)
    return words if kept else "fp16", tidied(half)


def _without_empty_casts(model: ModelProto) -> ModelProto:
    """The converter also casts inputs that an operator leaves out, such as the scales of a Resize to given sizes."""
    left_out = {node.output[0] for node in model.graph.node if node.op_type == "Cast" and not node.input[0]}
    for node in model.graph.node:
        node.input[:] = ["" if name in left_out else name for name in node.input]
    return model


def _without_repeats(model: ModelProto) -> ModelProto:
    """The converter casts a value once for each node that takes it, always under the same name."""
    made: set[str] = set()
    kept = []
    for node in model.graph.node:
        if not made.issuperset(node.output):
            kept.append(NodeProto.FromString(node.SerializeToString()))
        made.update(node.output)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def _without_round_trips(model: ModelProto) -> ModelProto:
    """The converter halves a number between two operators that stay in fp32, which is where it would overflow."""
    makers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        before = makers.get(node.input[0]) if _casts_to(node, TensorProto.FLOAT) else None
        if before is not None and _casts_to(before, TensorProto.FLOAT16):
            node.input[0] = before.input[0]
    return model


def _casts_to(node: NodeProto, kind: int) -> bool:
    return node.op_type == "Cast" and any(part.name == "to" and part.i == kind for part in node.attribute)


def _in_order(model: ModelProto) -> ModelProto:
    """Every operator after those whose values it takes, also by way of its inner graphs; unused ones are left out."""
    makers = {name: place for place, node in enumerate(model.graph.node) for name in node.output}
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    ordered: dict[int, NodeProto] = {}
    waiting = [makers[value.name] for value in reversed(model.graph.output) if value.name in makers]
    while waiting:
        place = waiting[-1]
        needed = [makers[name] for name in _taken(nodes[place]) if name in makers and makers[name] not in ordered]
        if needed:
            waiting += needed
        else:
            ordered.setdefault(waiting.pop(), nodes[place])
    del model.graph.node[:]
    model.graph.node.extend(ordered.values())
    return model


def _taken(node: NodeProto) -> Iterator[str]:
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _taken(inner)


def _quantised(
    model: ModelProto, feeds: Sequence[Feed], operators: Sequence[str], without: Sequence[str]
) -> ModelProto:
    quantization = _part("onnxruntime.quantization")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(_inferred(_copy(model)), str(source))
        quantization.quantize_static(
            str(source),
            str(target),
            _reader(quantization, feeds),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(operators),
            nodes_to_exclude=list(without),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            # Without VNNI, two products of 8 bits overflow 16: one bit less is exact on every processor.
            reduce_range=True,
        )
        return tidied(optimised(onnx.load(str(target))))


def _reader(quantization: Any, feeds: Sequence[Feed]) -> object:  # noqa: ANN401 (a module)
    """The calibration inputs in the form that onnxruntime reads; each class of it has this one method."""

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._left = iter(feeds)

        def get_next(self) -> Feed | None:
            return next(self._left, None)

    return Reader()


def _end_nodes(model: ModelProto) -> list[str]:
    heavy = [node.name for node in model.graph.node if node.op_type in (*CORE, "ConvTranspose")]
    return [*heavy[:1], *heavy[-1:]]


def _with_all_outputs(model: ModelProto) -> ModelProto:
    shown = _inferred(_copy(model))
    ends = {value.name for value in shown.graph.output}
    floats = [
        value
        for value in shown.graph.value_info
        if value.type.tensor_type.elem_type in (TensorProto.FLOAT, TensorProto.FLOAT16)
    ]
    shown.graph.output.extend(value for value in floats if value.name not in ends)
    return shown


def _is_large(array: np.ndarray) -> bool:
    if not np.issubdtype(array.dtype, np.floating):
        return False
    finite = array[np.isfinite(array)]
    return bool(finite.size) and float(np.abs(finite).max()) > HALF_LIMIT


def _copy(model: ModelProto) -> ModelProto:
    return ModelProto.FromString(model.SerializeToString())


def _inferred(model: ModelProto) -> ModelProto:
    return onnx.shape_inference.infer_shapes(model)


def _part(module: str) -> Any:  # noqa: ANN401 (a module)
    """A part of onnxruntime's tools. Raises MissingPart, also for what they need themselves."""
    frameworks.onnxruntime()
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = getattr(error, "name", None) or one_line(error)
        raise MissingPart("Smaller precision", frameworks.RUNTIME_EXTRA, missing) from error
