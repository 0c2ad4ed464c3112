"""What `graticule worker` does."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import typer

from graticule.errors import BrokerUnavailable, MissingPart
from graticule.jobs import Lane
from graticule.settings import Settings
from graticule_workers.family import Family
from graticule_workers.health import check


def run_worker(settings: Settings, models: Sequence[str], lanes: Sequence[Lane]) -> int:
    """Work until told to stop; the exit code. `models`, `lanes`: what to serve; none: everything."""
    _require("onnxruntime", "cv2", "prometheus_client")
    lanes = lanes or tuple(Lane)
    if settings.worker_processes > 1:
        return Family(settings, settings.worker_processes, models=models, lanes=lanes).run()
    from graticule_workers.service import WorkerService  # the parent of several processes needs no onnxruntime

    return WorkerService(settings, models=models, lanes=lanes).serve()


def _require(*packages: str) -> None:
    """Name what is missing before any process is started."""
    for package in packages:
        if find_spec(package) is None:
            raise MissingPart("The worker", "worker", package)


def run_check(settings: Settings) -> int:
    """Say how the workers of this host are; 0 when all are at work."""
    try:
        healthy, sentence = check(settings)
    except BrokerUnavailable as error:
        healthy, sentence = False, str(error)
    typer.echo(sentence, err=not healthy)
    return 0 if healthy else 1
