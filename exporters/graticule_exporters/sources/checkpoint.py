"""Reads PyTorch checkpoints: weights only, unless the user trusts the file."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from graticule.errors import UnreadableModel
from graticule_exporters import frameworks
from graticule_exporters.files import check_file, damaged, untrusted
from graticule_exporters.graph import one_line

STATE_KEYS = ("state_dict", "model_state_dict", "model", "average", "ema", "weights")
"""Where trainings keep the weights within a checkpoint, in this order."""
_NUMPY = (
    np.ndarray,
    np.dtype,
    np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    np._core.multiarray.scalar,  # type: ignore[attr-defined]
    *(type(np.dtype(name)) for name in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")),
)
"""Numbers and arrays, as checkpoints have them among their settings; they hold no code."""


def load_checkpoint(path: Path, *, trust: bool) -> Any:  # noqa: ANN401 (whatever was saved)
    """What a `.pth`, `.pt` or `.ckpt` holds. Raises UnreadableModel, MissingPart.

    Such files are pickles, which may hold any program. Only numbers, text and tensors are taken from them; `trust`
    lifts that.
    """
    check_file(path)
    torch = frameworks.torch()
    try:
        with torch.serialization.safe_globals(list(_NUMPY)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not trust:
            raise untrusted(path, _reason(error)) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise damaged(path, "a PyTorch file", one_line(error)) from error
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # whatever the code within raises
        raise damaged(path, "a PyTorch file", f"{type(error).__name__}: {one_line(error)}") from error


def state_of(path: Path, loaded: object, key: str = "") -> dict[str, Any]:
    """The weights by name, from wherever the training put them; `key` is a dotted path. Raises UnreadableModel."""
    found = loaded
    for part in key.split(".") if key else ():
        found = found[part] if isinstance(found, Mapping) and part in found else None
    if key and found is None:
        raise damaged(path, "a checkpoint", f"it holds no {key!r}")
    if isinstance(found, Mapping) and not key:
        found = next((found[name] for name in STATE_KEYS if _is_state(found.get(name))), found)
    if not _is_state(found):
        told = (
            f"its parts are {', '.join(map(str, list(found)[:8]))}"
            if isinstance(found, Mapping)
            else f"it holds a {type(found).__name__}"
        )
        raise UnreadableModel(
            f"{path.name!r} holds no weights by name: {told}.",
            data="No model was written.",
            advice="Name their place with --state, e.g. --state state_dict.",
        )
    assert isinstance(found, Mapping)
    return {str(name): tensor for name, tensor in found.items()}


def without_prefix(state: Mapping[str, Any], *prefixes: str) -> dict[str, Any]:
    """Without what a training framework put before every name, such as `model.` or `module.`."""
    names = dict(state)
    for prefix in prefixes:
        if names and all(name.startswith(prefix) for name in names):
            names = {name.removeprefix(prefix): tensor for name, tensor in names.items()}
    return names


def constants(loaded: object) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation among a Lightning checkpoint's `hyper_parameters`; empty when it has none."""
    settings = loaded.get("hyper_parameters") if isinstance(loaded, Mapping) else None
    if not isinstance(settings, Mapping) or settings.get("mean") is None or settings.get("std") is None:
        return (), ()
    return _numbers(settings["mean"]), _numbers(settings["std"])


def describe(path: Path) -> dict[str, Any]:
    """For `inspect`: the parts of a checkpoint, its tensors, and whether it holds code."""
    try:
        loaded = load_checkpoint(path, trust=False)
    except UnreadableModel as error:
        if "--trust-source" not in error.advice:
            raise
        return {"warnings": (error.summary,)}
    facts = {"parts": ", ".join(map(str, loaded)) if isinstance(loaded, Mapping) and len(loaded) < 20 else "weights"}
    try:
        state = state_of(path, loaded)
    except UnreadableModel as error:
        return {"facts": facts, "warnings": (error.summary,)}
    first, last = (
        f"{name} {tuple(tensor.shape)}" for name, tensor in (next(iter(state.items())), list(state.items())[-1])
    )
    facts["weights"] = (
        f"{sum(tensor.numel() for tensor in state.values()):,} in {len(state)} tensors: {first} ... {last}"
    )
    mean, deviation = constants(loaded)
    told = {"facts": facts, "family": _family(state)}
    if mean:
        facts["mean"], facts["std"] = (", ".join(f"{value:g}" for value in values) for values in (mean, deviation))
    return told


def _family(state: Mapping[str, Any]) -> str:
    """The kind of source that the names of the weights look like."""
    if any("segformer." in name for name in state):
        return "segformer"
    return "smp" if any("segmentation_head." in name for name in state) else "torch"


def _is_state(found: object) -> bool:
    return isinstance(found, Mapping) and bool(found) and all(hasattr(value, "numel") for value in found.values())


def _numbers(found: Any) -> tuple[float, ...]:  # noqa: ANN401 (a tensor, an array, a list or a number)
    return tuple(float(value) for value in np.atleast_1d(np.asarray(found, dtype=np.float64)).ravel())


def _reason(error: Exception) -> str:
    """The name of what it would have called, out of a long text."""
    for line in str(error).splitlines():
        if "GLOBAL" in line or "nsupported" in line:
            return one_line(line.partition("WeightsUnpickler error:")[2] or line, 120).strip().partition(" was not")[0]
    return one_line(error, 120)
