"""A PyTorch module as a network: run in PyTorch, exported by either of PyTorch's exporters."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto

from graticule.errors import ConversionFailed
from graticule_exporters import frameworks
from graticule_exporters.graph import one_line
from graticule_exporters.network import OPSET, Array, Attempt, Feed, Hints, Network, Origin, Port, Size

SEED_BATCH = 2
"""Pictures in the batch that the free exporter sees: it takes a batch of one for a constant."""


class TorchNetwork(Network):
    """Any module that takes tensors and gives one, or several."""

    def __init__(
        self,
        module: Any,  # noqa: ANN401
        inputs: Sequence[Port],
        *,
        packages: Sequence[str] = (),
        hints: Hints | None = None,
        trusted: bool = False,
    ) -> None:
        """`module` takes the inputs in their order. Raises ConversionFailed when it does not run."""
        self._torch = frameworks.torch()
        self._module = module
        # An exported program was fixed in its mode when it was exported.
        with contextlib.suppress(NotImplementedError):
            module.eval()
        self.inputs = tuple(inputs)
        self.hints = hints or Hints()
        self.origin = Origin(
            "pytorch",
            str(self._torch.__version__),
            frameworks.versions("torch", "onnx", "onnxruntime", *packages),
            trusted,
        )
        self.outputs = ("output",)

    def run(self, feed: Feed) -> list[Array]:
        """See Network."""
        with self._torch.inference_mode():
            answer = self._module(*self._tensors(feed))
        return [tensor.numpy() for tensor in _flat(answer)]

    def name_outputs(self, size: Size) -> None:
        """Find out how many outputs there are, and name them. Raises ConversionFailed."""
        from graticule_exporters.sizes import example

        try:
            answers = self.run(example(self.inputs, size, SEED_BATCH))
        except Exception as error:  # whatever the module raises
            raise ConversionFailed(
                f"The network does not run on a picture of {size[0]} x {size[1]} px: {one_line(error)}.",
                data="No model was written.",
                advice="Name a size that it takes with --size, and its number of channels with --channels.",
            ) from error
        first = "logits" if answers[0].ndim == 4 else "output"
        self.outputs = (first, *(f"output_{place}" for place in range(1, len(answers))))

    def attempts(self, example: Feed) -> Iterator[Attempt]:
        """The older exporter folds norms into convolutions; the newer one knows more operators."""
        problems: list[str] = []
        free = any(isinstance(length, str) for port in self.inputs for length in port.shape)
        found = 0
        for named, sizes in ((True, "free sizes"), (False, "fixed size")) if free else ((False, "fixed size"),):
            for way, exporter in (("torch.onnx, by tracing", self._trace), ("torch.onnx, dynamo", self._dynamo)):
                try:
                    model = exporter(example, free=named)
                except Exception as error:  # the exporters share no base class
                    problems.append(f"{way}, {sizes}: {type(error).__name__}: {one_line(error, 160)}")
                    continue
                found += 1
                yield Attempt(f"{way}, {sizes}", model)
            if found:
                return
        raise ConversionFailed(
            f"PyTorch cannot say the network in ONNX. {' '.join(f'{text}.' for text in problems)}",
            data="No model was written.",
        )

    def _trace(self, example: Feed, *, free: bool) -> ModelProto:
        axes = {port.name: _free_axes(port) for port in self.inputs} if free else None
        return self._written(example, dynamo=False, dynamic_axes=axes)

    def _dynamo(self, example: Feed, *, free: bool) -> ModelProto:
        dynamic = self._torch.export.Dim.DYNAMIC
        shapes = tuple(dict.fromkeys(_free_axes(port), dynamic) for port in self.inputs) if free else None
        return self._written(example, dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False)

    def _written(self, example: Feed, **options: Any) -> ModelProto:  # noqa: ANN401 (of torch.onnx.export)
        feed = {name: _doubled(array) for name, array in example.items()} if _is_free(options) else example
        with tempfile.TemporaryDirectory() as folder, _quiet():
            path = Path(folder) / "model.onnx"
            self._torch.onnx.export(
                self._module,
                tuple(self._tensors(feed)),
                str(path),
                input_names=[port.name for port in self.inputs],
                output_names=list(self.outputs),
                opset_version=OPSET,
                **options,
            )
            return onnx.load_model_from_string(path.read_bytes())

    def _tensors(self, feed: Feed) -> list[Any]:
        return [self._torch.from_numpy(feed[port.name]) for port in self.inputs]


def picture_port(channels: int, name: str = "image") -> Port:
    """An input of free batch and size."""
    return Port(name, ("batch", channels, "height", "width"))


def _is_free(options: dict[str, Any]) -> bool:
    return bool(options.get("dynamic_axes") or options.get("dynamic_shapes"))


def _doubled(array: Array) -> Array:
    return array.repeat(SEED_BATCH, axis=0) if len(array) == 1 else array


def _free_axes(port: Port) -> dict[int, str]:
    return {axis: length for axis, length in enumerate(port.shape) if isinstance(length, str)}


def _flat(answer: Any) -> list[Any]:  # noqa: ANN401 (tensors, in tuples, lists or dictionaries)
    if hasattr(answer, "numpy"):
        return [answer]
    parts = answer.values() if isinstance(answer, dict) else answer
    return [tensor for part in parts for tensor in _flat(part)]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters warn of what they do in every case."""
    logging.getLogger("torch.onnx").setLevel(logging.CRITICAL)
    logging.getLogger("onnxscript").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
