"""Tensors on their way: named arrays in one file, and whether a model takes them.

The file has the safetensors layout: the length of a header (8 bytes, little-endian), the header (JSON: name -> dtype,
shape, offsets), then the arrays' bytes one after another. Nothing in it can be executed or unpacked: what is read is
never larger than the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError

from graticule.errors import UnfitTensors
from graticule.jobs import Message
from graticule.manifest import Manifest, Tensor

Tensors = dict[str, NDArray[Any]]
"""Name -> array."""
ElementType = Literal["float32", "float16", "uint8", "int64"]
ELEMENT_TYPES: tuple[ElementType, ...] = get_args(ElementType)

MEDIA_TYPE = "application/x-safetensors"
FILE_NAME = "tensors.safetensors"

_CODES: dict[ElementType, str] = {"float32": "F32", "float16": "F16", "uint8": "U8", "int64": "I64"}
_TYPES = {code: name for name, code in _CODES.items()}
_LENGTH = 8
_LONGEST_HEADER = 1024**2
_ALIGNMENT = 8
_MOST_AXES = 32


class TensorInfo(Message):
    """A tensor without its values."""

    name: str = Field(max_length=500)
    type: ElementType = Field(description="Element type.")
    shape: tuple[int, ...] = Field(max_length=_MOST_AXES, description="Sizes, outermost first; none for a scalar.")

    @property
    def elements(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes of the values."""
        return self.elements * np.dtype(self.type).itemsize

    @classmethod
    def of(cls, name: str, array: NDArray[Any]) -> TensorInfo:
        """What an array is. Raises UnfitTensors for a type that models do not have."""
        if array.dtype.name not in ELEMENT_TYPES:
            raise UnfitTensors(f"Tensor {name!r} is {array.dtype}; models take {', '.join(ELEMENT_TYPES)}.")
        return cls(name=name, type=array.dtype.name, shape=array.shape)


class _Entry(Message):
    """A line of the header."""

    dtype: str
    shape: tuple[int, ...] = Field(max_length=_MOST_AXES)
    data_offsets: tuple[int, int]


_HEADER = TypeAdapter(dict[str, _Entry])


def encode_head(infos: Sequence[TensorInfo]) -> bytes:
    """What comes before the values, which follow in this order without gaps."""
    header, end = {}, 0
    for info in infos:
        begin, end = end, end + info.size
        header[info.name] = {"dtype": _CODES[info.type], "shape": info.shape, "data_offsets": (begin, end)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(_LENGTH, "little") + text


def encode(tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """The file for these arrays. Raises UnfitTensors for a type that models do not have."""
    infos = [TensorInfo.of(name, array) for name, array in tensors.items()]
    return b"".join([encode_head(infos), *(np.ascontiguousarray(array).data for array in tensors.values())])


def decode(data: bytes | memoryview) -> Tensors:
    """The arrays of a file, copied only where they are not aligned. Raises UnfitTensors for what is no such file."""
    infos, begin = _read_head(data)
    found: Tensors = {}
    for info in infos:
        values = np.frombuffer(data, info.type, info.elements, begin)
        found[info.name] = np.require(values, requirements="A").reshape(info.shape)
        begin += info.size
    return found


def check_inputs(manifest: Manifest, given: Sequence[TensorInfo]) -> None:
    """Raise UnfitTensors unless these are the inputs of a model, no larger than one run of it may be."""
    expected = {tensor.name: tensor for tensor in manifest.inputs}
    names = [info.name for info in given]
    if sorted(names) != sorted(expected):
        raise UnfitTensors(
            f"{manifest.reference} takes the tensor(s) {', '.join(map(repr, expected))};"
            f" found {', '.join(map(repr, names)) or 'none'}."
        )
    free: dict[str, int] = {}
    for info in given:
        _check_input(manifest, expected[info.name], info, free)
    _check_size(manifest, next(info for info in given if info.name == manifest.inputs[0].name))


def largest_inputs(manifest: Manifest) -> int | None:
    """Bytes of the largest inputs that `check_inputs` lets pass; None: their shape does not tell."""
    sizes = [_largest(manifest, tensor) for tensor in manifest.inputs]
    return sum(size for size in sizes if size is not None) if None not in sizes else None


def _check_input(manifest: Manifest, expected: Tensor, info: TensorInfo, free: dict[str, int]) -> None:
    """`free`: sizes of the free dimensions that are known from the inputs before; this one's are added."""
    what = f"Input {info.name!r} of {manifest.reference}"
    if info.type != expected.type:
        raise UnfitTensors(f"{what} is {expected.type}; found {info.type}.")
    wanted = f"has the shape {list(expected.shape)}; found {list(info.shape)}"
    if len(info.shape) != len(expected.shape):
        raise UnfitTensors(f"{what} {wanted}.")
    for size, dimension in zip(info.shape, expected.shape, strict=True):
        agreed = dimension if isinstance(dimension, int) else free.setdefault(dimension, size)
        if size != agreed or size < 1:
            raise UnfitTensors(f"{what} {wanted}.")


def _check_size(manifest: Manifest, info: TensorInfo) -> None:
    """The first input's pixels: within one run of the network, and of a size that it can halve again and again."""
    if not _is_picture(info.shape):
        return
    policy = manifest.preprocessing.size
    batch, _, height, width = info.shape
    if height % policy.multiple or width % policy.multiple:
        raise UnfitTensors(
            f"Height and width for {manifest.reference} must be multiples of {policy.multiple};"
            f" found {height} x {width}."
        )
    area = math.prod(policy.tile) if policy.policy != "multiple-of" else policy.largest
    if height * width > area:
        raise UnfitTensors(
            f"{manifest.reference} takes up to {area:,} pixels at once; found {height} x {width} = {height * width:,}.",
            advice="Larger pictures go to /api/v1/jobs, which cuts them into tiles.",
        )
    most = manifest.batch_limit(height, width)
    if batch > most:
        raise UnfitTensors(f"{manifest.reference} takes up to {most} of {height} x {width} at once; found {batch}.")


def _largest(manifest: Manifest, tensor: Tensor) -> int | None:
    """Bytes of the largest tensor for an input; None: its free dimensions have no limit."""
    fixed = [size for size in tensor.shape if isinstance(size, int)]
    item = np.dtype(tensor.type).itemsize
    if len(fixed) == len(tensor.shape):
        return math.prod(fixed) * item
    if tensor.name != manifest.inputs[0].name or not _is_picture(tensor.shape):
        return None
    policy = manifest.preprocessing.size
    pixels = policy.largest if policy.policy == "multiple-of" else manifest.batch.maximum * math.prod(policy.tile)
    channels = tensor.shape[1]
    return pixels * channels * item if isinstance(channels, int) else None


def _is_picture(shape: Sequence[object]) -> bool:
    """batch x channels x height x width."""
    return len(shape) == 4


def _read_head(data: bytes | memoryview) -> tuple[list[TensorInfo], int]:
    """What is in a file, in the order of the values, and where they begin."""
    length = int.from_bytes(data[:_LENGTH], "little")
    begin = _LENGTH + length
    if length > _LONGEST_HEADER or begin > len(data):
        raise UnfitTensors(f"Expected a file of tensors; found {len(data):,} bytes that are none.")
    try:
        header = _HEADER.validate_json(bytes(data[_LENGTH:begin]))
        entries = sorted(header.items(), key=lambda item: item[1].data_offsets)
        infos = [TensorInfo.model_validate(_described(name, entry)) for name, entry in entries]
    except ValidationError as error:
        mistakes = "; ".join(mistake["msg"] for mistake in error.errors(include_url=False))
        raise UnfitTensors(f"The header of a file of tensors cannot be read: {mistakes}.") from error
    end = 0
    for (name, entry), info in zip(entries, infos, strict=True):
        if min(info.shape, default=0) < 0 or entry.data_offsets != (end, end + info.size):
            raise UnfitTensors(f"Tensor {name!r} does not lie where the header of its file says.")
        end += info.size
    if begin + end != len(data):
        raise UnfitTensors(f"A file of tensors should have {begin + end:,} bytes; it has {len(data):,}.")
    return infos, begin


def _described(name: str, entry: _Entry) -> dict[str, Any]:
    return {"name": name, "type": _TYPES.get(entry.dtype, entry.dtype), "shape": entry.shape}
