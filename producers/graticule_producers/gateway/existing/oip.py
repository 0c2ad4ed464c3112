"""`/oip/v2`: the Open Inference Protocol, with its extension for binary data."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, Header, Path, Request, Response
from pydantic import BaseModel, Field

from graticule import __version__
from graticule.errors import GraticuleError, UnknownModel
from graticule.jobs import MODEL_PATTERN, VERSION_PATTERN, Job, Lane
from graticule.manifest import Manifest, Tensor
from graticule.results import Result
from graticule.tensors import decode, largest_inputs
from graticule_producers.gateway.api.jobs import Reading, Submitting
from graticule_producers.gateway.core import Core, Gateway
from graticule_producers.gateway.existing.asking import ended
from graticule_producers.gateway.existing.oip_tensors import (
    DATA_TYPES,
    MOST_JSON,
    InferResponse,
    Question,
    answer_head,
    read_question,
    too_much_json,
)
from graticule_producers.gateway.problems import Problem, documented
from graticule_producers.gateway.uploads import Upload, read_body

router = APIRouter(prefix="/oip/v2", tags=["open inference protocol"])


Name = Annotated[str, Path(pattern=rf"^{MODEL_PATTERN}$", description="Name of a model.")]
Version = Annotated[str, Path(pattern=rf"^{VERSION_PATTERN}$", description="Version of the model.")]

HEADER_LENGTH = "Inference-Header-Content-Length"
HeaderLength = Annotated[
    int | None, Header(ge=0, alias=HEADER_LENGTH, description="Bytes of JSON; the values of the inputs follow them.")
]

_BINARY = "application/octet-stream"
_REFUSALS = documented(401, 403, 404, 422, 429, 503)
_TENSOR = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": {"type": "string"},
        "datatype": {"type": "string", "enum": list(DATA_TYPES.values())},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}},
        "data": {
            "type": "array",
            "items": {"type": "number"},
            "description": "Row by row, or nested like the shape; absent when the values follow as bytes.",
        },
        "parameters": {"type": "object", "description": "binary_data_size: bytes of this input behind the JSON."},
    },
}
_QUESTION = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "inputs": {"type": "array", "items": _TENSOR, "minItems": 1},
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"type": "string"}, "parameters": {"type": "object"}},
            },
        },
        "parameters": {"type": "object"},
    },
}
_BYTES = {"schema": {"type": "string", "format": "binary"}}
_INFER: dict[str, Any] = {
    "response_model": InferResponse,
    "responses": {
        200: {"content": {_BINARY: _BYTES}, "description": "The outputs; as bytes behind the JSON where asked for."},
        **documented(400, 401, 403, 404, 408, 413, 415, 422, 429, 503),
    },
    "openapi_extra": {
        "requestBody": {"required": True, "content": {"application/json": {"schema": _QUESTION}, _BINARY: _BYTES}}
    },
}


class ServerMetadata(BaseModel):
    """What answers here."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(BaseModel):
    """An input or output."""

    name: str
    datatype: str
    shape: list[int] = Field(description="-1: any size.")


class ModelMetadata(BaseModel):
    """A model's inputs and outputs."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


@router.get("", responses=documented(401, 403, 429))
def server(_: Reading) -> ServerMetadata:
    """Name and version of the server."""
    return ServerMetadata(name="graticule", version=__version__, extensions=["binary_tensor_data"])


@router.get("/health/live", response_class=Response)
async def live() -> Response:
    """200: the process answers. Needs no token."""
    return Response()


@router.get("/health/ready", response_class=Response, responses=documented(503))
async def ready(core: Core) -> Response:
    """200: a worker is alive. Needs no token."""
    try:
        workers = await asyncio.to_thread(core.workers.alive)
    except GraticuleError:
        workers = []
    return Response(status_code=200 if workers else 503)


@router.get("/models/{name}", responses=_REFUSALS)
def model(core: Core, _: Reading, name: Name) -> ModelMetadata:
    """Inputs and outputs of the version in production."""
    return _metadata(core, name)


@router.get("/models/{name}/versions/{version}", responses=_REFUSALS)
def model_version(core: Core, _: Reading, name: Name, version: Version) -> ModelMetadata:
    """Inputs and outputs of a version."""
    return _metadata(core, f"{name}@{version}")


@router.get("/models/{name}/ready", response_class=Response, responses=_REFUSALS)
def model_ready(core: Core, _: Reading, name: Name) -> Response:
    """200: a worker has the version in production loaded."""
    return _readiness(core, name)


@router.get("/models/{name}/versions/{version}/ready", response_class=Response, responses=_REFUSALS)
def model_version_ready(core: Core, _: Reading, name: Name, version: Version) -> Response:
    """200: a worker has the version loaded."""
    return _readiness(core, f"{name}@{version}")


@router.post("/models/{name}/infer", **_INFER)
async def infer(
    request: Request, core: Core, _: Submitting, name: Name, header_length: HeaderLength = None
) -> Response:
    """Run the version in production on tensors."""
    return await _infer(request, core, name, header_length)


@router.post("/models/{name}/versions/{version}/infer", **_INFER)
async def infer_version(
    request: Request, core: Core, _: Submitting, name: Name, version: Version, header_length: HeaderLength = None
) -> Response:
    """Run a version on tensors."""
    return await _infer(request, core, f"{name}@{version}", header_length)


async def _infer(request: Request, core: Gateway, reference: str, header_length: int | None) -> Response:
    """A job for the tensors of a request, and its outputs. The same tensors for the same version are the same job."""
    _check_encoding(request)
    manifest = await asyncio.to_thread(_known, core, reference)
    await core.queues.admit(manifest.name, Lane.INTERACTIVE)
    with await _read(request, core, manifest, header_length) as upload:
        (body,) = upload.files
        question = await asyncio.to_thread(read_question, body.file, body.size, header_length, manifest)
        job = await asyncio.to_thread(_submit, core, question, body.file, manifest)
    result = await ended(core, job)
    return await asyncio.to_thread(_answer, core, manifest, question, result)


async def _read(request: Request, core: Gateway, manifest: Manifest, header_length: int | None) -> Upload:
    """The body, unless it is larger than anything that the model takes."""
    if header_length is None:
        return await read_body(request, MOST_JSON, too_much_json("this is more"))
    values = largest_inputs(manifest) or core.settings.gateway_max_body
    too_long = f"{manifest.reference} takes at most {values:,} bytes of values at once."
    return await read_body(request, header_length + values, too_long)


def _submit(core: Gateway, question: Question, body: BinaryIO, manifest: Manifest) -> Job:
    with question.write(body) as file:
        return core.jobs.submit_tensors(file, manifest.reference)


def _answer(core: Gateway, manifest: Manifest, question: Question, result: Result) -> Response:
    outputs = decode(core.store.get("results", result.artifacts["outputs"].key))
    head, following = answer_head(manifest, question, outputs)
    if not following:
        return Response(head, media_type="application/json")
    headers = {HEADER_LENGTH: str(len(head))}
    return Response(b"".join([head, *following]), media_type=_BINARY, headers=headers)


def _check_encoding(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise Problem(415, f"The body is compressed ({encoding[:40]!r}); expected it as it is.", close=True)


def _metadata(core: Gateway, reference: str) -> ModelMetadata:
    manifest = _known(core, reference)
    return ModelMetadata(
        name=manifest.name,
        versions=core.models.versions(reference),
        platform="onnx_onnxv1",
        inputs=[_tensor(tensor) for tensor in manifest.inputs],
        outputs=[_tensor(tensor) for tensor in manifest.outputs],
    )


def _readiness(core: Gateway, reference: str) -> Response:
    wanted = _known(core, reference).reference
    loaded = any(wanted in worker.models for worker in core.workers.alive())
    return Response(status_code=200 if loaded else 503)


def _known(core: Gateway, reference: str) -> Manifest:
    try:
        return core.models.resolve(reference)
    except UnknownModel as error:
        raise Problem(404, str(error), error=error.kind) from error


def _tensor(tensor: Tensor) -> TensorMetadata:
    shape: list[Any] = [size if isinstance(size, int) else -1 for size in tensor.shape]
    return TensorMetadata(name=tensor.name, datatype=DATA_TYPES[tensor.type], shape=shape)
