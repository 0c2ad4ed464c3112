"""Tells what a file of a trained model is, by its bytes: names lie, and nothing of it is run."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from graticule.errors import UnreadableModel
from graticule_exporters.files import check_file, damaged

TRAIN_CONFIG = "train_config.json"
HF_CONFIG = "config.json"


class Kind(StrEnum):
    """What a source is."""

    ONNX = "ONNX"
    KERAS2 = "Keras 2 (.h5)"
    KERAS3 = "Keras 3 (.keras)"
    SAVED_MODEL = "TensorFlow SavedModel"
    TFLITE = "TensorFlow Lite"
    TORCHSCRIPT = "TorchScript"
    TORCH_PROGRAM = "PyTorch exported program (.pt2)"
    TORCH_PICKLE = "PyTorch file"
    TORCH_LEGACY = "PyTorch file of the old form"
    SEGFORMER = "SegFormer, Hugging Face folder"
    SMP = "segmentation_models_pytorch folder"
    SAFETENSORS = "safetensors weights"


COMMANDS: dict[Kind, str] = {
    Kind.ONNX: "onnx",
    Kind.KERAS2: "keras",
    Kind.KERAS3: "keras",
    Kind.SAVED_MODEL: "keras",
    Kind.TFLITE: "tflite",
    Kind.TORCHSCRIPT: "torch",
    Kind.TORCH_PROGRAM: "torch",
    Kind.TORCH_PICKLE: "torch",
    Kind.TORCH_LEGACY: "torch",
    Kind.SAFETENSORS: "torch",
    Kind.SEGFORMER: "segformer",
    Kind.SMP: "smp",
}
_HDF5 = b"\x89HDF\r\n\x1a\n"
_HEAD = 512


@dataclass(frozen=True)
class Source:
    """A file or folder and what it is."""

    path: Path
    kind: Kind


def detect(path: Path) -> Source:
    """What a source is. Raises UnreadableModel when it is of no kind that graticule knows, or damaged."""
    if path.is_dir():
        return Source(path, _folder_kind(path))
    check_file(path)
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
    return Source(path, _file_kind(path, head))


def train_config(path: Path) -> dict[str, Any] | None:
    """The `train_config.json` beside a checkpoint, or one folder above. Raises UnreadableModel when it is damaged."""
    for folder in (path.parent, path.parent.parent):
        if (found := folder / TRAIN_CONFIG).is_file():
            return read_json(found)
    return None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises UnreadableModel."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(path, "JSON", str(error)) from error
    if not isinstance(found, dict):
        raise damaged(path, "a JSON object", f"found {type(found).__name__}")
    return found


def _folder_kind(folder: Path) -> Kind:
    if (folder / "saved_model.pb").is_file():
        return Kind.SAVED_MODEL
    if (folder / HF_CONFIG).is_file():
        config = read_json(folder / HF_CONFIG)
        if config.get("model_type") == "segformer":
            return Kind.SEGFORMER
        if "encoder_name" in config:
            return Kind.SMP
        raise UnreadableModel(
            f"{folder.name!r} is a Hugging Face folder of the type {config.get('model_type')!r}; graticule converts"
            " 'segformer' and folders of segmentation_models_pytorch.",
            data="No model was written.",
        )
    raise UnreadableModel(
        f"{str(folder)!r} is a folder without saved_model.pb and {HF_CONFIG}: no model was found in it.",
        data="No model was written.",
    )


def _file_kind(path: Path, head: bytes) -> Kind:
    if head.startswith(_HDF5):
        return Kind.KERAS2
    if head[4:8] == b"TFL3":
        return Kind.TFLITE
    if head.startswith(b"PK\x03\x04"):
        return _zip_kind(path)
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return Kind.TORCH_LEGACY
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return Kind.SAFETENSORS
    # An ONNX file has no mark of its own: it begins with the field `ir_version`.
    if head[:1] == b"\x08" and path.suffix.lower() in (".onnx", ""):
        return Kind.ONNX
    if path.suffix.lower() == ".onnx":
        raise damaged(path, "ONNX", f"it begins with {head[:8].hex(' ')}")
    raise UnreadableModel(
        f"{path.name!r} is of no kind that graticule knows: it begins with {head[:8].hex(' ')}.",
        data="No model was written.",
        advice="Known: " + ", ".join(kind.value for kind in COMMANDS) + ".",
    )


def _zip_kind(path: Path) -> Kind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise damaged(path, "a .keras or PyTorch file", f"{error}".rstrip(".")) from error
    if HF_CONFIG in names and any(name.endswith(".weights.h5") for name in names):
        return Kind.KERAS3
    if any(name.endswith("/constants.pkl") for name in names) and any("/code/" in name for name in names):
        return Kind.TORCHSCRIPT
    if any(name.endswith(("archive_format", "models/model.json")) for name in names):
        return Kind.TORCH_PROGRAM
    if any(name.endswith("data.pkl") for name in names):
        return Kind.TORCH_PICKLE
    raise damaged(path, "a trained model", "it is a ZIP archive of something else")
