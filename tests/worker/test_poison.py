"""Jobs that kill, jobs that never return, and the innocent ones beside them."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from graticule.cli import app
from graticule.client import Client, JobHandle
from graticule.dead_letters import DeadLetters
from graticule.errors import JobFailed
from graticule.events import Events
from graticule.records import Records
from graticule.registry import Registry
from graticule.results import Failure, Result
from graticule.settings import Settings
from graticule.store import Store
from tests.contract.test_formats import png
from tests.models import TRAP_LEVEL, Trap, write_brightness_model
from tests.worker.conftest import WorkerProcess, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MODEL = "treacherous"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(
        update={"visibility_timeout": 6.0, "reconcile_interval": 1.0, "step_deadline": 3.0, "task_deadline": 20.0}
    )


def picture(index: int) -> bytes:
    """A white square of a size of its own on black."""
    pixels = np.zeros((64, 64), np.uint8)
    pixels[2:12, 2 : 4 + index] = 255
    return png(pixels)


def poison(index: int = 0) -> bytes:
    return png(np.full((64, 64 + index), TRAP_LEVEL, np.uint8))


def publish(settings: Settings, folder: Path, trap: Trap) -> None:
    write_brightness_model(folder, name=MODEL, trap=trap, minimum_area=4)
    Registry(Store(settings)).publish(folder)


def send(client: Client, count: int) -> tuple[list[JobHandle], JobHandle]:
    """Good pictures with the poison in their midst."""
    good = [client.submit(picture(index), MODEL, filename=f"{index}.png") for index in range(count // 2)]
    bad = client.submit(poison(), MODEL, filename="poison.png")
    good += [client.submit(picture(index), MODEL, filename=f"{index}.png") for index in range(count // 2, count)]
    return good, bad


def assert_only_the_poison_is_given_up(client: Client, good: list[JobHandle], bad: JobHandle) -> None:
    outcomes = dict(client.as_completed([*good, bad], timeout=200))
    for index, handle in enumerate(good):
        outcome = outcomes[handle]
        assert isinstance(outcome, Result), outcome
        assert outcome.measurements.objects[0].area == 10 * (2 + index)
    failure = outcomes[bad]
    assert isinstance(failure, Failure)
    assert failure.error == "PoisonJob"
    assert "dead-letters retry" in failure.message
    letters = DeadLetters(client.settings, client.records)
    assert letters.ids() == [bad.job_id]
    assert len(letters.read(bad.job_id).deaths) == 3
    wait_until(lambda: not client.store.keys("jobs", "pending/"), 30, "no pending record is left")
    counts = Events(client.settings).counts()
    assert counts == {"succeeded": len(good), "failed": 1}


def keep_alive(worker: WorkerProcess) -> bool:
    """What a supervisor does: start the worker again when it died."""
    if not worker.alive:
        worker.start()
    return False


crashes_on_x86 = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="an integer overflow in a division ends a process only on x86"
)


@crashes_on_x86
def test_a_job_that_crashes_the_process_goes_to_the_dead_letters_and_the_rest_finish(settings, tmp_path):
    publish(settings, tmp_path / "model", "crash")
    client, worker = Client(settings), WorkerProcess(settings, tmp_path / "worker.log")
    worker.start()
    try:
        good, bad = send(client, 40)
        wait_until(lambda: keep_alive(worker) or client.outcome(bad.job_id), 200, "the poison is given up")
        keep_alive(worker)
        assert_only_the_poison_is_given_up(client, good, bad)
    finally:
        worker.kill()


@crashes_on_x86
def test_innocent_jobs_that_wait_beside_several_poisons_are_not_given_up(settings, tmp_path):
    """All eight are in the worker together, so each crash finds the innocent ones waiting."""
    settings = settings.model_copy(update={"worker_threads": 8})
    publish(settings, tmp_path / "model", "crash")
    client, worker = Client(settings), WorkerProcess(settings, tmp_path / "worker.log")
    bad = [client.submit(poison(index), MODEL, filename=f"poison {index}.png") for index in range(2)]
    good = [client.submit(picture(index), MODEL, filename=f"{index}.png") for index in range(6)]
    worker.start()
    try:
        ended = lambda: all(client.outcome(handle.job_id) for handle in [*bad, *good])  # noqa: E731
        wait_until(lambda: keep_alive(worker) or ended(), 200, "all have come to an end")
        failures = [client.outcome(handle.job_id) for handle in bad]
        assert [failure.error for failure in failures if isinstance(failure, Failure)] == ["PoisonJob"] * 2
        assert all(isinstance(client.outcome(handle.job_id), Result) for handle in good)
    finally:
        worker.kill()


@crashes_on_x86
def test_it_kills_only_the_engine_of_a_worker_of_several_processes(settings, tmp_path):
    publish(settings, tmp_path / "model", "crash")
    client, worker = Client(settings), WorkerProcess(settings, tmp_path / "worker.log", "--processes", "2")
    worker.start()
    try:
        assert_only_the_poison_is_given_up(client, *send(client, 40))
        assert "engine died" in worker.output
        assert "task process 1 died" not in worker.output
        assert "task process 2 died" not in worker.output
    finally:
        worker.stop()


def test_a_job_that_never_returns_does_not_hold_the_worker(settings, tmp_path):
    publish(settings, tmp_path / "model", "hang")
    client, worker = Client(settings), WorkerProcess(settings, tmp_path / "worker.log")
    worker.start()
    try:
        assert_only_the_poison_is_given_up(client, *send(client, 40))
        assert "has not returned for 3 s" in worker.output.replace("4 s", "3 s")
        assert "Thread 0x" in worker.output, "the stacks are in the log"
        assert worker.alive, "it replaced itself under the same process id"
    finally:
        worker.kill()


def test_a_dead_letter_can_be_sent_again(settings, tmp_path, monkeypatch):
    """The model raises on one picture; a better version is promoted, and the job is sent again."""
    publish(settings, tmp_path / "model", "hang")
    client, worker = Client(settings), WorkerProcess(settings, tmp_path / "worker.log")
    worker.start()
    try:
        bad = client.submit(poison(), MODEL, filename="poison.png")
        with pytest.raises(JobFailed, match="3 processes died"):
            bad.result(100)
        for name, value in settings.to_env().items():
            monkeypatch.setenv(name, value)
        run = CliRunner().invoke
        listed = run(app, ["dead-letters", "list", "--json"]).output
        assert bad.job_id in listed
        shown = run(app, ["dead-letters", "show", bad.job_id]).output
        assert "poison.png" in shown
        assert shown.count("death ") == 3
        write_brightness_model(tmp_path / "better", name=MODEL, version="2.0.0")
        Registry(client.store).publish(tmp_path / "better")
        wait_until(lambda: f"{MODEL}: version 2.0.0 takes over" in worker.output, 30, "the new version serves")
        assert run(app, ["dead-letters", "retry", bad.job_id]).exit_code == 0
        wait_until(lambda: isinstance(Records(client.store).outcome(bad.job_id), Result), 30, "it succeeds now")
        assert "No dead letters" in run(app, ["dead-letters", "list"]).output
    finally:
        worker.kill()
