"""`/oip/v2`: the Open Inference Protocol. Health and metadata; tensors cannot travel through the queue yet."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, NoReturn

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, Field

from graticule import __version__
from graticule.errors import GraticuleError, UnknownModel
from graticule.jobs import MODEL_PATTERN, VERSION_PATTERN
from graticule.manifest import Manifest, Tensor
from graticule_producers.gateway.api.jobs import Reading, Submitting
from graticule_producers.gateway.core import Core, Gateway
from graticule_producers.gateway.problems import Problem, documented

router = APIRouter(prefix="/oip/v2", tags=["open inference protocol"])


Name = Annotated[str, Path(pattern=rf"^{MODEL_PATTERN}$", description="Name of a model.")]
Version = Annotated[str, Path(pattern=rf"^{VERSION_PATTERN}$", description="Version of the model.")]

_DATA_TYPES = {"float32": "FP32", "float16": "FP16", "uint8": "UINT8", "int64": "INT64"}
_REFUSALS = documented(401, 403, 404, 422, 429, 503)


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
    return ServerMetadata(name="graticule", version=__version__, extensions=[])


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


@router.post("/models/{name}/infer", response_model=None, responses={**_REFUSALS, **documented(501)})
def infer(core: Core, _: Submitting, name: Name) -> NoReturn:
    """Jobs carry pictures; there are no jobs for tensors yet."""
    raise _no_tensors(_known(core, name))


@router.post("/models/{name}/versions/{version}/infer", response_model=None, responses={**_REFUSALS, **documented(501)})
def infer_version(core: Core, _: Submitting, name: Name, version: Version) -> NoReturn:
    """Jobs carry pictures; there are no jobs for tensors yet."""
    raise _no_tensors(_known(core, f"{name}@{version}"))


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


def _no_tensors(manifest: Manifest) -> Problem:
    return Problem(
        501,
        f"{manifest.reference} takes pictures (POST /api/v1/jobs); tensors cannot be sent through the queue yet.",
        error="NotImplemented",
    )


def _known(core: Gateway, reference: str) -> Manifest:
    try:
        return core.models.resolve(reference)
    except UnknownModel as error:
        raise Problem(404, str(error), error=error.kind) from error


def _tensor(tensor: Tensor) -> TensorMetadata:
    shape: list[Any] = [size if isinstance(size, int) else -1 for size in tensor.shape]
    return TensorMetadata(name=tensor.name, datatype=_DATA_TYPES[tensor.type], shape=shape)
