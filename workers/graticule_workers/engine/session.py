"""Loading an ONNX model into an onnxruntime session."""

from __future__ import annotations

import logging
import os
from typing import Any, cast

import onnxruntime as ort
from numpy.typing import NDArray

from graticule.errors import DeviceUnavailable, InvalidManifest
from graticule.manifest import Manifest
from graticule.settings import Settings

log = logging.getLogger(__name__)

_CUDA_OPTIONS = {
    # The default search tries every algorithm for every new shape: hundreds of ms and gigabytes each time.
    "cudnn_conv_algo_search": "HEURISTIC",
    "arena_extend_strategy": "kSameAsRequested",
}
_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


def load_session(manifest: Manifest, model: bytes, settings: Settings) -> ort.InferenceSession:
    """A session for a verified model, on the execution provider that the settings ask for.

    The model is loaded from memory, so that external data (which could name any file) cannot be reached.
    Raises InvalidManifest when the graph does not fit its manifest, DeviceUnavailable when the provider does not work.
    """
    provider = _choose_provider(settings)
    if provider != _PROVIDERS["cpu"]:
        ort.preload_dlls()  # finds the CUDA libraries that pip installed
    options = ort.SessionOptions()
    options.intra_op_num_threads = settings.inference_threads or usable_cores()
    # Spinning threads take the cores from fetching and decoding, and bring nothing here.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(model, options, providers=_provider_list(provider))
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise InvalidManifest(f"onnxruntime cannot load {manifest.reference}: {error}.") from error
    if settings.provider != "auto":
        _check_provider(session, provider)
    _check_tensors(session, manifest)
    return session


def usable_cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_session(session: ort.InferenceSession, manifest: Manifest, batch: NDArray[Any]) -> NDArray[Any]:
    """One run: batch x channels x height x width in, the first output out."""
    feeds = {manifest.inputs[0].name: batch}
    return cast("NDArray[Any]", session.run([manifest.outputs[0].name], feeds)[0])


def _choose_provider(settings: Settings) -> str:
    if settings.provider != "auto":
        return _PROVIDERS[settings.provider]
    cuda = _PROVIDERS["cuda"]
    return cuda if cuda in ort.get_available_providers() else _PROVIDERS["cpu"]


def _provider_list(provider: str) -> list[str | tuple[str, dict[str, str]]]:
    if provider == _PROVIDERS["cpu"]:
        return [provider]
    options = _CUDA_OPTIONS if provider == _PROVIDERS["cuda"] else {}
    return [(provider, options), _PROVIDERS["cpu"]]


def _check_provider(session: ort.InferenceSession, wanted: str) -> None:
    """onnxruntime falls back to the CPU silently; whoever asked for a device must hear of it."""
    found = session.get_providers()[0]
    if found != wanted:
        raise DeviceUnavailable(
            f"The execution provider {wanted} is installed but does not work here; onnxruntime fell back to {found}.",
            advice="Check the driver, or set GRATICULE_PROVIDER=cpu.",
        )


def _check_tensors(session: ort.InferenceSession, manifest: Manifest) -> None:
    for promised, found in ((manifest.inputs, session.get_inputs()), (manifest.outputs, session.get_outputs())):
        names = {tensor.name: tensor for tensor in found}
        for tensor in promised:
            if tensor.name not in names:
                raise InvalidManifest(
                    f"{manifest.reference} has no tensor {tensor.name!r}: its ONNX file has {', '.join(names)}."
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
