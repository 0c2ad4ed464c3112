"""`python -m graticule_workers.engine_process SOCKET`: the process that holds the models for several task processes."""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path

from graticule.cli import configure_logging
from graticule.registry import Registry
from graticule.settings import load_settings
from graticule.store import Store
from graticule_workers.engine.pool import ModelPool
from graticule_workers.engine.server import EngineServer
from graticule_workers.family import follow_parent
from graticule_workers.metrics import Metrics
from graticule_workers.replacement import replace_process
from graticule_workers.watchdog import Watchdog, engine_steps

log = logging.getLogger(__name__)


def main() -> None:
    """Serve models until told to stop."""
    settings = load_settings()
    configure_logging(settings.log_level)
    follow_parent()
    registry = Registry(Store(settings))
    pool = ModelPool(registry, settings, ran=Metrics().ran)
    server = EngineServer(pool, registry, Path(sys.argv[1]))
    signal.signal(signal.SIGTERM, lambda *_: server.close())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C reaches the whole group; the parent tells us in its turn
    Watchdog(settings, lambda: engine_steps(pool), lambda step, why: replace_process(why)).start()
    server.serve()
    pool.close()


if __name__ == "__main__":
    main()
