"""Tensors: the model's graph runs on them as they are, without preparation before and measurement after."""

from __future__ import annotations

import hashlib

from graticule.errors import InferenceFailed, InvalidParameters, OutOfMemory, UnfitTensors
from graticule.jobs import Job
from graticule.manifest import Manifest
from graticule.results import TensorOutputs, outputs_key
from graticule.tensors import MEDIA_TYPE, TensorInfo, check_inputs, decode, encode
from graticule_workers.pipelines.answer import Answer, File, Model, Timed


class RunTensors:
    """See `Pipeline`."""

    def __init__(self, job: Job, manifest: Manifest) -> None:
        """Raises InvalidParameters."""
        if job.parameters:
            raise InvalidParameters(f"A job for tensors takes no parameters; found {', '.join(job.parameters)}.")
        self._job = job
        self._manifest = manifest

    def __call__(self, data: bytes, model: Model, timed: Timed) -> Answer:
        """Raises UnfitTensors, OutOfMemory."""
        with timed("decode"):
            feed = decode(data)
            check_inputs(self._manifest, [TensorInfo.of(name, array) for name, array in feed.items()])
        with timed("infer"):
            try:
                outputs = model.run(feed)
            except OutOfMemory:
                raise
            except InferenceFailed as error:
                # The worker's own pictures are known to fit; these are whatever somebody sent.
                raise UnfitTensors(f"{self._manifest.reference} cannot run on these tensors: {error}") from error
        with timed("store"):
            encoded = encode(outputs)
            sha256 = hashlib.sha256(encoded).hexdigest()
        return Answer(
            measurements=TensorOutputs(outputs=tuple(TensorInfo.of(name, array) for name, array in outputs.items())),
            files={
                "outputs": File(
                    key=outputs_key(self._job.job_id, sha256),
                    data=encoded,
                    sha256=sha256,
                    media_type=MEDIA_TYPE,
                    description="Every output of the model, in the safetensors layout.",
                )
            },
        )
