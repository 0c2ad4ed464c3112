"""Networks of segmentation_models_pytorch: weights, Lightning checkpoints, and folders of `save_pretrained`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graticule.errors import BadInput
from graticule.manifest import Normalisation
from graticule_exporters import frameworks
from graticule_exporters.files import damaged
from graticule_exporters.graph import one_line
from graticule_exporters.kinds import Kind, detect, train_config
from graticule_exporters.network import Hints
from graticule_exporters.request import Request
from graticule_exporters.sources.checkpoint import constants, load_checkpoint, state_of, without_prefix
from graticule_exporters.sources.torch_network import TorchNetwork, picture_port

PACKAGES = ("segmentation_models_pytorch", "timm")
STRIDE = 32
SIZE = (256, 256)
_HEAD = "segmentation_head.0.weight"
_SPELLINGS = re.compile(r"[^a-z0-9]")


def open_network(request: Request) -> TorchNetwork:
    """Build the network and load its weights. Raises UnreadableModel, BadInput, MissingPart."""
    smp = frameworks.segmentation_models()
    if request.source.is_dir():
        module = _from_folder(smp, request)
        return _ready(module, None, trusted=False)
    loaded = load_checkpoint(request.source, trust=request.trust_source)
    state = without_prefix(state_of(request.source, loaded, request.state), "module.", "model.", "net.")
    config = train_config(request.source) or {}
    architecture = request.architecture or str(config.get("smp_arch", ""))
    encoder = request.encoder or str(config.get("smp_encoder", ""))
    if not (architecture and encoder):
        raise BadInput(
            f"{request.source.name!r} does not say which network it is, and no train_config.json with smp_arch and"
            " smp_encoder lies beside it.",
            data="No model was written.",
            advice="Name them, e.g. --architecture unet --encoder resnet34.",
        )
    module = _make(smp, request, state, architecture, encoder)
    return _ready(module, _normalisation(loaded), trusted=request.trust_source, notes=_notes(config))


def _ready(
    module: Any,  # noqa: ANN401
    normalisation: Normalisation | None,
    *,
    trusted: bool,
    notes: Mapping[str, Any] | None = None,
) -> TorchNetwork:
    channels = _channels(module.state_dict())
    hints = Hints(normalisation=normalisation, multiple=STRIDE, notes=dict(notes or {}))
    network = TorchNetwork(module, [picture_port(channels)], packages=PACKAGES, hints=hints, trusted=trusted)
    network.name_outputs(SIZE)
    return network


def _from_folder(smp: Any, request: Request) -> Any:  # noqa: ANN401 (a module)
    if detect(request.source).kind is not Kind.SMP:
        raise damaged(request.source, "a folder of segmentation_models_pytorch", "its config.json names no encoder")
    try:
        return smp.from_pretrained(str(request.source), local_files_only=True)
    except Exception as error:  # of several packages
        raise damaged(request.source, "a folder of segmentation_models_pytorch", one_line(error)) from error


def _make(smp: Any, request: Request, state: Mapping[str, Any], architecture: str, encoder: str) -> Any:  # noqa: ANN401
    known = {_plain(name): name for name in smp.MODEL_ARCHITECTURES_MAPPING}
    if _plain(architecture) not in known:
        raise BadInput(
            f"segmentation_models_pytorch has no architecture {architecture!r}.",
            data="No model was written.",
            advice=f"It has: {', '.join(sorted(known.values()))}.",
        )
    if _HEAD not in state:
        raise damaged(request.source, f"weights of {architecture}", f"they have no {_HEAD}")
    options = {"in_channels": _channels(state), "classes": int(state[_HEAD].shape[0]), **request.network_options}
    try:
        module = smp.create_model(known[_plain(architecture)], encoder_name=encoder, encoder_weights=None, **options)
    except Exception as error:  # KeyError for an unknown encoder, TypeError for unknown options
        raise BadInput(
            f"segmentation_models_pytorch cannot make {architecture} with the encoder {encoder!r}:"
            f" {one_line(error, 160)}.",
            data="No model was written.",
        ) from error
    missing, unexpected = _load(request.source, module, state)
    if missing or unexpected:
        raise BadInput(
            f"The weights do not fit {architecture} with {encoder}: {len(missing)} are missing"
            f" ({', '.join(missing[:3]) or 'none'}), {len(unexpected)} belong to nothing"
            f" ({', '.join(unexpected[:3]) or 'none'}).",
            data="No model was written.",
            advice="Check --architecture and --encoder; further arguments go into --network-options as JSON.",
        )
    return module


def _load(path: Path, module: Any, state: Mapping[str, Any]) -> tuple[list[str], list[str]]:  # noqa: ANN401
    try:
        result = module.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise damaged(path, "weights of this network", one_line(error, 200)) from error
    return list(result.missing_keys), list(result.unexpected_keys)


def _channels(state: Mapping[str, Any]) -> int:
    first = next(tensor for name, tensor in state.items() if name.startswith("encoder.") and tensor.ndim == 4)
    return int(first.shape[1])


def _normalisation(loaded: object) -> Normalisation | None:
    mean, deviation = constants(loaded)
    return Normalisation(kind="physical", mean=mean, std=deviation) if mean else None


def _notes(config: Mapping[str, Any]) -> dict[str, Any]:
    return {"train_config": dict(config)} if config else {}


def _plain(name: str) -> str:
    """`DeepLabV3+` and `deeplabv3plus` are the same."""
    return _SPELLINGS.sub("", name.lower().replace("+", "plus"))
