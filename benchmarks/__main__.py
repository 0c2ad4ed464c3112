"""`make bench`: measure, print a table, write benchmarks.json."""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import cluster, latency, throughput
from graticule import __version__
from graticule.local.cluster import EmbeddedCluster
from graticule.settings import load_settings


def main() -> None:
    """Start a cluster of its own, measure, tell."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds; medians are reported")
    parser.add_argument("--pictures", type=int, default=200, help="pictures in each round")
    parser.add_argument("--out", type=Path, default=Path("benchmarks.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        with EmbeddedCluster(load_settings(data_dir=place / "cluster")) as settings:
            figures = {
                **cluster.memory(settings),
                **latency.file_to_result(settings, place / "watched", options.pictures // 2),
                **throughput.against_bare(settings, options.rounds, options.pictures),
            }
    machine = {"graticule": __version__, "cores": len(os.sched_getaffinity(0)), "processor": platform.machine()}
    options.out.write_text(json.dumps({"machine": machine, "figures": figures}, indent=1), encoding="utf-8")
    table = Table("Figure", "Value", title=f"graticule {__version__}, {machine['cores']} cores")
    for name, value in figures.items():
        table.add_row(name, f"{value:.3g}" if isinstance(value, float) else str(value))
    Console().print(table)


if __name__ == "__main__":
    main()
