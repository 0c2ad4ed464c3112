"""An ONNX model in an onnxruntime session, on the execution provider that the settings ask for."""

from __future__ import annotations

import logging
import os
from typing import Any, cast

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from graticule.errors import DeviceUnavailable, InferenceFailed, InvalidManifest, OutOfMemory
from graticule.manifest import Manifest
from graticule.settings import Settings
from graticule.tensors import Tensors

log = logging.getLogger(__name__)

Array = NDArray[Any]
"""float32, batch x channels x height x width."""

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

_PROVIDERS = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}
_CUDA_OPTIONS = {
    # The default search tries every algorithm for every new shape: hundreds of ms and gigabytes each time.
    "cudnn_conv_algo_search": "HEURISTIC",
    "arena_extend_strategy": "kSameAsRequested",
}
_GRAPH_TYPES = {
    "float32": "tensor(float)",
    "float16": "tensor(float16)",
    "uint8": "tensor(uint8)",
    "int64": "tensor(int64)",
}
_OUT_OF_MEMORY = ("out of memory", "failed to allocate memory", "bad_alloc", "alloc_failed")
"""How onnxruntime, CUDA and the C++ library say it; their exceptions have no class of their own."""


class Session:
    """One onnxruntime session. `run` may be called by several threads at once."""

    def __init__(self, manifest: Manifest, session: ort.InferenceSession) -> None:
        self.provider = session.get_providers()[0]
        self._session = session
        self._input = manifest.inputs[0].name
        self._output = manifest.outputs[0].name
        self._input_type = np.dtype(manifest.inputs[0].type)
        self._outputs = [tensor.name for tensor in manifest.outputs]
        self._bound = self.provider != CPU

    def run(self, images: Array) -> Array:
        """The first output, float32, for a batch. Raises OutOfMemory, InferenceFailed."""
        feed = images.astype(self._input_type, copy=False)
        try:
            output = self._run_bound(feed) if self._bound else self._session.run([self._output], {self._input: feed})[0]
        except Exception as error:  # onnxruntime's exceptions share no base class
            what = f"{images.shape[0]} picture(s) of {images.shape[-2]} x {images.shape[-1]} px"
            raise _translated(error, what) from error
        return cast("Array", output).astype(np.float32, copy=False)

    def run_tensors(self, feed: Tensors) -> Tensors:
        """Every output that the manifest names, for all inputs. Raises OutOfMemory, InferenceFailed."""
        try:
            found = cast("list[Array]", self._session.run(self._outputs, feed))
        except Exception as error:  # onnxruntime's exceptions share no base class
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feed.items())
            raise _translated(error, shapes) from error
        return dict(zip(self._outputs, found, strict=True))

    def _run_bound(self, feed: Array) -> Array:
        """Input and output in the device's memory: one copy in, one out, nothing between the layers."""
        binding = self._session.io_binding()
        device = "cpu" if self.provider == CPU else "cuda"
        binding.bind_ortvalue_input(self._input, ort.OrtValue.ortvalue_from_numpy(feed, device, 0))
        binding.bind_output(self._output, device, 0)
        self._session.run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()[0]


def load_session(manifest: Manifest, model: bytes, settings: Settings, threads: int) -> Session:
    """A session of `threads` CPU threads for a verified model.

    The model is loaded from memory, so that external data (which could name any file) cannot be reached.
    Raises InvalidManifest when the graph does not fit its manifest, DeviceUnavailable when the provider does not work.
    """
    wanted = chosen_provider(settings)
    if wanted != CPU:
        ort.preload_dlls()  # finds the CUDA libraries that pip installed
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    # Spinning threads take the cores from fetching and decoding, and bring nothing here.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(model, options, providers=_provider_list(wanted))
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise InvalidManifest(f"onnxruntime cannot load {manifest.reference}: {error}.") from error
    _check_provider(session, wanted, settings)
    _check_tensors(session, manifest)
    return Session(manifest, session)


def chosen_provider(settings: Settings) -> str:
    """The execution provider that the settings stand for on this machine."""
    if settings.provider != "auto":
        return _PROVIDERS[settings.provider]
    return CUDA if CUDA in ort.get_available_providers() else CPU


def usable_cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _translated(error: Exception, what: str) -> Exception:
    text = str(error)
    if isinstance(error, MemoryError) or any(sign in text.lower() for sign in _OUT_OF_MEMORY):
        return OutOfMemory(f"There was not enough memory to run {what}.")
    return InferenceFailed(f"The model could not be run: {text}.")


def _provider_list(wanted: str) -> list[str | tuple[str, dict[str, str]]]:
    cuda = (CUDA, _CUDA_OPTIONS)
    if wanted == TENSORRT:
        return [TENSORRT, cuda, CPU]
    return [cuda, CPU] if wanted == CUDA else [CPU]


def _check_provider(session: ort.InferenceSession, wanted: str, settings: Settings) -> None:
    """onnxruntime falls back to the CPU silently; whoever asked for a device must hear of it."""
    found = session.get_providers()[0]
    if found == wanted:
        return
    sentence = f"The execution provider {wanted} is installed but does not work here; onnxruntime fell back to {found}."
    if settings.provider != "auto":
        raise DeviceUnavailable(sentence, advice="Check the driver, or set GRATICULE_PROVIDER=cpu.")
    log.warning("%s", sentence)


def _check_tensors(session: ort.InferenceSession, manifest: Manifest) -> None:
    for promised, found in ((manifest.inputs, session.get_inputs()), (manifest.outputs, session.get_outputs())):
        names = {tensor.name: tensor for tensor in found}
        for tensor in promised:
            if tensor.name not in names:
                raise InvalidManifest(
                    f"{manifest.reference} has no tensor {tensor.name!r}: its ONNX file has {', '.join(names)}."
                )
            if names[tensor.name].type != _GRAPH_TYPES[tensor.type]:
                raise InvalidManifest(
                    f"Tensor {tensor.name!r} of {manifest.reference} is a {names[tensor.name].type}; its manifest says"
                    f" {tensor.type}."
                )
            if not _shapes_agree(tensor.shape, names[tensor.name].shape):
                raise InvalidManifest(
                    f"Tensor {tensor.name!r} of {manifest.reference} has the shape {names[tensor.name].shape}; its"
                    f" manifest says {list(tensor.shape)}."
                )


def _shapes_agree(promised: tuple[int | str, ...], found: list[int | str | None]) -> bool:
    if len(promised) != len(found):
        return False
    pairs = zip(promised, found, strict=True)
    return all(a == b or isinstance(a, str) or not isinstance(b, int) for a, b in pairs)
