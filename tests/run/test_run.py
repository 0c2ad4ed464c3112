from __future__ import annotations

import csv
import errno
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
from PIL import Image
from rich.console import Console

from graticule.errors import BadInput, GraticuleError, UnknownModel
from graticule.records import Records
from graticule.run import INTERRUPTED, run
from graticule.settings import Settings
from graticule.store import Store
from graticule.submit import Submitter
from tests.run.conftest import write_squares
from tests.worker.conftest import WorkerProcess, wait_until

StartWorker = Callable[[], WorkerProcess]


@pytest.fixture(autouse=True)
def _addresses(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster of the tests counts as one that the user named; no second one is started."""
    if "brightness" in request.fixturenames:
        settings = request.getfixturevalue("brightness")
        monkeypatch.setenv("GRATICULE_S3_URL", settings.s3_url)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def quiet() -> Console:
    return Console(record=True, file=io.StringIO(), width=200)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def make_pictures(folder: Path) -> None:
    write_squares(folder / "a.png", (10, 10, 8), (40, 20, 6))
    write_squares(folder / "s" / "a.png", (5, 30, 10))
    write_squares(folder / "s" / "a.tif")


@pytest.mark.slow
def test_a_folder_becomes_masks_overlays_and_tables(brightness: Settings, start_worker: StartWorker, tmp_path: Path):
    worker = start_worker()
    pictures, out = tmp_path / "pictures", tmp_path / "out"
    make_pictures(pictures)
    assert run(brightness, [pictures], model="brightness", out=out, labels=True, timeout=60) == 0
    made = ["a.png", "s/a-2.png", "s/a.png"]
    expected = [f"{folder}/{name}" for folder in ("labels", "masks", "overlays") for name in made]
    assert files(out) == sorted([*expected, *(f"{t}.{s}" for t in ("objects", "results") for s in ("csv", "parquet"))])

    mask = read(out / "masks" / "a.png")
    squares = np.zeros((60, 80), dtype=np.uint8)
    squares[10:18, 10:18] = squares[20:26, 40:46] = 255
    assert np.array_equal(mask, squares)
    labels = read(out / "labels" / "a.png")
    assert set(np.unique(labels)) == {0, 1, 2}
    assert read(out / "overlays" / "a.png").shape == (60, 80, 3)

    first, second, third = rows(out / "results.csv")
    assert [row["file"] for row in (first, second, third)] == ["a.png", "a.png", "a.tif"]
    assert [row["mask"] for row in (first, second, third)] == ["masks/a.png", "masks/s/a.png", "masks/s/a-2.png"]
    assert (first["count"], first["count_bright"], third["count"]) == ("2", "2", "0")
    assert float(first["area_fraction"]) == pytest.approx(100 / 4800)
    objects = parquet.read_table(out / "objects.parquet").to_pylist()
    assert sorted(found["area_px"] for found in objects) == [36, 64, 100]

    # The same command again uses what is there: it needs no worker any more.
    worker.stop()
    completed = [row["completed_at"] for row in rows(out / "results.csv")]
    (out / "masks" / "a.png").unlink()
    assert run(brightness, [pictures], model="brightness", out=out, labels=True, timeout=30) == 0
    assert [row["completed_at"] for row in rows(out / "results.csv")] == completed
    assert (out / "masks" / "a.png").exists()
    assert not Records(Store(brightness)).oldest_pending()


@pytest.mark.slow
def test_a_picture_that_fails_has_a_row_and_a_line(brightness: Settings, start_worker: StartWorker, tmp_path: Path):
    start_worker()
    pictures, out, console = tmp_path / "pictures", tmp_path / "out", quiet()
    make_pictures(pictures)
    (pictures / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nand no more")
    assert run(brightness, [pictures], model="brightness", out=out, overlays=False, timeout=60, console=console) == 1
    by_name = {row["path"]: row for row in rows(out / "results.csv")}
    failed = by_name[str(pictures / "broken.png")]
    assert (failed["status"], failed["error"]) == ("failed", "UnreadableImage")
    assert sum(row["status"] == "succeeded" for row in by_name.values()) == 3
    said = console.export_text()
    assert "4 pictures: 3 succeeded, 1 failed" in said
    assert "broken.png" in said
    assert not (out / "overlays").exists()
    # Sent again it is tried again: the failure of the first time is not taken for the answer.
    write_squares(pictures / "broken.png", (1, 1, 5))
    assert run(brightness, [pictures], model="brightness", out=out, overlays=False, timeout=60) == 0


@pytest.mark.slow
def test_a_job_sent_again_after_a_failure_waits_for_the_new_answer(
    brightness: Settings, start_worker: StartWorker, tmp_path: Path
):
    worker = start_worker()
    broken, out = tmp_path / "broken.png", tmp_path / "out"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nand no more")
    assert run(brightness, [broken], model="brightness", out=out, timeout=60) == 1
    assert rows(out / "results.csv")[0]["status"] == "failed"
    worker.stop()
    assert run(brightness, [broken], model="brightness", out=out, timeout=4) == 1
    assert rows(out / "results.csv")[0]["status"] == "waiting"


@pytest.mark.slow
def test_without_a_worker_the_timeout_ends_the_run(brightness: Settings, start_worker: StartWorker, tmp_path: Path):
    pictures, out, console = tmp_path / "pictures", tmp_path / "out", quiet()
    make_pictures(pictures)
    assert run(brightness, [pictures], model="brightness", out=out, timeout=10, console=console) == 1
    assert {row["status"] for row in rows(out / "results.csv")} == {"waiting"}
    identity = Submitter(brightness, producer="run").upload(pictures / "a.png").identity("brightness@1.0.0", {})
    assert rows(out / "results.csv")[0]["job_id"] == identity
    assert "run the same command again" in console.export_text()
    start_worker()
    assert run(brightness, [pictures], model="brightness", out=out, timeout=60) == 0


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_writes_what_is_there(brightness: Settings, tmp_path: Path):
    pictures, out = tmp_path / "pictures", tmp_path / "out"
    make_pictures(pictures)
    command = [sys.executable, "-m", "graticule", "run", str(pictures), "-m", "brightness", "-o", str(out)]
    environment = {**os.environ, **brightness.to_env()}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        records = Records(Store(brightness))
        wait_until(lambda: len(records.oldest_pending()) == 3, 30, "all pictures are sent")
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        said, _ = process.communicate(timeout=30)
    assert time.monotonic() - began < 10
    assert process.returncode == INTERRUPTED
    assert "run the same command again to go on where it stopped" in said
    assert {row["status"] for row in rows(out / "results.csv")} == {"waiting"}


@pytest.mark.slow
def test_a_full_disk_is_one_sentence(
    brightness: Settings, start_worker: StartWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    start_worker()
    make_pictures(tmp_path / "pictures")

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("graticule.run.write_atomically", full)
    with pytest.raises(GraticuleError, match="No space left on device.*run the same command again"):
        run(brightness, [tmp_path / "pictures"], model="brightness", out=tmp_path / "out", timeout=60)
    assert files(tmp_path / "out") == []


def test_an_unknown_model_is_named_with_those_that_are_known(brightness: Settings, tmp_path: Path):
    make_pictures(tmp_path / "pictures")
    with pytest.raises(UnknownModel, match="known models: brightness"):
        run(brightness, [tmp_path / "pictures"], model="nope", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_identity_of_a_file_is_that_of_the_job_that_is_sent(brightness: Settings, tmp_path: Path):
    path = tmp_path / "Größe.png"
    write_squares(path)
    parameters = {"threshold": 0.25}
    submitter = Submitter(brightness, producer="run")
    job = submitter.submit_file(path, "brightness@1.0.0", parameters=parameters)
    assert submitter.upload(path).identity("brightness@1.0.0", parameters) == job.job_id


def test_a_folder_without_pictures_is_refused(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(BadInput, match="no pictures in"):
        run(Settings(data_dir=tmp_path), [tmp_path], model="brightness", out=tmp_path / "out", console=quiet())


@pytest.mark.slow
def test_without_a_cluster_one_is_started_for_the_run(tmp_path: Path):
    make_pictures(tmp_path / "pictures")
    command = [sys.executable, "-m", "graticule", "run", "pictures", "-m", "tile-defects", "-o", "out"]
    command += ["--data-dir", "data", "--no-overlays"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "starting one in data" in done.stdout
    assert [row["status"] for row in rows(tmp_path / "out" / "results.csv")] == ["succeeded"] * 3
    assert not (tmp_path / "data" / "cluster.json").exists()
