"""How a model uses the cores of the CPU: measured when it is loaded, because it depends on model and machine."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from graticule.manifest import Manifest
from graticule_workers.engine.session import Array, Session

log = logging.getLogger(__name__)

ROUNDS = 3
ROUND_SECONDS = 0.05
"""Each plan runs at least once in each round, however long that takes."""
WORTH_IT = 1.05
"""More streams or larger batches cost memory and latency: they must bring at least this factor."""
_USUAL_SIDE = 256


@dataclass(frozen=True)
class Plan:
    """Parallel streams, CPU threads in each, pictures in one run."""

    streams: int
    threads: int
    batch: int = 1

    def __str__(self) -> str:
        return f"{self.streams} stream(s) of {self.threads} thread(s), batches up to {self.batch}"


def candidates(cores: int, streams: int = 0, threads: int = 0) -> list[Plan]:
    """Plans worth measuring, the best choice where they are equally fast first; a number above 0 is a demand.

    Under load many narrow streams suffer least from the work around them: no thread waits for another one. A lone
    picture is served by a session of its own.
    """
    if streams or threads:
        streams = streams or max(1, cores // threads)
        return [Plan(streams, threads or max(1, cores // streams))]
    plans = [Plan(cores, 1)]
    if cores >= 8:
        plans.append(Plan(cores // 4, 4))
    if cores > 1:
        plans.append(Plan(1, cores))
    return plans


def warm_up_shapes(manifest: Manifest) -> list[tuple[int, int]]:
    """(height, width) to run before the first picture comes: the manifest's, or a usual one that the model can take."""
    if manifest.warm_up.shapes:
        return list(manifest.warm_up.shapes)
    size = manifest.preprocessing.size
    if size.height and size.width:
        return [(size.height, size.width)]
    side = -(-_USUAL_SIDE // size.multiple) * size.multiple
    return [(side, side)]


def example(manifest: Manifest, shape: tuple[int, int], images: int = 1) -> Array:
    """A black batch of a shape."""
    channels = {"grey": 1, "rgb": 3}[manifest.preprocessing.colour]
    return np.zeros((images, channels, *shape), np.float32)


def fastest(plans: list[Plan], sessions: Callable[[Plan], list[Session]], images: Callable[[Plan], Array]) -> Plan:
    """The plan with the most pictures a second; an earlier one unless a later one is clearly faster.

    Rounds alternate, so that what else the machine does at the time disturbs all plans alike.
    """
    if len(plans) == 1:
        return plans[0]
    speeds = dict.fromkeys(plans, 0.0)
    for _ in range(ROUNDS):
        for plan in plans:
            speeds[plan] = max(speeds[plan], _speed(sessions(plan), images(plan)))
    best = plans[0]
    for plan in plans[1:]:
        if speeds[plan] > WORTH_IT * speeds[best]:
            best = plan
    log.info("%s", "; ".join(f"{plan}: {speed:.1f} pictures/s" for plan, speed in speeds.items()))
    return best


def _speed(sessions: list[Session], images: Array) -> float:
    """Pictures a second when every session is kept busy by a thread of its own."""
    counts = [0] * len(sessions)
    started = time.perf_counter()

    def work(index: int) -> None:
        while not counts[index] or time.perf_counter() - started < ROUND_SECONDS:
            sessions[index].run(images)
            counts[index] += 1

    threads = [threading.Thread(target=work, args=(index,)) for index in range(1, len(sessions))]
    for thread in threads:
        thread.start()
    work(0)
    for thread in threads:
        thread.join()
    return sum(counts) * len(images) / (time.perf_counter() - started)
