"""The bare pipeline: the worker's own code in one process, without store, queue and worker."""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from benchmarks.models import BenchModel
from graticule import formats
from graticule.manifest import read_model_folder
from graticule_workers.engine.session import usable_cores
from graticule_workers.pipelines.segmentation import Segmentation, encode_mask, segment

Array = NDArray[np.float32]
"""Batch x channels x height x width."""


class BarePipeline:
    """Decode, segment and encode a mask, over and over. Threads carry pictures; sessions are lent to them in turn."""

    def __init__(self, model: BenchModel, *, sessions: int, threads_each: int, carriers: int) -> None:
        """`sessions` of `threads_each` CPU threads, shared by `carriers` threads."""
        cv2.setNumThreads(1)  # as in the worker
        self.manifest, data = read_model_folder(model.folder)
        self._input, self._output = self.manifest.inputs[0].name, self.manifest.outputs[0].name
        self._free: queue.SimpleQueue[ort.InferenceSession] = queue.SimpleQueue()
        for _ in range(sessions):
            self._free.put(open_session(data, threads_each))
        self._carriers = carriers

    @classmethod
    def one_wide(cls, model: BenchModel) -> BarePipeline:
        """One session with all cores; other pictures are decoded and measured while it runs."""
        cores = usable_cores()
        return cls(model, sessions=1, threads_each=cores, carriers=cores + 1)

    @classmethod
    def many_narrow(cls, model: BenchModel) -> BarePipeline:
        """As many single-threaded sessions as cores, each with a thread of its own."""
        cores = usable_cores()
        return cls(model, sessions=cores, threads_each=1, carriers=cores)

    def speed(self, pictures: Sequence[bytes]) -> float:
        """Pictures a second."""
        with ThreadPoolExecutor(self._carriers) as pool:
            started = time.perf_counter()
            for _ in pool.map(self.mask, pictures):
                pass
            return len(pictures) / (time.perf_counter() - started)

    def mask(self, data: bytes) -> bytes:
        """The mask of a picture, as the worker would store it."""
        return encode_mask(self._segment(data).labels)

    def counts(self, pictures: Sequence[bytes]) -> list[int]:
        """Objects in each picture."""
        return [self._segment(data).measurements.count for data in pictures]

    def infer(self, images: Array) -> Array:
        """Run the model on a session that is free; waits for one."""
        session = self._free.get()
        try:
            return np.asarray(session.run([self._output], {self._input: images})[0])
        finally:
            self._free.put(session)

    def _segment(self, data: bytes) -> Segmentation:
        pixels = formats.decode(data, "picture.png").pixels
        return segment(pixels, self.manifest, self.manifest.postprocessing, self.infer, _untimed)


def open_session(model: bytes, threads: int) -> ort.InferenceSession:
    """A session with the options that serve this machine best: those of the worker."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _untimed(stage: str) -> contextlib.nullcontext[None]:
    return contextlib.nullcontext()
