"""SegFormer of Hugging Face transformers: folders, and Lightning checkpoints with their `train_config.json`."""

from __future__ import annotations

import importlib
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graticule.errors import BadInput, UnreadableModel
from graticule.manifest import Normalisation
from graticule_exporters import frameworks
from graticule_exporters.files import damaged
from graticule_exporters.graph import one_line
from graticule_exporters.kinds import HF_CONFIG, Kind, detect, read_json, train_config
from graticule_exporters.network import Hints
from graticule_exporters.request import Request
from graticule_exporters.sources.checkpoint import constants, load_checkpoint, state_of, without_prefix
from graticule_exporters.sources.torch_network import TorchNetwork, picture_port

PACKAGES = ("transformers", "safetensors")
STRIDE = 32
SIZE = (256, 256)
PREPROCESSOR = "preprocessor_config.json"

_BACKBONES: dict[str, dict[str, Any]] = {
    "b0": {"depths": [2, 2, 2, 2], "hidden_sizes": [32, 64, 160, 256], "decoder_hidden_size": 256},
    "b1": {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 320, 512], "decoder_hidden_size": 256},
    "b2": {"depths": [3, 4, 6, 3], "hidden_sizes": [64, 128, 320, 512], "decoder_hidden_size": 768},
    "b3": {"depths": [3, 4, 18, 3], "hidden_sizes": [64, 128, 320, 512], "decoder_hidden_size": 768},
    "b4": {"depths": [3, 8, 27, 3], "hidden_sizes": [64, 128, 320, 512], "decoder_hidden_size": 768},
    "b5": {"depths": [3, 6, 40, 3], "hidden_sizes": [64, 128, 320, 512], "decoder_hidden_size": 768},
}
"""The published sizes of the network (Xie et al. 2021, table 6)."""
_LETTER = re.compile(r"(?<![a-z0-9])b[0-5](?![0-9])")
_FIRST = re.compile(r"^(?P<before>.*?)(segformer|decode_head)\.")
_FIRST_LAYER = re.compile(r"(patch_embeddings\.0|stages\.0\.patch_embeddings)\.proj\.weight$")
"""As transformers 4 and 5 call it."""


def open_network(request: Request) -> TorchNetwork:
    """Load a SegFormer. Raises UnreadableModel, BadInput, MissingPart."""
    transformers = frameworks.transformers()
    if request.source.is_dir():
        return _open_folder(transformers, request.source)
    loaded = load_checkpoint(request.source, trust=request.trust_source)
    config = train_config(request.source) or {}
    state = _network_state(request.source, state_of(request.source, loaded, request.state))
    settings = _settings(transformers, request, config, state)
    model = _with_weights(transformers, request.source, settings, state)
    mean, deviation = constants(loaded)
    normalisation = Normalisation(kind="physical", mean=mean, std=deviation) if mean else None
    notes = {"train_config": config} if config else {}
    return _ready(
        model, Hints(normalisation, multiple=STRIDE, classes=_classes(settings), notes=notes), request.trust_source
    )


def _open_folder(transformers: Any, folder: Path) -> TorchNetwork:  # noqa: ANN401
    if detect(folder).kind is not Kind.SEGFORMER:
        raise UnreadableModel(f"{folder.name!r} is no SegFormer folder.", data="No model was written.")
    try:
        model = transformers.SegformerForSemanticSegmentation.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # of several packages
        raise damaged(folder, "a SegFormer folder", one_line(error)) from error
    hints = Hints(_folder_normalisation(folder), multiple=STRIDE, classes=_classes(model.config))
    return _ready(model, hints, trusted=False)


def _ready(model: Any, hints: Hints, trusted: bool) -> TorchNetwork:  # noqa: ANN401
    module = _enlarging(model)
    network = TorchNetwork(
        module, [picture_port(int(model.config.num_channels))], packages=PACKAGES, hints=hints, trusted=trusted
    )
    network.name_outputs(SIZE)
    return network


def _enlarging(model: Any) -> Any:  # noqa: ANN401 (a module)
    """SegFormer answers at a quarter of the size; people enlarge the logits bilinearly, so the graph does."""
    torch = frameworks.torch()

    class Enlarging(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixels: Any) -> Any:  # noqa: ANN401 (tensors)
            logits = self.model(pixel_values=pixels, return_dict=False)[0]
            return torch.nn.functional.interpolate(logits, size=pixels.shape[-2:], mode="bilinear", align_corners=False)

    return Enlarging()


def _with_weights(transformers: Any, path: Path, settings: Any, state: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """By way of a Hugging Face folder: that way weights of older releases of transformers are known by their names."""
    safetensors = importlib.import_module("safetensors.torch")
    with tempfile.TemporaryDirectory() as folder:
        settings.save_pretrained(folder)
        tensors = {name: tensor.contiguous().clone() for name, tensor in state.items()}
        safetensors.save_file(tensors, str(Path(folder) / "model.safetensors"), metadata={"format": "pt"})
        model, told = transformers.SegformerForSemanticSegmentation.from_pretrained(
            folder, local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True
        )
    faults = {kind: list(told[f"{kind}_keys"]) for kind in ("missing", "unexpected", "mismatched")}
    if any(faults.values()):
        words = ", ".join(f"{len(names)} are {kind}" for kind, names in faults.items() if names)
        raise damaged(path, "a SegFormer checkpoint", f"its weights do not fit depths {settings.depths}: {words}")
    return model


def _network_state(path: Path, state: Mapping[str, Any]) -> dict[str, Any]:
    """The network's own weights, without what Lightning put before their names, and without those of a loss."""
    match = next((found for name in state if (found := _FIRST.match(name))), None)
    if match is None:
        raise damaged(path, "a SegFormer checkpoint", "its weights have no part 'segformer'")
    own = {name: tensor for name, tensor in state.items() if name.startswith(match["before"])}
    return without_prefix(own, match["before"]) if match["before"] else dict(own)


def _settings(transformers: Any, request: Request, config: Mapping[str, Any], state: Mapping[str, Any]) -> Any:  # noqa: ANN401
    beside = request.source.with_name(f"{request.source.name}.dir")
    if (beside / HF_CONFIG).is_file():
        return transformers.SegformerConfig(**_plain(read_json(beside / HF_CONFIG)))
    name = request.encoder or str(config.get("config_name", ""))
    letter = _LETTER.search(name.lower())
    if letter is None:
        raise BadInput(
            f"{request.source.name!r} does not say which size of SegFormer it is: expected b0 ... b5 in config_name of"
            f" a train_config.json beside it, found {name!r}.",
            data="No model was written.",
            advice="Name it, e.g. --encoder b0, or put the Hugging Face config.json into a folder"
            f" {beside.name!r} beside it.",
        )
    sizes = {**_BACKBONES[letter[0]], "num_labels": int(state["decode_head.classifier.weight"].shape[0])}
    first = next(tensor for name, tensor in state.items() if _FIRST_LAYER.search(name))
    return transformers.SegformerConfig(**sizes, num_channels=int(first.shape[1]))


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Without what tells how it was saved."""
    return {name: value for name, value in config.items() if name not in ("architectures", "transformers_version")}


def _classes(config: Any) -> tuple[str, ...]:  # noqa: ANN401
    """Names of the classes, unless they are only numbered."""
    names = [str(config.id2label[index]) for index in sorted(config.id2label)]
    return () if all(name.startswith("LABEL_") for name in names) else tuple(names)


def _folder_normalisation(folder: Path) -> Normalisation | None:
    path = folder / PREPROCESSOR
    if not path.is_file():
        return None
    told = read_json(path)
    if told.get("do_normalize") is False or not told.get("image_mean"):
        return None
    kind = "physical" if told.get("do_rescale") is False else "standardise"
    return Normalisation(kind=kind, mean=tuple(told["image_mean"]), std=tuple(told["image_std"]))
