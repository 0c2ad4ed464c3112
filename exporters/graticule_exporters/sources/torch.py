"""PyTorch: TorchScript, exported programs, whole modules, and weights with the class of their network."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from graticule.errors import BadInput, ConversionFailed, UnreadableModel
from graticule_exporters import frameworks
from graticule_exporters.files import damaged
from graticule_exporters.graph import one_line
from graticule_exporters.kinds import Kind, detect
from graticule_exporters.network import Port, Size
from graticule_exporters.request import Request
from graticule_exporters.sources.checkpoint import load_checkpoint, state_of, without_prefix
from graticule_exporters.sources.torch_network import TorchNetwork, picture_port

SIZE = (256, 256)
CHANNELS = (1, 3)
"""Tried in this order when neither the user nor the weights tell."""


def open_network(request: Request) -> TorchNetwork:
    """Load a PyTorch network. Raises UnreadableModel, BadInput, MissingPart."""
    kind = detect(request.source).kind
    if kind is Kind.TORCHSCRIPT:
        return _ready(request, _load_script(request.source), trusted=False)
    if kind is Kind.TORCH_PROGRAM:
        return _ready(request, _load_program(request.source), trusted=False)
    if kind not in (Kind.TORCH_PICKLE, Kind.TORCH_LEGACY, Kind.SAFETENSORS):
        raise UnreadableModel(
            f"{request.source.name!r} is no PyTorch file: {kind.value}.",
            data="No model was written.",
            advice=f"graticule export inspect {request.source} names the command that fits.",
        )
    loaded = _load_tensors(request.source) if kind is Kind.SAFETENSORS else _load(request)
    if hasattr(loaded, "forward"):
        return _ready(request, loaded, trusted=True)
    return _ready(request, _with_weights(request, loaded), trusted=request.trust_source)


def _load(request: Request) -> Any:  # noqa: ANN401 (whatever was saved)
    return load_checkpoint(request.source, trust=request.trust_source)


def _ready(request: Request, module: Any, *, trusted: bool) -> TorchNetwork:  # noqa: ANN401 (a module)
    size = request.size or SIZE
    network = TorchNetwork(module, [_port(request, module)], trusted=trusted)
    network.name_outputs(size)
    return network


def _port(request: Request, module: Any) -> Port:  # noqa: ANN401 (a module)
    if request.channels:
        return picture_port(request.channels)
    size = request.size or SIZE
    fitting = (channels for channels in CHANNELS if _runs(module, channels, size))
    return picture_port(next(fitting, CHANNELS[0]))


def _runs(module: Any, channels: int, size: Size) -> bool:  # noqa: ANN401 (a module)
    try:
        TorchNetwork(module, [picture_port(channels)]).name_outputs(size)
    except ConversionFailed:
        return False
    return True


def _load_script(path: Path) -> Any:  # noqa: ANN401 (a module)
    torch = frameworks.torch()
    try:
        return torch.jit.load(str(path), map_location="cpu")
    except (RuntimeError, ValueError, OSError) as error:
        raise damaged(path, "TorchScript", one_line(error)) from error


def _load_program(path: Path) -> Any:  # noqa: ANN401 (a module)
    torch = frameworks.torch()
    try:
        return torch.export.load(str(path)).module()
    except Exception as error:  # as many kinds as there are parts in such a file
        raise damaged(path, "a PyTorch exported program", one_line(error)) from error


def _load_tensors(path: Path) -> dict[str, Any]:
    frameworks.torch()
    try:
        from safetensors.torch import load_file  # pyright: ignore[reportMissingImports]

        return load_file(str(path))
    except Exception as error:  # safetensors has an exception of its own, which is not exported
        raise damaged(path, "safetensors", one_line(error)) from error


def _with_weights(request: Request, loaded: object) -> Any:  # noqa: ANN401 (a module)
    state = without_prefix(state_of(request.source, loaded, request.state), "module.", "model.", "net.", "_orig_mod.")
    if not request.network:
        first = next(iter(state))
        raise BadInput(
            f"{request.source.name!r} holds weights ({first}, ...) but not the network that they belong to.",
            data="No model was written.",
            advice="Name the class that makes it: --network network.py:MyNet, with its arguments as"
            " --network-options '{\"classes\": 2}'.",
        )
    module = _make(request)
    missing, unexpected = module.load_state_dict(state, strict=False)
    if missing or unexpected:
        raise BadInput(
            f"The weights do not fit {request.network}: {len(missing)} are missing"
            f" ({', '.join(missing[:3]) or 'none'}), {len(unexpected)} belong to nothing"
            f" ({', '.join(unexpected[:3]) or 'none'}).",
            data="No model was written.",
            advice="Give the arguments that it was trained with as --network-options.",
        )
    return module


def _make(request: Request) -> Any:  # noqa: ANN401 (a module)
    """Build the network with the user's own code, which naming it allows to run."""
    place, _, name = request.network.rpartition(":")
    if not place:
        raise BadInput(f"--network: expected FILE.py:CLASS or MODULE:CLASS, found {request.network!r}.")
    try:
        factory = getattr(_import(place), name)
        made = factory(**request.network_options)
    except Exception as error:  # whatever the user's code raises
        raise BadInput(
            f"--network {request.network} with the options {request.network_options} failed:"
            f" {type(error).__name__}: {one_line(error)}.",
            data="No model was written.",
        ) from error
    if not hasattr(made, "load_state_dict"):
        raise BadInput(f"--network {request.network} made a {type(made).__name__}, expected a PyTorch module.")
    return made


def _import(place: str) -> ModuleType:
    if not place.endswith(".py"):
        return importlib.import_module(place)
    path = Path(place).resolve()
    specification = importlib.util.spec_from_file_location(f"graticule_source_{path.stem}", path)
    if specification is None or specification.loader is None or not path.is_file():
        raise FileNotFoundError(f"there is no file {place}")
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    with _neighbours(path.parent):
        specification.loader.exec_module(module)
    return module


@contextmanager
def _neighbours(folder: Path) -> Iterator[None]:
    """Modules beside the file can be imported, as when it is run as a script."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
