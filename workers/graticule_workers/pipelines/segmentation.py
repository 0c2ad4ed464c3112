"""Semantic segmentation: a picture in, numbered objects and their measurements out."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from pydantic import ValidationError

from graticule.errors import InvalidParameters
from graticule.manifest import Postprocessing
from graticule_workers.analysis.instances import Labels

ADJUSTABLE = ("threshold", "minimum_area", "fill_holes", "touches_edge_buffer")
"""Post-processing that a job's parameters may override."""

_FAST_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]


def adjusted(spec: Postprocessing, parameters: dict[str, Any]) -> Postprocessing:
    """The manifest's post-processing with a job's parameters. Raises InvalidParameters."""
    unknown = sorted(set(parameters) - set(ADJUSTABLE))
    if unknown:
        raise InvalidParameters(f"Unknown parameter(s) {', '.join(unknown)}; this model takes {', '.join(ADJUSTABLE)}.")
    if not parameters:
        return spec
    try:
        return Postprocessing.model_validate({**spec.model_dump(), **parameters})
    except ValidationError as error:
        mistakes = "; ".join(
            f"{'.'.join(map(str, e['loc']))}: {e['msg']}, found {e['input']!r}" for e in error.errors(include_url=False)
        )
        raise InvalidParameters(f"Parameters do not fit: {mistakes}.") from error


def applied(spec: Postprocessing) -> dict[str, Any]:
    """What `result.json` says about the post-processing."""
    return {name: getattr(spec, name) for name in ADJUSTABLE}


def encode_mask(labels: Labels) -> bytes:
    """PNG with each pixel's object id, 8 bits while the ids fit, else 16."""
    dtype = np.uint8 if labels.max(initial=0) <= np.iinfo(np.uint8).max else np.uint16
    good, data = cv2.imencode(".png", labels.astype(dtype), _FAST_PNG)
    if not good:
        raise ValueError(f"a mask of shape {labels.shape} could not be written as PNG")
    return data.tobytes()
