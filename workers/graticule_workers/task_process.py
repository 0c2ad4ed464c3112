"""`python -m graticule_workers.task_process SOCKET`: carries jobs through their stages; the models are elsewhere."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from graticule.cli import configure_logging
from graticule.jobs import Lane
from graticule.settings import load_settings
from graticule_workers.engine.remote import RemoteEngine
from graticule_workers.family import follow_parent
from graticule_workers.service import WorkerService


def main() -> None:
    """Work until told to stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("socket", type=Path)
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--lane", action="append", default=[], type=Lane)
    options = parser.parse_args()
    settings = load_settings()
    configure_logging(settings.log_level)
    follow_parent()
    engine = RemoteEngine(options.socket)
    service = WorkerService(settings, models=options.model, lanes=options.lane or tuple(Lane), engine=engine)
    sys.exit(service.serve())


if __name__ == "__main__":
    main()
