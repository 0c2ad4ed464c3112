"""The frameworks that trained networks come from; each is imported when a source needs it, and may be missing."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from graticule.errors import GraticuleError, MissingPart

KERAS_EXTRA = "export-keras"
TORCH_EXTRA = "export-torch"
RUNTIME_EXTRA = "export,worker"

_MISSING_OPERATOR = re.compile(r"operator (torchvision::\w+) does not exist")


def onnxruntime() -> Any:  # noqa: ANN401 (a module)
    """What runs the converted network. Raises MissingPart."""
    return _import("onnxruntime", "Comparing a converted model", RUNTIME_EXTRA)


def tensorflow() -> Any:  # noqa: ANN401 (a module)
    """TensorFlow, without its chatter and without a GPU. Raises MissingPart."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    module = _import("tensorflow", "Converting Keras and TensorFlow models", KERAS_EXTRA)
    module.get_logger().setLevel(logging.ERROR)
    return module


def keras2() -> Any:  # noqa: ANN401 (a module)
    """Keras 2, which reads the `.h5` files that Keras 3 does not. Raises MissingPart."""
    tensorflow()
    return _import("tf_keras", "Converting Keras 2 models", KERAS_EXTRA)


def keras3() -> Any:  # noqa: ANN401 (a module)
    """Keras 3 on TensorFlow. Raises MissingPart."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    tensorflow()
    return _import("keras", "Converting Keras models", KERAS_EXTRA)


def tf2onnx() -> Any:  # noqa: ANN401 (a module)
    """The converter from TensorFlow to ONNX. Raises MissingPart."""
    tensorflow()
    module = _import("tf2onnx", "Converting Keras and TensorFlow models", KERAS_EXTRA)
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
    return module


def h5py() -> Any:  # noqa: ANN401 (a module)
    """Reads `.h5` files. Raises MissingPart."""
    return _import("h5py", "Reading Keras models", KERAS_EXTRA)


def torch() -> Any:  # noqa: ANN401 (a module)
    """PyTorch. Raises MissingPart."""
    warnings.filterwarnings("ignore", module=r"torch(\.|$)")
    return _import("torch", "Converting PyTorch models", TORCH_EXTRA)


def segmentation_models() -> Any:  # noqa: ANN401 (a module)
    """segmentation_models_pytorch, which must not look for anything on the network. Raises MissingPart."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    _load_torchvision()
    return _import("segmentation_models_pytorch", "Converting models of segmentation_models_pytorch", TORCH_EXTRA)


def transformers() -> Any:  # noqa: ANN401 (a module)
    """Hugging Face transformers, which must not look for anything on the network. Raises MissingPart."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    _load_torchvision()
    return _import("transformers", "Converting SegFormer models", TORCH_EXTRA)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what the frameworks print, also from C++, to themselves. An unforeseen error brings it up again."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    kept = [os.dup(1), os.dup(2)]
    with tempfile.TemporaryFile() as heard:
        os.dup2(heard.fileno(), 1)
        os.dup2(heard.fileno(), 2)
        foreseen = False
        try:
            yield
            foreseen = True
        except GraticuleError:
            foreseen = True
            raise
        finally:
            for place, (stream, original) in enumerate(zip((sys.stdout, sys.stderr), kept, strict=True), 1):
                stream.flush()
                os.dup2(original, place)
                os.close(original)
            if not foreseen:
                heard.seek(0)
                sys.stderr.write(heard.read().decode(errors="replace"))


def versions(*packages: str) -> dict[str, str]:
    """Installed versions of those packages that are there."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _import(module: str, part: str, extra: str) -> Any:  # noqa: ANN401 (a module)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingPart(part, extra, error.name or module) from error


def _load_torchvision() -> None:
    """Import torchvision even when its compiled operators do not fit this build of PyTorch.

    The wheel of the package index is built for CUDA; beside a CPU build of PyTorch it stops at the first operator
    that it misses. No network here uses them, so they are declared without a body.
    """
    library = torch().library.Library("torchvision", "FRAGMENT")
    for _ in range(8):
        try:
            importlib.import_module("torchvision")
        except ModuleNotFoundError:
            return  # the package that wants it says so
        except RuntimeError as error:
            missing = _MISSING_OPERATOR.search(str(error))
            if missing is None:
                raise
            library.define(f"{missing[1].split('::')[1]}(Tensor dets, Tensor scores, float threshold) -> Tensor")
            _DECLARED.append(library)
        else:
            return


_DECLARED: list[Any] = []
"""Kept: the declarations go with the object that made them."""
