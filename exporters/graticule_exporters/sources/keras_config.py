"""Reads the description that Keras files carry of their network, without Keras and without running any of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

_CODE_CLASSES = ("Lambda", "TFOpLambda", "SlicingOpLambda", "PyFunc")
_OWN_LAMBDAS = ("TFOpLambda", "SlicingOpLambda")
"""Name a function of TensorFlow; no code of their own."""


def hidden_code(config: dict[str, Any]) -> str:
    """The first thing in a network's description that would run code of the file or of another module; '' if none."""
    for part in _objects(config):
        name = str(part.get("class_name", ""))
        module = part.get("module")
        if name in _CODE_CLASSES and name not in _OWN_LAMBDAS:
            return f"a {name} layer"
        if name in ("__lambda__", "function") and not _is_own(module):
            return "a function"
        if isinstance(module, str) and not _is_own(module):
            return f"{module}.{name}"
    return ""


def custom_layers(config: dict[str, Any]) -> tuple[str, ...]:
    """Layers that were registered by whoever trained the network; Keras cannot know them."""
    names = (str(part.get("registered_name") or "") for part in _objects(config))
    return tuple(sorted({name for name in names if ">" in name}))


def input_shapes(config: dict[str, Any]) -> Iterator[tuple[str, tuple[object, ...]]]:
    """Name and shape of each input layer, batch first, `?` where a size is free."""
    for layer in _layers(config):
        told = layer.get("config") or {}
        shape = told.get("batch_shape") or told.get("batch_input_shape")
        if shape:
            yield str(told.get("name", "input")), tuple("?" if size is None else size for size in shape)


def describe_config(config: dict[str, Any]) -> str:
    """`12 Conv2D, 3 MaxPooling2D, ...`."""
    counted = Counter(str(layer.get("class_name")) for layer in _layers(config))
    return ", ".join(f"{number} {name}" for name, number in counted.most_common())


def _layers(config: dict[str, Any]) -> list[dict[str, Any]]:
    layers = (config.get("config") or {}).get("layers") if isinstance(config.get("config"), dict) else None
    return [layer for layer in layers or [] if isinstance(layer, dict)]


def _objects(value: object) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if "class_name" in value:
            yield value
        for part in value.values():
            yield from _objects(part)
    elif isinstance(value, list):
        for part in value:
            yield from _objects(part)


def _is_own(module: object) -> bool:
    return module is None or (
        isinstance(module, str) and module.split(".")[0] in ("keras", "tf_keras", "builtins", "tensorflow")
    )
