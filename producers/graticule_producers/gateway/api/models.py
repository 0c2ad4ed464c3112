"""`/api/v1/models`: the registered models and their cards."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel

from graticule.errors import UnknownModel
from graticule.jobs import MODEL_PATTERN, VERSION_PATTERN
from graticule.manifest import Manifest
from graticule_producers.gateway.api.jobs import Reading
from graticule_producers.gateway.core import Core
from graticule_producers.gateway.problems import Problem, documented
from graticule_producers.gateway.views import ModelSummary

router = APIRouter(prefix="/api/v1/models", tags=["models"])

Reference = Annotated[str, Path(pattern=rf"^{MODEL_PATTERN}(@{VERSION_PATTERN})?$", description="name or name@version")]


class ModelCard(BaseModel):
    """Everything about one version of a model."""

    manifest: Manifest
    versions: list[str]


@router.get("", responses=documented(401, 403, 429, 503))
def list_models(core: Core, _: Reading) -> list[ModelSummary]:
    """The models in production."""
    return [summary_of(manifest) for manifest in core.models.in_production()]


@router.get("/{reference}", responses=documented(401, 403, 404, 422, 429, 503))
def get_model(core: Core, _: Reading, reference: Reference) -> ModelCard:
    """The manifest of a model, and its published versions."""
    try:
        return ModelCard(manifest=core.models.resolve(reference), versions=core.models.versions(reference))
    except UnknownModel as error:
        raise Problem(404, str(error), error=error.kind) from error


def summary_of(manifest: Manifest) -> ModelSummary:
    """A model in a few lines."""
    return ModelSummary(
        name=manifest.name,
        version=manifest.version,
        task=manifest.task,
        title=manifest.title,
        description=manifest.description,
        license=manifest.license,
        classes={kind.name: kind.colour for kind in manifest.postprocessing.classes},
    )
