"""The watcher on a real folder, with a real store and a real Redis."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import shutil
import socket
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile

from graticule.errors import SourceUnreadable, UnknownModel
from graticule.jobs import Lane
from graticule.registry import Registry
from graticule.store import Store, image_key
from graticule_producers.watcher.commands import run_watch
from graticule_producers.watcher.journal import JournalUnavailable
from tests.models import write_brightness_model
from tests.watcher.conftest import MODEL, picture, wait_until

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX files")


def test_a_picture_becomes_a_job_with_all_that_is_known_about_it(start, camera, pending, folder):
    watching = start(stream="line 1", lane=Lane.INTERACTIVE, parameters={"threshold": 0.4})
    path = camera.write("a b ü.png", seed=1)
    watching.wait_for("a b ü.png")
    (job,) = pending()
    assert job == watching.sent[0][1]
    assert job.image.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (job.image.filename, job.image.media_type) == ("a b ü.png", "image/png")
    assert (job.model, job.stream, job.lane, job.parameters) == (MODEL, "line 1", "interactive", {"threshold": 0.4})
    assert (job.source.producer, job.source.path) == ("watcher", str(path))
    assert job.captured_at.timestamp() == pytest.approx(path.stat().st_mtime, abs=1e-5)
    assert watching.stop().complete


def test_pictures_are_numbered_in_the_order_of_capture(start, camera, pending, folder):
    for number in (3, 1, 2):
        os.utime(camera.write(f"{number}.png", seed=number), (1_700_000_000 - number,) * 2)
    start(once=True, threads=1).end()
    jobs = sorted(pending(), key=lambda job: job.sequence)
    assert [job.image.filename for job in jobs] == ["3.png", "2.png", "1.png"]
    assert [job.sequence for job in jobs] == [1, 2, 3]
    assert {job.stream for job in jobs} == {str(folder)}


def tiff_bytes(pages: int = 2) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.random.default_rng(0).integers(0, 2**16, (pages, 200, 200), dtype=np.uint16))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.png", picture(1, side=120)),
        ("a.jpg", picture(1, "JPEG", side=200)),
        ("a.tif", tiff_bytes()),
    ],
    ids=["png", "jpeg", "tiff"],
)
def test_a_slow_writer_is_waited_for(start, camera, pending, cluster, name, data):
    watching = start()
    camera.write_slowly(name, data)
    watching.wait_for(name)
    camera.write("after.png", seed=2)
    watching.wait_for("after.png")
    jobs = [job for job in pending() if job.image.filename == name]
    assert [job.image.size for job in jobs] == [len(data)]
    assert Store(cluster).get("images", image_key(jobs[0].image.sha256)) == data


def test_renamed_into_place(start, camera, folder):
    watching = start()
    camera.write("a.png.tmp", seed=1).rename(folder / "a.png")
    watching.wait_for("a.png")
    assert dict(watching.names) == {"a.png": 1}
    assert watching.stop().complete


def test_moved_in_with_its_folder(start, folder, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.png").write_bytes(picture(1))
    watching = start()
    outside.rename(folder / "series 1")
    watching.wait_for("a.png")


def test_a_changed_file_is_another_picture(start, camera, pending):
    watching = start()
    camera.write("a.png", seed=1)
    watching.wait_for("a.png")
    camera.write("a.png", seed=2)
    watching.wait_for_count(2)
    assert len({job.job_id for job in pending()}) == 2


def test_what_was_there_before_is_left_alone_unless_it_is_asked_for(start, camera):
    old = camera.write("old.png", seed=1)
    wait_until(lambda: time.time_ns() - old.stat().st_ctime_ns > 50_000_000)
    watching = start()
    camera.write("new.png", seed=2)
    watching.wait_for("new.png")
    assert dict(watching.names) == {"new.png": 1}
    assert watching.stop().seen_before == 1
    asked = start(existing=True)
    asked.wait_for("old.png")
    assert asked.stop().seen_before == 0


def test_a_restart_takes_what_arrived_meanwhile_and_sends_nothing_twice(start, camera, pending):
    first = start()
    camera.write("1.png", seed=1)
    first.wait_for("1.png")
    first.stop()
    camera.write("2.png", seed=2)
    second = start()
    wait_until(lambda: len(pending()) == 2)
    assert second.stop().known >= 1
    assert sorted(job.image.filename for job in pending()) == ["1.png", "2.png"]
    assert sorted(job.sequence for job in pending()) == sorted({job.sequence for job in pending()})


def test_once(start, camera, folder, pending):
    camera.write("1.png", seed=1)
    (folder / "deep" / "er").mkdir(parents=True)
    camera.write("deep/er/2.jpg", seed=2, kind="JPEG")
    camera.write("deep/er/2.png", seed=2)
    (folder / "notes.txt").write_text("notes")
    summary = start(once=True).end()
    assert (summary.submitted, summary.waiting, summary.unreadable) == (2, 0, {})
    assert summary.left_out == {"beside a JPEG": 1, "no picture": 1}
    assert start(once=True).end().submitted == 0
    assert len(pending()) == 2
    flat = start(once=True, recursive=False, include=("*.png",), journal=folder / "other.sqlite").end()
    assert flat.submitted == 1


def test_limit_and_duration(start, camera, pending):
    for number in range(5):
        camera.write(f"{number}.png", seed=number)
    assert start(existing=True, limit=2, ready=False).end().submitted == 2
    assert start(existing=True, duration=0.5, ready=False).end().submitted <= 3
    assert len(pending()) <= 5


def test_text_named_png_is_submitted_when_it_has_settled(start, camera, folder, pending):
    watching = start(settle=0.4)
    (folder / "text.png").write_text("no picture at all")
    (folder / "empty.jpg").touch()
    (folder / "half.jpg").write_bytes(picture(1, "JPEG", side=100)[:-40])
    watching.wait_for("text.png", "empty.jpg", "half.jpg")
    assert sorted(job.image.size for job in pending())[0] == 0


@needs_posix
def test_only_regular_files_are_opened(start, camera, folder, caplog, monkeypatch):
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    camera.write("folder.png/inside.png", seed=1)
    (folder / "nowhere.png").symlink_to(folder / "missing.png")
    (folder / "itself").symlink_to(folder / "itself")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(folder)  # the path of a socket is short
        server.bind("socket.png")
    (folder / "circle").symlink_to(folder, target_is_directory=True)
    summary = start(once=True).end()
    assert summary.submitted == 1
    assert {name: reason.partition(": ")[2] for name, reason in summary.unreadable.items()} == {
        "pipe.png": "it is a pipe, not a file.",
        "folder.png": "it is a folder, not a file.",
        "nowhere.png": "it is a link that leads nowhere.",
        "socket.png": "it is a socket, not a file.",
    }
    assert len([record for record in caplog.records if "pipe.png" in record.message]) == 1


@needs_posix
def test_pipes_and_folders_that_appear_later(start, camera, folder):
    watching = start(rescan=0.3)
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    camera.write("folder.png/inside.png", seed=1)
    watching.wait_for("inside.png")
    summary = watching.stop()
    assert set(summary.unreadable) == {"pipe.png", "folder.png"}


@needs_posix
def test_no_permission(start, camera, caplog):
    path = camera.write("secret.png", seed=1)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("nobody keeps this user from reading")
    watching = start(existing=True, settle=0.2, rescan=300)
    wait_until(lambda: any("'secret.png': Permission denied" in record.message for record in caplog.records))
    path.chmod(0o600)
    watching.wait_for("secret.png")


def test_too_large_is_said_and_the_others_go_on(start, camera, cluster, caplog):
    camera.write("a.png", seed=1)
    (camera.folder / "large.png").write_bytes(picture(2, side=200))
    summary = start(cluster.model_copy(update={"max_image_bytes": 5000}), once=True).end()
    assert summary.submitted == 1
    assert "at most 5,000 are accepted" in summary.unreadable["large.png"]
    assert any("'large.png' has" in record.message for record in caplog.records)


@needs_posix
def test_odd_names(start, folder, pending):
    names = [
        b"with space.png",
        "ümläut.png".encode(),
        b"new\nline.png",
        b"n" * 251 + b".png",
        b"\xff\xfe.png",
        b"%s'\".png",
    ]
    watching = start(rescan=60)
    for seed, name in enumerate(names):
        (folder / os.fsdecode(name)).write_bytes(picture(seed))
    watching.wait_for_count(len(names))
    assert {path.name.encode("utf-8", "surrogateescape") for path, _ in watching.sent} == set(names)
    assert "\\xff\\xfe.png" in {job.image.filename for job in pending()}
    assert watching.stop().complete
    assert start(once=True).end().submitted == 0


def test_a_new_folder_that_is_filled_at_once_loses_nothing(start, folder, pending):
    watching = start(rescan=300, threads=8)
    count = 60
    for number in range(count):
        place = folder / f"series {number % 3}" / "raw"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.png").write_bytes(picture(number))
    watching.wait_for_count(count)
    assert len({job.job_id for job in pending()}) == count


def test_the_store_is_away_and_comes_back(start, camera, pending, store_wire, caplog):
    wire, settings = store_wire
    watching = start(settings, rescan=300)
    camera.write("before.png", seed=1)
    watching.wait_for("before.png")
    wire.cut()
    for number in range(10):
        camera.write(f"{number}.png", seed=10 + number)
    wait_until(lambda: any("Pictures wait here" in record.message for record in caplog.records))
    wire.mend()
    watching.wait_for(*(f"{number}.png" for number in range(10)), timeout=30)
    summary = watching.stop()
    assert (summary.waiting, summary.unreadable) == (0, {})
    assert sorted(job.image.filename for job in pending()) == sorted(["before.png", *(f"{n}.png" for n in range(10))])
    starts = [record for record in caplog.records if "Pictures wait here" in record.message]
    ends = [record for record in caplog.records if "the store answers again" in record.message]
    assert (len(starts), len(ends)) == (1, 1)


def test_stopped_while_the_store_is_away_goes_on_at_the_next_start(start, camera, pending, store_wire, caplog):
    wire, settings = store_wire
    watching = start(settings)
    wire.cut()
    for number in range(5):
        camera.write(f"{number}.png", seed=number)
    wait_until(lambda: any("Pictures wait here" in record.message for record in caplog.records))
    assert watching.stop().waiting == 5
    wire.mend()
    summary = start(settings, once=True).end()
    assert summary.submitted == 5
    assert len(pending()) == 5


def test_the_store_is_away_at_the_start(start, camera, store_wire, caplog):
    wire, settings = store_wire
    wire.cut()
    camera.write("a.png", seed=1)
    watching = start(settings, existing=True, ready=False)
    wait_until(lambda: any("Pictures wait here" in record.message for record in caplog.records))
    assert any("will show when it answers" in record.message for record in caplog.records)
    wire.mend()
    watching.wait_for("a.png", timeout=30)


def test_the_folder_disappears_and_comes_back(start, camera, folder, caplog):
    watching = start(rescan=300)
    camera.write("1.png", seed=1)
    watching.wait_for("1.png")
    shutil.rmtree(folder)
    wait_until(lambda: any("is gone; nothing can be" in record.message for record in caplog.records))
    folder.mkdir()
    camera.write("2.png", seed=2)
    watching.wait_for("2.png")
    wait_until(lambda: any(" is back after " in record.message for record in caplog.records))
    camera.write("3.png", seed=3)
    watching.wait_for("3.png")


def test_a_folder_that_is_replaced_at_once_is_noticed(start, camera, folder):
    watching = start(rescan=300)
    folder.rename(folder.with_name("moved away"))
    folder.mkdir()
    camera.write("2.png", seed=2)
    watching.wait_for("2.png")


def test_polling(start, camera):
    watching = start(polling=True, rescan=300)
    camera.write("a.png", seed=1)
    watching.wait_for("a.png")


def test_a_lost_event_is_made_good_by_the_rescan(start, camera, monkeypatch):
    monkeypatch.setattr("graticule_producers.watcher.changes.ChangeListener._pass_on", lambda *_: None)
    watching = start(rescan=0.2)
    camera.write("a.png", seed=1)
    watching.wait_for("a.png")


def test_a_hook_that_fails_does_not_stop_the_watcher(start, camera, cluster, folder, tmp_path, caplog):
    from graticule_producers.watcher import WatchOptions, watch

    camera.write("a.png", seed=1)

    def fail(*_: object) -> None:
        raise RuntimeError("the hook")

    options = WatchOptions(folder=folder, model=MODEL, once=True, journal=tmp_path / "j.sqlite")
    assert watch(options, cluster, on_submitted=fail).submitted == 1
    assert "hook failed" in caplog.text


def test_a_second_watcher_of_the_same_folder_is_refused(start, camera):
    start()
    with pytest.raises(JournalUnavailable, match="Another watcher"):
        start(once=True).end()


def test_exit_codes(cluster, camera, folder, tmp_path, caplog):
    caplog.set_level(logging.INFO)

    def run(where: Path = folder, model: str = MODEL, **options: object) -> int:
        return run_watch(cluster, folder=where, model=model, once=True, journal=tmp_path / "j.sqlite", **options)

    camera.write("a.png", seed=1)
    assert run() == 0
    assert "1 submitted, 0 waiting, 0 unreadable" in caplog.text
    assert run(model="unknown-model") == 2
    assert "There is no model 'unknown-model'; known models: brightness" in caplog.text
    assert run(tmp_path / "nowhere") == 2
    assert "There is no folder" in caplog.text
    assert run(rescan=-1) == 2
    assert "--rescan: Input should be greater than 0, found -1" in caplog.text
    (folder / "folder.png").mkdir()
    assert run() == 1
    assert "Not submitted: 'folder.png'" in caplog.text


def test_wrong_names_are_refused_before_anything_is_watched(start, folder, cluster, tmp_path):
    with pytest.raises(UnknownModel, match="known models: brightness"):
        start(model="tiles", once=True).end()
    write_brightness_model(tmp_path / "other", name="other")
    Registry(Store(cluster)).publish(tmp_path / "other")
    with pytest.raises(SourceUnreadable, match="no folder"):
        start(model="other", folder=tmp_path / "nowhere", once=True).end()
