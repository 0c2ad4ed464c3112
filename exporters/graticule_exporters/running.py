"""Runs ONNX graphs with onnxruntime on the processor, as a worker without a GPU would, and times them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from onnx import ModelProto

from graticule.errors import ConversionFailed
from graticule_exporters import frameworks
from graticule_exporters.graph import one_line, serialised
from graticule_exporters.network import Array, Feed
from graticule_exporters.parity import Answer

TIMED_RUNS = 15
TIMED_SECONDS = 4.0


def runner(model: ModelProto, *, optimise: bool = True) -> Answer:
    """The graph as a function. Without `optimise`, each operator runs as it stands there. Raises ConversionFailed."""
    runtime = frameworks.onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    if not optimise:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = runtime.InferenceSession(serialised(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise ConversionFailed(
            f"onnxruntime cannot load the network: {one_line(error)}.", data="No model was written."
        ) from error
    names = [value.name for value in model.graph.output]

    def answer(feed: Feed) -> list[Array]:
        return session.run(names, feed)

    return answer


def milliseconds(models: Sequence[ModelProto], feed: Feed) -> list[float]:
    """Median time of one run of each graph; they take turns, so that a change of the machine's speed hits all."""
    answers = [runner(model) for model in models]
    for answer in answers:
        answer(feed)
    times: list[list[float]] = [[] for _ in answers]
    end = time.perf_counter() + TIMED_SECONDS * len(answers)
    for _ in range(TIMED_RUNS):
        for place, answer in enumerate(answers):
            start = time.perf_counter()
            answer(feed)
            times[place].append((time.perf_counter() - start) * 1000)
        if time.perf_counter() > end:
            break
    return [round(statistics.median(taken), 3) for taken in times]
