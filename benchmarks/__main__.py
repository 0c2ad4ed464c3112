"""Measure one thing or several, print a table, write the figures as JSON: see docs/benchmarks.md."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import (
    backlog,
    gateway,
    latency,
    machine,
    memory,
    overlap,
    queue,
    shapes,
    streams,
    throughput,
    tiling_memory,
)
from benchmarks.figures import Figure
from benchmarks.models import TILE, UNET
from benchmarks.peers import compare
from benchmarks.peers.services import SERVICES
from graticule.errors import GraticuleError

log = logging.getLogger("benchmarks")

_WIDTH = 120
"""Columns of the table in a log."""

Options = argparse.Namespace
Measure = Callable[[Path, Options], list[Figure]]

QUESTIONS: dict[str, Measure] = {
    "memory": lambda place, _: memory.measure(place),
    "latency": lambda place, o: latency.measure(place, pictures=o.latency_pictures),
    "throughput": lambda place, o: throughput.measure(
        place, rounds=o.rounds, pictures=o.pictures, heavy_pictures=o.heavy_pictures
    ),
    "queue": lambda place, o: queue.measure(place, most=o.most, rounds=o.rounds),
    "backlog": lambda place, o: backlog.measure(place, jobs=o.jobs, pictures=o.latency_pictures, rounds=o.rounds),
    "gateway": lambda place, o: gateway.measure(
        place, rounds=o.rounds, pictures=o.latency_pictures, seconds=o.crowd_seconds, listeners=o.listeners
    ),
    "overlap": lambda place, o: overlap.measure(place, rounds=o.rounds),
    "tiling": lambda place, _: tiling_memory.measure(),
    "streams": lambda _, __: streams.measure(),
    "shapes": lambda _, o: shapes.measure_shapes(o.rounds),
    "peers": lambda place, o: compare.measure(
        place, rounds=o.rounds, seconds=o.seconds, clients=o.clients, model=o.model, services=o.services
    ),
}
EVERYDAY = ("memory", "latency", "throughput", "queue", "backlog")
"""What `all` stands for: `peers` needs packages that graticule does not."""


def main() -> int:
    """Measure what the command line asks for; the exit code."""
    options = _parser().parse_args()
    logging.basicConfig(level="WARNING", format="%(message)s")
    log.setLevel("INFO")
    described = machine.describe()
    figures: list[Figure] = []
    try:
        for question in EVERYDAY if options.question == "all" else (options.question,):
            figures += _answer(question, options)
    except GraticuleError as error:
        Console(stderr=True).print(str(error), style="red", markup=False, highlight=False)
        return 1
    finally:
        if figures:
            _write(options.out, options.question, described, options, figures)
    _show(described, figures)
    return 0


def _answer(question: str, options: Options) -> list[Figure]:
    log.info("%s ...", question)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="graticule-bench-") as place:
        figures = QUESTIONS[question](Path(place), options)
    log.info("%s took %.0f s", question, time.monotonic() - began)
    return figures


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("question", choices=[*QUESTIONS, "all"], help=f"all: {', '.join(EVERYDAY)}")
    parser.add_argument("--out", type=Path, default=Path("benchmarks.json"), help="where the figures go")
    parser.add_argument("--rounds", type=_positive, default=5, help="interleaved rounds (default: 5)")
    several = parser.add_argument_group("throughput")
    several.add_argument("--pictures", type=_positive, default=300, help="small pictures in each round")
    several.add_argument("--heavy-pictures", type=_positive, default=32, help="pictures for the heavy model")
    single = parser.add_argument_group("latency, backlog, gateway")
    single.add_argument("--latency-pictures", type=_positive, default=100, help="pictures sent one after another")
    single.add_argument("--jobs", type=_positive, default=10_000, help="jobs in the backlog")
    queued = parser.add_argument_group("queue")
    queued.add_argument("--most", type=_positive, default=10_000, help="longest queue: 100, 1,000, ... tasks")
    served = parser.add_argument_group("gateway")
    served.add_argument("--crowd-seconds", type=float, default=60.0, help="time for which 32 clients send pictures")
    served.add_argument("--listeners", type=_positive, default=1000, help="idle clients that listen to events")
    peers = parser.add_argument_group("peers")
    peers.add_argument("--seconds", type=float, default=6.0, help="length of each measurement")
    peers.add_argument("--clients", type=_positive, nargs="+", default=list(compare.CLIENTS))
    peers.add_argument("--model", choices=[TILE, UNET], default=TILE)
    peers.add_argument("--services", choices=list(SERVICES), nargs="+", default=list(SERVICES))
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, found {text}")
    return number


def _write(path: Path, question: str, described: dict[str, Any], options: Options, figures: Sequence[Figure]) -> None:
    report = {
        "question": question,
        "machine": described,
        "options": {name: value for name, value in vars(options).items() if name not in ("question", "out")},
        "figures": [figure.as_json() for figure in figures],
    }
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _show(described: dict[str, Any], figures: Sequence[Figure]) -> None:
    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
    title = "graticule {graticule} ({commit}), {cores} cores, {processor}, {date}".format(**described)
    table = Table("Figure", "Median", "Unit", "Lowest ... highest", "Rounds", "Goal", title=title)
    group = ""
    for figure in figures:
        if figure.group != group:
            group = figure.group
            table.add_section()
            table.add_row(f"[bold]{group}")
        spread = f"{_short(figure.lowest)} ... {_short(figure.highest)}" if len(figure.rounds) > 1 else ""
        table.add_row(
            f"  {figure.name}", _short(figure.median), figure.unit, spread, str(len(figure.rounds)), figure.goal
        )
    console.print(table)


def _short(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
