from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from graticule.demo import Finished, demo
from graticule.errors import BadInput
from graticule.settings import Settings
from tests.run.conftest import write_squares
from tests.run.samples import make_failure, make_job, make_object, make_result
from tests.worker.conftest import wait_until

ONE_SECOND = "1.00"


def test_what_is_shown_of_a_result():
    result = make_result(make_job("a.jpg"), make_object(1), make_object(2, class_name="fray", area=28))
    shown = Finished.of(result)
    assert (shown.name, shown.succeeded, shown.count) == ("a.jpg", True, 2)
    assert shown.area_fraction == pytest.approx(0.2)
    assert shown.classes == "1 crack, 1 fray"
    assert f"{shown.seconds:.2f}" == ONE_SECOND


def test_what_is_shown_of_a_failure():
    shown = Finished.of(make_failure(make_job("a.jpg"), "It ends early."))
    assert (shown.succeeded, shown.count, shown.message) == (False, 0, "It ends early.")


@pytest.mark.parametrize("made", [False, True])
def test_a_folder_without_pictures_is_refused(tmp_path: Path, made: bool):
    folder = tmp_path / "pictures"
    if made:
        folder.mkdir()
    with pytest.raises(BadInput, match="no pictures in" if made else "no folder"):
        demo(Settings(data_dir=tmp_path), folder=folder, directory=tmp_path / "demo")
    assert not (tmp_path / "demo").exists()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder for demos of which no process may be left in the end."""
    yield tmp_path / "demo"
    left = [process.info["cmdline"] for process in psutil.process_iter(["cmdline"]) if _names(process, str(tmp_path))]
    assert not left


def _names(process: psutil.Process, text: str) -> bool:
    return any(text in argument for argument in process.info["cmdline"] or ())


def start_demo(place: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "graticule", "demo", "--dir", str(place), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_simulated_pictures_become_results_twice_in_one_folder(place: Path):
    for number in (1, 2):
        with start_demo(place, "--once", "4", "--rate", "8") as process:
            said, _ = process.communicate(timeout=100)
        assert process.returncode == 0, said
        assert "4 pictures became results, 0 of them failures" in said
        assert f"graticule up --data-dir {place / 'cluster'}, then http://127.0.0.1:" in said
        address = said.split("watch them: ")[1].split()[0]
        assert said.rstrip().endswith(address), "what it began with is where it ends"
        assert f"run-{number:03d}" in address
        run = place / f"run-{number:03d}"
        assert len(list((run / "pictures").iterdir())) == 4
        assert all(line.strip() in said for line in map(str, (run / "overlays").glob("*.png")))
    assert len(list((place / "run-001" / "pictures").iterdir())) == 4


@pytest.mark.slow
def test_a_folder_of_ones_own_with_a_broken_picture(place: Path, tmp_path: Path):
    pictures = tmp_path / "mine"
    write_squares(pictures / "good.png", size=(128, 128))
    (pictures / "broken.jpg").write_bytes(b"\xff\xd8\xff and no more")
    with start_demo(place, "--folder", str(pictures)) as process:
        said, _ = process.communicate(timeout=110)
    assert process.returncode == 1, said
    assert "2 pictures became results, 1 of them failures" in said
    assert "broken.jpg" in said
    assert sorted(path.name for path in pictures.iterdir() if path.is_file()) == ["broken.jpg", "good.png"]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_every_process(place: Path, number: signal.Signals):
    with start_demo(place, "--rate", "8") as process:
        pictures = place / "run-001" / "pictures"
        wait_until(lambda: pictures.is_dir() and len(list(pictures.iterdir())) > 3, 60, "pictures are drawn")
        process.send_signal(number)
        said, _ = process.communicate(timeout=60)
    assert process.returncode in (0, 1), said
    assert "pictures became results" in said


@pytest.mark.slow
def test_a_killed_demo_leaves_no_process(tmp_path: Path):
    command = [sys.executable, "-m", "graticule", "demo", "--dir", str(tmp_path / "demo"), "--rate", "2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: any((tmp_path / "demo").glob("run-*/pictures/*.jpg")), 60, "the camera is at work")
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 6
    process.kill()
    process.wait()
    _, left = psutil.wait_procs(family, timeout=30)
    assert not left
