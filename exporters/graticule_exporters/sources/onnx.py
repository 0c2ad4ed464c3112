"""ONNX files that were exported elsewhere: checked, tidied, and compared with themselves as they were."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto

from graticule.errors import ConversionFailed, UnreadableModel
from graticule_exporters import frameworks, graph
from graticule_exporters.checking import unusable
from graticule_exporters.files import read_file
from graticule_exporters.network import Array, Attempt, Feed, Network, Origin, Port, channels_first, channels_last
from graticule_exporters.request import Request
from graticule_exporters.running import runner

COLOUR_CHANNELS = (1, 3)


class OnnxNetwork(Network):
    """The graph as it was given, run by onnxruntime without any optimisation of ours."""

    def __init__(self, model: ModelProto) -> None:
        self._model = model
        made = model.producer_name or "unknown"
        self.origin = Origin(f"onnx ({made})", model.producer_version, frameworks.versions("onnx", "onnxruntime"))
        found = graph.ports(graph.real_inputs(model.graph))
        self._channels_last = has_channels_last(found)
        self.inputs = tuple(_named(port, channels_last=self._channels_last) for port in found)
        self.outputs = tuple(value.name for value in model.graph.output)
        self._answer = runner(model, optimise=False)

    def run(self, feed: Feed) -> list[Array]:
        """See Network."""
        if not self._channels_last:
            return self._answer(feed)
        answers = self._answer({name: channels_last(array) for name, array in feed.items()})
        return [channels_first(array) for array in answers]

    def attempts(self, example: Feed) -> Iterator[Attempt]:
        """See Network."""
        yield Attempt("the file's own graph", self._model, channels_last=self._channels_last)


def open_network(request: Request) -> OnnxNetwork:
    """Read an ONNX file. Raises UnreadableModel, ConversionFailed."""
    return OnnxNetwork(load_graph(request.source))


def load_graph(path: Path) -> ModelProto:
    """A graph that workers could run, from a file's bytes alone. Raises UnreadableModel, ConversionFailed."""
    try:
        model = onnx.load_model_from_string(read_file(path))
    except DecodeError as error:
        raise UnreadableModel(
            f"{path.name!r} is not an ONNX file, or it is damaged: {graph.one_line(error)}.",
            data="No model was written.",
            advice=f"graticule export inspect {path} tells what it is.",
        ) from error
    if mistakes := list(unusable(model)):
        raise ConversionFailed(f"{path.name!r} cannot be used. {' '.join(mistakes)}", data="No model was written.")
    if not model.graph.node or not model.graph.output:
        raise UnreadableModel(f"{path.name!r} holds no network: its graph is empty.", data="No model was written.")
    return model


def has_channels_last(inputs: tuple[Port, ...]) -> bool:
    """Whether pictures lie in the graph as TensorFlow has them: batch x height x width x channels."""
    picture = next((port for port in inputs if port.is_picture), None)
    if picture is None:
        return False
    return picture.shape[3] in COLOUR_CHANNELS and picture.shape[1] not in COLOUR_CHANNELS


def _named(port: Port, *, channels_last: bool) -> Port:
    shape = port.shape
    if channels_last and port.is_picture:
        shape = tuple(shape[place] for place in (0, 3, 1, 2))
    return replace(port, shape=graph.named_shape(shape))
