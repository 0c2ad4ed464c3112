"""Keras: `.h5` of Keras 2 through tf_keras, `.keras` and `.h5` of Keras 3, and TensorFlow SavedModels."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from graticule.errors import ConversionFailed, UnreadableModel
from graticule_exporters import frameworks
from graticule_exporters.files import damaged, untrusted
from graticule_exporters.graph import one_line
from graticule_exporters.kinds import HF_CONFIG, Kind, detect
from graticule_exporters.network import Network, Origin
from graticule_exporters.request import Request
from graticule_exporters.sources import saved_model
from graticule_exporters.sources.keras_config import hidden_code
from graticule_exporters.sources.tensorflow_network import TensorFlowNetwork

PACKAGES = ("tensorflow", "keras", "tf_keras", "tf2onnx", "onnx", "onnxruntime")


def open_network(request: Request) -> Network:
    """Load a Keras model. Raises UnreadableModel, ConversionFailed, MissingPart."""
    kind = detect(request.source).kind
    if kind is Kind.SAVED_MODEL:
        return saved_model.open_network(request)
    if kind is Kind.KERAS3:
        return _open_keras3(request, _zip_config(request.source))
    if kind is Kind.KERAS2:
        config, version = read_h5_config(request.source)
        if version.startswith("3"):
            return _open_keras3(request, config)
        return _open_keras2(request, config, version)
    raise UnreadableModel(
        f"{request.source.name!r} is no Keras model: {kind.value}.",
        data="No model was written.",
        advice=f"graticule export inspect {request.source} names the command that fits.",
    )


def read_h5_config(path: Path) -> tuple[dict[str, Any], str]:
    """The network's description and the version of Keras that wrote it. Raises UnreadableModel, MissingPart."""
    h5py = frameworks.h5py()
    try:
        with h5py.File(path, "r") as file:
            config, version = file.attrs.get("model_config"), file.attrs.get("keras_version", "")
            # Reading every name finds a file that was cut off.
            file.visit(lambda _: None)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise damaged(path, "a Keras .h5 file", one_line(error)) from error
    if config is None:
        raise UnreadableModel(
            f"{path.name!r} holds weights only, not the network that they belong to.",
            data="No model was written.",
            advice="Save the whole model where it was trained: model.save('model.h5').",
        )
    try:
        return json.loads(config), str(version)
    except ValueError as error:
        raise damaged(path, "a Keras .h5 file", f"its description is not JSON: {one_line(error)}") from error


def _zip_config(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
            config = json.loads(archive.read(HF_CONFIG))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise damaged(path, "a .keras file", one_line(error)) from error
    if broken:
        raise damaged(path, "a .keras file", f"its part {broken!r} is damaged")
    return config


def _open_keras2(request: Request, config: dict[str, Any], version: str) -> Network:
    keras = frameworks.keras2()
    trusted = _check_trust(request, config)

    def load() -> Any:  # noqa: ANN401 (a model)
        return keras.models.load_model(str(request.source), compile=False)

    return _network(request, load, version, trusted)


def _open_keras3(request: Request, config: dict[str, Any]) -> Network:
    keras = frameworks.keras3()
    trusted = _check_trust(request, config)

    def load() -> Any:  # noqa: ANN401 (a model)
        return keras.models.load_model(str(request.source), compile=False, safe_mode=not trusted)

    return _network(request, load, str(keras.__version__), trusted)


def _check_trust(request: Request, config: dict[str, Any]) -> bool:
    """Whether code within the file may run; refuses a file that holds some otherwise."""
    code = hidden_code(config)
    if code and not request.trust_source:
        raise untrusted(request.source, f"it has {code}")
    return bool(code)


def _network(request: Request, load: Any, version: str, trusted: bool) -> TensorFlowNetwork:  # noqa: ANN401
    try:
        model = load()
    except (OSError, EOFError) as error:
        raise damaged(request.source, "a Keras model", one_line(error)) from error
    except Exception as error:  # ValueError, TypeError, KeyError: as many as there are layers
        raise ConversionFailed(
            f"Keras cannot build the network of {request.source.name!r}: {_reason(error)}.",
            data="No model was written.",
            advice="Layers that Keras does not have cannot be converted; replace them where the network is trained, or"
            " export it to ONNX there and use graticule export onnx.",
        ) from error
    if not getattr(model, "inputs", None):
        raise ConversionFailed(
            f"{request.source.name!r} does not say what shape its input has.", data="No model was written."
        )

    def call(given: list[Any]) -> list[Any]:
        answer = model(given if len(given) > 1 else given[0], training=False)
        return (
            list(answer.values())
            if isinstance(answer, dict)
            else list(answer)
            if isinstance(answer, list | tuple)
            else [answer]
        )

    return TensorFlowNetwork(
        call,
        [(_name(tensor), tuple(tensor.shape), _kind(tensor)) for tensor in model.inputs],
        _output_names(model),
        origin=Origin("keras", version, frameworks.versions(*PACKAGES), trusted),
    )


def _name(tensor: Any) -> str:  # noqa: ANN401 (a Keras tensor)
    return str(tensor.name).partition(":")[0]


def _kind(tensor: Any) -> str:  # noqa: ANN401 (a Keras tensor)
    return str(getattr(tensor.dtype, "name", tensor.dtype))


def _output_names(model: Any) -> list[str]:  # noqa: ANN401 (a Keras model)
    """Names of the layers that answer, made different where two are alike."""
    # A Sequential model of Keras 3 has no names for its outputs.
    names = [str(name) for name in getattr(model, "output_names", None) or [model.layers[-1].name]]
    taken = {_name(tensor) for tensor in model.inputs}
    made: list[str] = []
    for name in names:
        made.append(name if name not in (*made, *taken) else f"{name}_{len(made)}")
    return made


def _reason(error: Exception) -> str:
    """The first sentence of a long text."""
    return one_line(str(error).partition("Please ensure")[0].partition("\n\n")[0], 200)
