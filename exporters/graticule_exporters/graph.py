"""Makes an exported ONNX graph the one that is published: one file, named dimensions, the same bytes every time."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, helper, inliner

from graticule.errors import ConversionFailed
from graticule.manifest import Dimension
from graticule_exporters import frameworks
from graticule_exporters.checking import unusable
from graticule_exporters.network import Port

PRODUCER = "graticule"
LARGEST = 2 * 1024**3 - 1
"""Bytes: what one ONNX file without external data can hold."""

_TYPES: dict[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.UINT8: "uint8",
    TensorProto.INT64: "int64",
}
_PASSING = ("Identity", "Cast", "Transpose", "Reshape", "Squeeze")
"""Operators that hand values on as they are, perhaps in another order or shape."""


def finish(model: ModelProto, inputs: Sequence[Port], outputs: Sequence[str], *, channels_last: bool) -> ModelProto:
    """Name inputs and outputs, bring channels to the front, fold constants, and drop all that differs by chance.

    `inputs` are in the order of the graph's, with the shapes that it gets. Raises ConversionFailed for operators that
    workers do not have, for external data, and for a graph that onnxruntime does not load.
    """
    model = inliner.inline_local_functions(model) if model.functions else ModelProto.FromString(_bytes(model))
    if mistakes := list(unusable(model)):
        raise ConversionFailed(
            f"The network cannot be run by workers. {' '.join(mistakes)}", data="No model was written."
        )
    _forget_weights_among_inputs(model.graph)
    if channels_last:
        _bring_channels_forward(model.graph)
    _rename_ends(model.graph, [port.name for port in inputs], outputs)
    for value, port in zip(model.graph.input, inputs, strict=True):
        _set_shape(value, port.shape)
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    return tidied(optimised(model))


def optimised(model: ModelProto) -> ModelProto:
    """With constants folded and shapes inferred, by onnxruntime's own rules for standard operators."""
    runtime = frameworks.onnxruntime()
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    # The order in which several threads fold is not the same twice.
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        options.optimized_model_filepath = str(path)
        try:
            runtime.InferenceSession(_bytes(model), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise ConversionFailed(
                f"onnxruntime cannot load the converted network: {one_line(error)}.", data="No model was written."
            ) from error
        folded = onnx.load_model_from_string(path.read_bytes())
    return onnx.shape_inference.infer_shapes(folded)


def tidied(model: ModelProto) -> ModelProto:
    """Without texts, paths and numbers that differ from run to run; inner names are counted in the graph's order."""
    ends = {value.name for value in (*model.graph.input, *model.graph.output)}
    names = _Counter(ends)
    _tidy_graph(model.graph, names)
    _name_free_sizes(model.graph)
    del model.metadata_props[:]
    model.doc_string = ""
    model.producer_name, model.producer_version = PRODUCER, ""
    model.domain, model.model_version = "", 0
    model.graph.name = PRODUCER
    used = {node.domain for node in nodes(model.graph)} | {""}
    imports = sorted((opset for opset in model.opset_import if opset.domain in used), key=lambda opset: opset.domain)
    kept = [helper.make_opsetid(opset.domain, opset.version) for opset in imports]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    return model


def frozen(model: ModelProto, *, batch: int | None, height: int, width: int) -> ModelProto:
    """The same graph for one size of picture, and one size of batch if `batch` is given."""
    fixed = ModelProto.FromString(_bytes(model))
    sizes: dict[Dimension, int] = {"height": height, "width": width}
    if batch is not None:
        sizes["batch"] = batch
    for value in fixed.graph.input:
        _set_shape(value, [sizes.get(length, length) for length in shape_of(value)])
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    del fixed.graph.value_info[:]
    return tidied(optimised(fixed))


def without_softmax(model: ModelProto) -> ModelProto | None:
    """The same graph without the Softmax at its first output, or None when it does not end with one.

    A worker that knows the background needs the logits: it applies the softmax itself.
    """
    cut = ModelProto.FromString(_bytes(model))
    last = _last_operator(cut.graph)
    if last is None or last.op_type != "Softmax":
        return None
    for node in cut.graph.node:
        _replace(node.input, {last.output[0]: last.input[0]})
    if last.output[0] == cut.graph.output[0].name:
        cut.graph.node.append(helper.make_node("Identity", [last.input[0]], [last.output[0]]))
    cut.graph.node.remove(last)
    return tidied(optimised(cut))


def final_activation(model: ModelProto) -> str:
    """'softmax' or 'sigmoid' when the first output is made by one, else 'none'."""
    last = _last_operator(model.graph)
    return {"Softmax": "softmax", "Sigmoid": "sigmoid"}.get(last.op_type, "none") if last else "none"


def ports(values: Iterable[ValueInfoProto]) -> tuple[Port, ...]:
    """Inputs or outputs of a graph. Raises ConversionFailed for an element type that workers do not feed."""
    return tuple(Port(value.name, tuple(shape_of(value)), _type_of(value)) for value in values)


def shape_of(value: ValueInfoProto) -> list[Dimension]:
    """Sizes of a tensor; `?` where one is free and has no name."""
    dimensions = value.type.tensor_type.shape.dim
    return [size.dim_value if size.HasField("dim_value") else size.dim_param or "?" for size in dimensions]


def named_shape(shape: Sequence[Dimension]) -> tuple[Dimension, ...]:
    """Free sizes get the names that manifests use: batch, height and width where there are four dimensions."""
    usual = ("batch", "channels", "height", "width") if len(shape) == 4 else ("batch",)
    free = [usual[place] if place < len(usual) else f"size_{place}" for place in range(len(shape))]
    return tuple(size if isinstance(size, int) and size > 0 else free[i] for i, size in enumerate(shape))


def real_inputs(graph: GraphProto) -> list[ValueInfoProto]:
    """Inputs that are fed; older exporters list the weights among them."""
    weights = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in weights]


def nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Every node, also those of inner graphs."""
    for node in graph.node:
        yield node
        for inner in _inner_graphs(node):
            yield from nodes(inner)


def one_line(error: object, most: int = 300) -> str:
    """An error's text on one line, without the full stop."""
    text = " ".join(str(error).split()).rstrip(".")
    return text if len(text) <= most else text[: most - 1] + "…"


# -- parts ---------------------------------------------------------------------------------------------------------


def _bytes(model: ModelProto) -> bytes:
    try:
        return model.SerializeToString(deterministic=True)
    except Exception as error:  # protobuf has a class of its own for each of its implementations
        raise ConversionFailed(
            f"The network is too large for one ONNX file of at most {LARGEST:,} bytes: {one_line(error)}.",
            data="No model was written.",
        ) from error


serialised: Callable[[ModelProto], bytes] = _bytes
"""The bytes of a model, the same for the same model."""


def _type_of(value: ValueInfoProto) -> str:
    kind = value.type.tensor_type.elem_type
    if kind not in _TYPES:
        name = TensorProto.DataType.Name(kind).lower()
        raise ConversionFailed(
            f"{value.name!r} of the network has elements of type {name}; workers know {', '.join(_TYPES.values())}.",
            data="No model was written.",
        )
    return _TYPES[kind]


def _forget_weights_among_inputs(graph: GraphProto) -> None:
    kept = real_inputs(graph)
    if len(kept) != len(graph.input):
        copies = [ValueInfoProto.FromString(value.SerializeToString()) for value in kept]
        del graph.input[:]
        graph.input.extend(copies)


def _bring_channels_forward(graph: GraphProto) -> None:
    """Transpose pictures at the graph's ends; onnxruntime's optimiser moves these on and cancels them."""
    first: list[NodeProto] = []
    for value in graph.input:
        if len(value.type.tensor_type.shape.dim) != 4:
            continue
        inside = f"{value.name}__channels_last"
        _replace_everywhere(graph, {value.name: inside})
        first.append(helper.make_node("Transpose", [value.name], [inside], perm=[0, 2, 3, 1]))
        _set_shape(value, [shape_of(value)[place] for place in (0, 3, 1, 2)])
    last: list[NodeProto] = []
    for value in graph.output:
        if len(value.type.tensor_type.shape.dim) != 4:
            continue
        inside = f"{value.name}__channels_last"
        _replace_everywhere(graph, {value.name: inside})
        last.append(helper.make_node("Transpose", [inside], [value.name], perm=[0, 3, 1, 2]))
    body = [*first, *graph.node, *last]
    copies = [NodeProto.FromString(node.SerializeToString()) for node in body]
    del graph.node[:]
    graph.node.extend(copies)


def _rename_ends(graph: GraphProto, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    values = [*graph.input, *graph.output]
    wanted = [*inputs, *outputs]
    if len(values) != len(wanted):
        raise ConversionFailed(
            f"The graph has {len(graph.input)} inputs and {len(graph.output)} outputs, the network {len(inputs)} and"
            f" {len(outputs)}.",
            data="No model was written.",
        )
    # By way of names that nobody has, so that none is lost when two change places.
    inner = {name: f"graticule__{name}" for name in _all_names(graph) if name in set(wanted)}
    _replace_everywhere(graph, inner)
    names = {inner.get(value.name, value.name): new for value, new in zip(values, wanted, strict=True)}
    _replace_everywhere(graph, names)
    for value, new in zip(values, wanted, strict=True):
        value.name = new


def _all_names(graph: GraphProto) -> set[str]:
    found = {value.name for value in (*graph.input, *graph.output)}
    found |= {tensor.name for tensor in graph.initializer}
    for node in nodes(graph):
        found |= {*node.input, *node.output}
    return found


def _replace_everywhere(graph: GraphProto, names: Mapping[str, str]) -> None:
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in graph.node:
        _replace(node.input, names)
        _replace(node.output, names)
        for inner in _inner_graphs(node):
            _replace_everywhere(inner, names)
            for value in (*inner.input, *inner.output):
                value.name = names.get(value.name, value.name)


def _replace(held: object, names: Mapping[str, str]) -> None:
    fields: list[str] = held  # type: ignore[assignment]  # a repeated field behaves like a list
    for place, name in enumerate(fields):
        if name in names:
            fields[place] = names[name]


def _inner_graphs(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _set_shape(value: ValueInfoProto, shape: Sequence[Dimension]) -> None:
    kind = value.type.tensor_type.elem_type
    fresh = helper.make_tensor_type_proto(kind, list(shape))
    value.type.CopyFrom(TypeProto.FromString(fresh.SerializeToString()))


def _name_free_sizes(graph: GraphProto) -> None:
    """Outputs' free sizes get the manifest's names; inner tensors' shapes go, which old names would stand in."""
    for value in graph.output:
        _set_shape(value, named_shape(shape_of(value)))
    del graph.value_info[:]


class _Counter:
    """Gives every inner name the next number; the ends keep theirs."""

    def __init__(self, kept: set[str]) -> None:
        self._names = {name: name for name in kept} | {"": ""}

    def __call__(self, name: str) -> str:
        return self._names.setdefault(name, f"v{len(self._names)}")


def _tidy_graph(graph: GraphProto, rename: _Counter) -> None:
    graph.doc_string = ""
    del graph.metadata_props[:]
    del graph.quantization_annotation[:]
    for number, node in enumerate(graph.node):
        node.doc_string, node.name = "", f"{node.op_type}_{number}"
        del node.metadata_props[:]
        inputs, outputs = map(rename, node.input), map(rename, node.output)
        node.input[:], node.output[:] = list(inputs), list(outputs)
        for inner in _inner_graphs(node):
            for value in (*inner.input, *inner.output):
                value.name = rename(value.name)
            _tidy_graph(inner, rename)
    for tensor in graph.initializer:
        tensor.doc_string, tensor.name = "", rename(tensor.name)
        del tensor.metadata_props[:]
    weights = sorted(graph.initializer, key=lambda tensor: tensor.name)
    copies = [TensorProto.FromString(tensor.SerializeToString()) for tensor in weights]
    del graph.initializer[:]
    graph.initializer.extend(copies)
    for value in (*graph.input, *graph.output):
        value.doc_string = ""


def _last_operator(graph: GraphProto) -> NodeProto | None:
    """The operator that makes the first output's values."""
    makers = {name: node for node in graph.node for name in node.output}
    node = makers.get(graph.output[0].name)
    while node is not None and node.op_type in _PASSING:
        node = makers.get(node.input[0])
    return node
