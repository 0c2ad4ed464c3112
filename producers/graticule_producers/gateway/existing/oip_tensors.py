"""Tensors in the form of the Open Inference Protocol: JSON, or JSON followed by the values' bytes."""

from __future__ import annotations

import json
import math
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from graticule.errors import UnfitTensors
from graticule.manifest import Manifest
from graticule.tensors import ElementType, TensorInfo, Tensors, check_inputs, encode_head
from graticule_producers.gateway.problems import Problem, mistakes_of
from graticule_producers.gateway.uploads import IN_MEMORY

DATA_TYPES: dict[ElementType, str] = {"float32": "FP32", "float16": "FP16", "uint8": "UINT8", "int64": "INT64"}
MOST_JSON = 64 * 1024**2
"""Bytes of JSON in a request: once parsed it is many times as large. Values may follow as bytes instead."""

_TYPES: dict[str, ElementType] = {code: name for name, code in DATA_TYPES.items()}
_AT_ONCE = 2
"""Long lists of numbers that are read or written at the same time."""
_slots = threading.BoundedSemaphore(_AT_ONCE)


class InputTensor(BaseModel):
    """An input, with its values or followed by them."""

    name: str
    datatype: str
    shape: list[int]
    data: Any = None
    parameters: dict[str, Any] = Field(default_factory=dict)


class RequestedOutput(BaseModel):
    """An output that the client wants."""

    name: str
    parameters: dict[str, Any] = Field(default_factory=dict)


class InferRequest(BaseModel):
    """What is to be inferred."""

    id: str = ""
    inputs: list[InputTensor]
    outputs: list[RequestedOutput] = Field(default_factory=list)
    parameters: dict[str, Any] = Field(default_factory=dict)


class OutputTensor(BaseModel):
    """An output. Its values are in `data`, or follow the JSON: `parameters.binary_data_size` bytes."""

    name: str
    datatype: str
    shape: list[int]
    data: list[float] | None = Field(default=None, description="Row by row.")
    parameters: dict[str, Any] | None = None


class InferResponse(BaseModel):
    """What was inferred."""

    model_name: str
    model_version: str
    id: str
    outputs: list[OutputTensor]


@dataclass(frozen=True)
class Input:
    """An input and where its values are."""

    info: TensorInfo
    values: bytes | None
    begin: int = 0
    """Where they begin in the body, when they are not here."""

    def copy(self, body: BinaryIO, to: BinaryIO) -> None:
        """Append the values."""
        if self.values is not None:
            to.write(self.values)
            return
        body.seek(self.begin)
        left = self.info.size
        while left:
            chunk = body.read(min(left, IN_MEMORY))
            to.write(chunk)
            left -= len(chunk)


@dataclass(frozen=True)
class Question:
    """A request that fits the model."""

    id: str
    inputs: list[Input]
    """In the manifest's order: the same tensors are always the same file."""
    outputs: dict[str, bool]
    """Name of each output that is wanted -> whether as bytes."""

    def write(self, body: BinaryIO) -> BinaryIO:
        """The tensors of the request whose body this is as a temporary file of the store's kind, at its beginning."""
        file = cast("BinaryIO", tempfile.SpooledTemporaryFile(IN_MEMORY))  # noqa: SIM115 (the caller closes it)
        file.write(encode_head([one.info for one in self.inputs]))
        for one in self.inputs:
            one.copy(body, file)
        file.seek(0)
        return file


def read_question(body: BinaryIO, size: int, header_length: int | None, manifest: Manifest) -> Question:
    """What a body of `size` bytes asks for. Raises Problem (400, 413, 422), UnfitTensors."""
    length = size if header_length is None else header_length
    if length > size:
        raise Problem(400, f"The JSON should have {length:,} bytes; the whole body has {size:,}.")
    if length > MOST_JSON:
        raise Problem(413, too_much_json(f"found {length:,}"))
    with _slots:
        request = _parse(body.read(length))
        inputs = _inputs(request.inputs, length, size, manifest)
    order = [tensor.name for tensor in manifest.inputs]
    inputs.sort(key=lambda one: order.index(one.info.name))
    return Question(request.id, inputs, _wanted(request, manifest))


def too_much_json(found: str) -> str:
    """The sentence of the refusal."""
    return f"At most {MOST_JSON:,} bytes of JSON are taken, {found}; send the values as binary data."


def answer_head(manifest: Manifest, question: Question, outputs: Tensors) -> tuple[bytes, list[bytes]]:
    """The JSON of the answer, and the values that follow it as bytes. Raises Problem (422)."""
    described, following = [], list[bytes]()
    for name, binary in question.outputs.items():
        array = outputs[name]
        entry: dict[str, Any] = {
            "name": name,
            "datatype": DATA_TYPES[cast("ElementType", array.dtype.name)],
            "shape": array.shape,
        }
        if binary:
            entry["parameters"] = {"binary_data_size": array.nbytes}
            following.append(array.tobytes())
        else:
            entry["data"] = array
        described.append(entry)
    head = {"model_name": manifest.name, "model_version": manifest.version, "id": question.id, "outputs": described}
    return _as_json(head), following


def _as_json(head: dict[str, Any]) -> bytes:
    with _slots:
        try:
            return json.dumps(head, default=_flat, separators=(",", ":"), allow_nan=False).encode()
        except ValueError:
            raise Problem(
                422, "An output holds NaN or infinity, which JSON does not know. Ask for it as binary data."
            ) from None


def _flat(array: NDArray[Any]) -> list[Any]:
    return array.ravel().tolist()


def _parse(text: bytes) -> InferRequest:
    try:
        return InferRequest.model_validate_json(text)
    except ValidationError as error:
        raise Problem(422, mistakes_of(error)) from None


def _inputs(tensors: Sequence[InputTensor], begin: int, end: int, manifest: Manifest) -> list[Input]:
    """The inputs, checked against the model. The values of binary ones begin at `begin` in the body."""
    infos = [_info(tensor) for tensor in tensors]
    check_inputs(manifest, infos)
    inputs = []
    for tensor, info in zip(tensors, infos, strict=True):
        size = _binary_size(tensor, info)
        inputs.append(Input(info, None, begin) if size else Input(info, _values(tensor, info)))
        begin += size
    if begin != end:
        raise Problem(422, f"The inputs' sizes add up to a body of {begin:,} bytes; it has {end:,}.")
    return inputs


def _info(tensor: InputTensor) -> TensorInfo:
    if tensor.datatype not in _TYPES:
        known = ", ".join(_TYPES)
        raise UnfitTensors(f"Input {tensor.name[:80]!r} is {tensor.datatype[:80]!r}; models here take {known}.")
    try:
        return TensorInfo(name=tensor.name, type=_TYPES[tensor.datatype], shape=tuple(tensor.shape))
    except ValidationError as error:
        raise Problem(422, mistakes_of(error)) from None


def _binary_size(tensor: InputTensor, info: TensorInfo) -> int:
    """Bytes of the input's values behind the JSON; 0: they are in it."""
    if "shared_memory_region" in tensor.parameters:
        raise Problem(422, f"Input {info.name!r} lies in shared memory, which this server cannot see. Send the values.")
    size = tensor.parameters.get("binary_data_size")
    if size is None:
        return 0
    if size != info.size or tensor.data is not None:
        raise Problem(422, f"Input {info.name!r} should have binary_data_size {info.size} and no data; found {size!r}.")
    return info.size


def _values(tensor: InputTensor, info: TensorInfo) -> bytes:
    """The values of an input that are JSON, nested or flat."""
    try:
        found = np.asarray(tensor.data)
    except (ValueError, OverflowError):  # lists of unequal length; too many lists in lists
        found = np.asarray(None)
    kinds = "iuf" if info.type.startswith("float") else "iu"
    shapes = (info.shape, (math.prod(info.shape),))
    limits = np.iinfo(info.type) if kinds == "iu" else None
    if found.dtype.kind not in kinds or found.shape not in shapes:
        raise Problem(422, f"The data of input {info.name!r} should be {info.elements:,} numbers, nested or flat.")
    if limits and (found.min() < limits.min or found.max() > limits.max):
        raise Problem(422, f"The data of input {info.name!r} should lie within {limits.min} and {limits.max}.")
    with np.errstate(over="ignore"):
        return found.astype(info.type).tobytes()


def _wanted(request: InferRequest, manifest: Manifest) -> dict[str, bool]:
    names = [tensor.name for tensor in manifest.outputs]
    default = bool(request.parameters.get("binary_data_output", False))
    if not request.outputs:
        return dict.fromkeys(names, default)
    wanted = {output.name: bool(output.parameters.get("binary_data", default)) for output in request.outputs}
    if unknown := sorted(set(wanted) - set(names)):
        known = ", ".join(map(repr, names))
        raise UnfitTensors(f"{manifest.reference} has no output {unknown[0][:80]!r}; it has {known}.")
    for output in request.outputs:
        if refused := {"classification", "shared_memory_region"} & set(output.parameters):
            raise Problem(422, f"Output {output.name!r}: this server knows no {sorted(refused)[0]}.")
    return wanted
