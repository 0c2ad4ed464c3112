"""Each benchmark at its smallest, with the real processes: it answers its question and says where it was measured."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run(out: Path, question: str, *options: str) -> dict[str, dict[str, float]]:
    """Run a benchmark; medians by group and name. Every value must be a finite number of the rounds' middle."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRATICULE_")}
    command = [sys.executable, "-m", "benchmarks", question, "--out", str(out), "--rounds", "1", *options]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert report["question"] == question
    assert report["machine"]["cores"] >= 1
    assert report["options"]["rounds"] == 1
    medians: dict[str, dict[str, float]] = {}
    for figure in report["figures"]:
        assert math.isfinite(figure["median"])
        assert figure["lowest"] <= figure["median"] <= figure["highest"]
        assert figure["name"] in done.stdout
        medians.setdefault(figure["group"], {})[figure["name"]] = figure["median"]
    return medians


def find(medians: dict[str, dict[str, float]], group: str, name: str) -> float:
    """The figure of that name, or the one whose name begins so, in the one group whose name begins so."""
    (values,) = [values for one, values in medians.items() if one.startswith(group)]
    if name in values:
        return values[name]
    (value,) = [value for one, value in values.items() if one.startswith(name)]
    return value


def test_throughput(tmp_path):
    medians = run(tmp_path / "out.json", "throughput", "--pictures", "8", "--heavy-pictures", "2")

    for model in ("tile-defects", "bench-unet"):
        bare = max(find(medians, model, "bare, one"), find(medians, model, "bare, single"))
        cluster = find(medians, model, "cluster, one worker")
        assert find(medians, model, "cluster / bare") == pytest.approx(cluster / bare)
        assert find(medians, model, "CPU of worker") > find(medians, model, "CPU of redis") >= 0
    assert find(medians, "bench-noop, 256 x 256, 2", "cluster, per core") > 0


def test_latency_and_its_time_line(tmp_path):
    medians = run(tmp_path / "out.json", "latency", "--latency-pictures", "5")

    whole = find(medians, "file closed", "p50")
    beyond = find(medians, "file closed", "beyond inference, p50")
    steps = medians["time line of one picture, idle (medians)"]
    assert 0 < beyond < whole < 60_000
    assert steps["infer"] < whole
    assert sum(steps.values()) == pytest.approx(whole, rel=0.5)


def test_queue(tmp_path):
    medians = run(tmp_path / "out.json", "queue", "--most", "100")

    queued = medians["100 queued tasks"]
    assert 0 < queued["Redis, the queue itself"] <= queued["Redis, used memory"]
    assert queued["send"] > 0
    assert queued["drain"] > 0


def test_backlog(tmp_path):
    medians = run(tmp_path / "out.json", "backlog", "--jobs", "300", "--latency-pictures", "3")

    assert find(medians, "interactive job, idle", "p50") <= find(medians, "interactive job, idle", "p95")
    assert find(medians, "interactive job under 300 bulk jobs", "p95") > 0


def test_gateway(tmp_path):
    options = ["--latency-pictures", "5", "--crowd-seconds", "3", "--listeners", "20"]
    medians = run(tmp_path / "out.json", "gateway", *options)

    assert find(medians, "gateway, one client", "through the gateway, p50") > 0
    assert find(medians, "gateway, one client", "Python client, p50") > 0
    assert find(medians, "gateway, 32 clients", "errors") == 0
    assert find(medians, "gateway, upload of 2 GiB", "refused by its length") < 1
    assert find(medians, "gateway, 20 idle listeners", "memory of each") < 1000


def test_a_backlog_that_is_gone_too_early_is_no_measurement(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "backlog", "--jobs", "2", "--latency-pictures", "10"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out.json")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Raise --jobs" in done.stderr
    assert not (tmp_path / "out.json").exists()


def test_memory(tmp_path):
    medians = run(tmp_path / "out.json", "memory")
    assert {"redis", "s3", "worker"} <= set(medians["idle memory"])


INSTALLED = all(importlib.util.find_spec(name) for name in ("aiohttp", "fastapi", "litserve", "uvicorn"))


@pytest.mark.skipif(INSTALLED, reason="the peers are installed")
def test_peers_that_are_not_installed_are_named(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "peers", "--out", str(tmp_path / "out.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert 'pip install "graticule[bench]"' in " ".join(done.stderr.split())


@pytest.mark.skipif(not INSTALLED, reason='the peers are not installed: pip install "graticule[bench]"')
def test_peers(tmp_path):
    medians = run(tmp_path / "out.json", "peers", "--seconds", "2", "--clients", "2")

    level: dict[str, Any] = medians["2 clients"]
    for service in ("graticule", "FastAPI", "LitServe", "LitServe, a worker a core", "FastAPI + Celery"):
        assert level[f"{service}: p50"] <= level[f"{service}: p99"]
        assert level[f"{service}: CPU of the server side"] > 0
    assert level["graticule / FastAPI"] == pytest.approx(level["graticule: speed"] / level["FastAPI: speed"])
