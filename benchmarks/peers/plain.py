"""The work that every peer does for a picture: graticule's own functions, without anything around them."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.bare import open_session
from graticule import formats
from graticule.manifest import read_model_folder
from graticule_workers.analysis.instances import analyse
from graticule_workers.pipelines.preprocess import Prepared, prepare
from graticule_workers.pipelines.segmentation import encode_mask

MODEL_FOLDER = "BENCHMARK_MODEL"
"""Environment variable that tells a peer's processes where the model lies."""
REDIS_URL = "BENCHMARK_REDIS"
"""Environment variable that tells the home-grown queue where its Redis is."""

Array = NDArray[Any]


class PlainModel:
    """A model in one session, with the steps around it. Thread-safe."""

    def __init__(self, threads: int) -> None:
        """`threads`: CPU threads of the session. The model's folder comes from the environment."""
        cv2.setNumThreads(1)
        self.manifest, data = read_model_folder(Path(os.environ[MODEL_FOLDER]))
        self._input, self._output = self.manifest.inputs[0].name, self.manifest.outputs[0].name
        self._session = open_session(data, threads)

    def answer(self, data: bytes) -> dict[str, Any]:
        """All steps for one picture."""
        prepared = self.prepare(data)
        return self.finish(prepared, self.infer(prepared.tensor[np.newaxis])[0])

    def prepare(self, data: bytes) -> Prepared:
        """Decode a picture and normalise it."""
        return prepare(formats.decode(data, "picture.png").pixels, self.manifest.preprocessing)

    def infer(self, batch: Array) -> Array:
        """Run the model: n x channels x height x width in, n x classes x height x width out."""
        return np.asarray(self._session.run([self._output], {self._input: batch})[0])

    def finish(self, prepared: Prepared, output: Array) -> dict[str, Any]:
        """Count the objects and encode the mask, for a JSON answer."""
        found = analyse(prepared.restore(output), self.manifest.postprocessing)
        return {
            "count": found.measurements.count,
            "area_fraction": found.measurements.area_fraction,
            "mask": base64.b64encode(encode_mask(found.labels)).decode(),
        }
