"""One engine for several task processes: pixels through shared memory, and either side may die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from graticule.errors import EngineLost, InvalidManifest
from graticule.registry import Registry
from graticule.store import Store
from graticule_workers.engine.pool import ModelPool
from graticule_workers.engine.remote import RemoteEngine
from tests.models import write_brightness_model
from tests.worker.conftest import WorkerProcess, wait_until
from tests.worker.test_kills import assert_all_done, done, send

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no Unix sockets")


@pytest.fixture
def manifest(settings, tmp_path):
    write_brightness_model(tmp_path / "model")
    return Registry(Store(settings)).publish(tmp_path / "model")


class EngineProcess:
    """The engine process by itself."""

    def __init__(self, settings, folder: Path) -> None:
        self.path = folder / "engine.sock"
        self._environment = {**os.environ, **settings.to_env()}
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "graticule_workers.engine_process", str(self.path)]
        self.process = subprocess.Popen(command, env=self._environment, stdin=subprocess.PIPE)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()


@pytest.fixture
def engine_process(settings, manifest, tmp_path):
    made = EngineProcess(settings, tmp_path)
    yield made
    made.kill()


def when_it_answers(engine: RemoteEngine, manifest):
    def load():
        try:
            return engine.load(manifest)
        except EngineLost:
            return None

    return wait_until(load, 60, "the engine process answers")


def test_many_threads_get_the_numbers_that_an_engine_in_the_same_process_gives(engine_process, manifest, settings):
    remote, local = RemoteEngine(engine_process.path), ModelPool(Registry(Store(settings)), settings)
    when_it_answers(remote, manifest)

    def both(index: int) -> None:
        chance = np.random.default_rng(index)
        images = chance.random((1 + index % 3, 1, 16 * (1 + index % 7), 32), np.float32)  # larger and smaller in turn
        np.testing.assert_array_equal(remote.infer(manifest, images), local.infer(manifest, images))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(both, range(100)))
    assert [model.reference for model in remote.models()] == [manifest.reference]
    local.close()


def test_many_threads_get_the_tensors_that_an_engine_in_the_same_process_gives(engine_process, manifest, settings):
    remote, local = RemoteEngine(engine_process.path), ModelPool(Registry(Store(settings)), settings)
    when_it_answers(remote, manifest)

    def both(index: int) -> None:
        feed = {"image": np.random.default_rng(index).random((1, 1, 16 * (1 + index % 7), 32), np.float32)}
        here, there = local.run(manifest, feed), remote.run(manifest, feed)
        assert list(here) == list(there) == ["logits"]
        np.testing.assert_array_equal(here["logits"], there["logits"])
        np.testing.assert_array_equal(remote.infer(manifest, feed["image"]), here["logits"])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(both, range(24)))
    local.close()


def test_what_the_engine_refuses_is_the_same_error_here(engine_process, manifest):
    engine = RemoteEngine(engine_process.path)
    when_it_answers(engine, manifest)
    other = manifest.model_copy(update={"model": manifest.model.model_copy(update={"sha256": "0" * 64})})
    with pytest.raises(InvalidManifest, match="was replaced in the registry"):
        engine.load(other)


def test_an_engine_that_died_is_missed_and_found_again(engine_process, manifest):
    engine = RemoteEngine(engine_process.path)
    when_it_answers(engine, manifest)
    images = np.ones((1, 1, 32, 32), np.float32)
    expected = engine.infer(manifest, images).copy()
    engine_process.kill()
    with pytest.raises(EngineLost) as lost:
        engine.infer(manifest, images)
    assert not lost.value.started, "nothing of it had begun"
    engine_process.start()
    when_it_answers(engine, manifest)
    np.testing.assert_array_equal(engine.infer(manifest, images), expected)


def test_an_engine_ends_when_its_parent_is_gone(engine_process):
    wait_until(engine_process.path.exists, 60, "it listens")
    engine_process.process.stdin.close()
    assert engine_process.process.wait(20) == 0


@pytest.fixture
def family(brightness, tmp_path):
    made = WorkerProcess(brightness, tmp_path / "worker.log", "--processes", "2")
    yield made
    made.kill()


def members(worker: WorkerProcess) -> dict[str, list[psutil.Process]]:
    found: dict[str, list[psutil.Process]] = {"engine_process": [], "task_process": []}
    for child in psutil.Process(worker.process.pid).children():
        for name in found:
            if any(name in word for word in child.cmdline()):
                found[name].append(child)
    return found


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_whoever_is_killed_every_job_ends_once_and_the_others_go_on(client, family):
    handles = send(client)
    family.start()
    for part, name in enumerate(("task_process", "engine_process", "task_process"), start=1):
        wait_until(lambda part=part: done(client) >= part * len(handles) // 5, 60, "some more are done")
        members(family)[name][0].kill()
    assert done(client) < len(handles)
    assert_all_done(client, handles, 120)
    wait_until(lambda: [len(found) for found in members(family).values()] == [1, 2], 30, "all are back")
    assert done(client) == len(handles)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_an_orderly_stop_finishes_what_was_begun_and_leaves_nobody(client, family):
    handles = send(client)
    family.start()
    wait_until(lambda: done(client) >= len(handles) // 4, 60, "some are done")
    everyone = [child for found in members(family).values() for child in found]
    assert len(everyone) == 3
    assert family.stop(60) == 0
    assert not any(child.is_running() for child in everyone)
    assert "EngineLost" not in family.output
    family.start()
    assert_all_done(client, handles, 60)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_killed_parent_leaves_nobody(family):
    family.start()
    everyone = [child for found in members(family).values() for child in found]
    os.kill(family.process.pid, signal.SIGKILL)
    family.process.wait()
    wait_until(lambda: not any(child.is_running() for child in everyone), 60, "its children have ended")
