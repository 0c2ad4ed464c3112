"""A TensorFlow function as a network: run in TensorFlow, converted by tf2onnx. Its pictures have channels last."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from onnx import ModelProto, ValueInfoProto

from graticule.errors import ConversionFailed
from graticule_exporters import frameworks
from graticule_exporters.graph import named_shape, one_line
from graticule_exporters.network import (
    OPSET,
    Array,
    Attempt,
    Feed,
    Hints,
    Network,
    Origin,
    Port,
    channels_first,
    channels_last,
)

Shape = Sequence[int | None]
"""As TensorFlow has it: batch first, channels last, None for a free size."""


class TensorFlowNetwork(Network):
    """Any function from tensors to a list of tensors."""

    def __init__(
        self,
        function: Callable[[list[Any]], list[Any]],
        inputs: Sequence[tuple[str, Shape, str]],
        outputs: Sequence[str],
        *,
        origin: Origin,
        hints: Hints | None = None,
    ) -> None:
        """`inputs`: name, shape and element type of each."""
        self._tensorflow = frameworks.tensorflow()
        self._shapes = [tuple(shape) for _, shape, _ in inputs]
        self.inputs = tuple(Port(name, channels_first_shape(shape), kind) for name, shape, kind in inputs)
        self.outputs = tuple(outputs)
        self.origin = origin
        self.hints = hints or Hints()
        self._plain = function
        # Traced for each shape anew: some layers of Keras 3 cannot be traced for a free size.
        self._function = self._tensorflow.function(lambda *given: tuple(function(list(given))))

    def run(self, feed: Feed) -> list[Array]:
        """See Network."""
        given = [self._tensorflow.constant(channels_last(feed[port.name])) for port in self.inputs]
        return [channels_first(tensor.numpy()) for tensor in self._function(*given)]

    def attempts(self, example: Feed) -> Iterator[Attempt]:
        """As the network is, and, where some of its layers need to know the size, for that of the example."""
        sizes = [tuple(channels_last(example[port.name]).shape) for port in self.inputs]
        fixed = [
            tuple(length if place else free for place, (length, free) in enumerate(zip(size, shape, strict=True)))
            for size, shape in zip(sizes, self._shapes, strict=True)
        ]
        problems: list[str] = []
        for words, shapes in dict.fromkeys((("free sizes", tuple(self._shapes)), ("fixed size", tuple(fixed)))):
            try:
                yield Attempt(f"tf2onnx, {words}", self._converted(shapes), channels_last=True)
            except Exception as error:  # tf2onnx and TensorFlow share no base class
                problems.append(f"{words}: {type(error).__name__}: {one_line(error, 160)}")
            if shapes == tuple(fixed):
                break
        if len(problems) > (tuple(self._shapes) != tuple(fixed)):
            raise ConversionFailed(
                f"tf2onnx cannot say the network in ONNX. {' '.join(f'{text}.' for text in problems)}",
                data="No model was written.",
            )

    def _traced(self, shapes: Sequence[Shape]) -> Any:  # noqa: ANN401 (a function of TensorFlow)
        signature = [
            self._tensorflow.TensorSpec(shape, self._tensorflow.as_dtype(port.type), name=f"input_{place}")
            for place, (shape, port) in enumerate(zip(shapes, self.inputs, strict=True))
        ]
        return self._tensorflow.function(lambda *given: tuple(self._plain(list(given))), input_signature=signature)

    def _converted(self, shapes: Sequence[Shape]) -> ModelProto:
        converter = frameworks.tf2onnx()
        function = self._traced(shapes)
        model, _ = converter.convert.from_function(function, input_signature=function.input_signature, opset=OPSET)
        return in_order(model, [f"input_{place}" for place in range(len(shapes))])


def channels_first_shape(shape: Shape) -> tuple[int | str, ...]:
    """(None, None, None, 3) -> ('batch', 3, 'height', 'width')."""
    order = (0, 3, 1, 2) if len(shape) == 4 else range(len(shape))
    return named_shape([size if size is not None and size > 0 else "?" for size in (shape[place] for place in order)])


def in_order(model: ModelProto, names: Sequence[str]) -> ModelProto:
    """With the graph's inputs in the order of these names; converters may append `:0` to them."""
    found = {value.name.partition(":")[0]: value for value in model.graph.input}
    if set(found) != set(names):
        unused = sorted(set(names) - set(found))
        raise ConversionFailed(
            f"The network does not use its input(s) {', '.join(unused)}.", data="No model was written."
        )
    copies = [ValueInfoProto.FromString(found[name].SerializeToString()) for name in names]
    del model.graph.input[:]
    model.graph.input.extend(copies)
    return model
