"""Results written back beside the pictures."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from graticule.client import Client
from graticule.records import Records
from graticule.results import Result
from graticule.store import Store
from tests.watcher.conftest import wait_until
from tests.worker.conftest import WorkerProcess


def square(path: Path, top: int, side: int) -> Path:
    """A grey picture, 60 wide and 40 high, with one white square on black."""
    pixels = np.zeros((40, 60), np.uint8)
    pixels[top : top + side, 10 : 10 + side] = 255
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path, **({"quality": 100} if path.suffix == ".jpg" else {}))
    return path


def details(folder: Path) -> list[dict]:
    path = folder / "masks/defect-details.json"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def worker(cluster, tmp_path):
    process = WorkerProcess(cluster, tmp_path / "worker.log")
    process.start()
    yield process
    process.kill()


def test_masks_and_records_appear_beside_the_pictures(start, folder, cluster, worker):
    watching = start(write_back=True, legacy_fraction=True)
    sent = [
        square(folder / "a.png", 10, 8),
        square(folder / "b.tif", 0, 12),
        square(folder / "scan 1" / "c.jpg", 20, 9),
    ]
    wait_until(lambda: len(details(folder)) == 3, 60, "three records")
    found = {Path(record["image-path"]).name: record for record in details(folder)}
    summary = watching.stop()
    assert (summary.returned, summary.due) == (3, 0)

    masks = [folder / "masks/a.png", folder / "masks/b.tif", folder / "masks/scan 1/c.jpg.png"]
    assert [Path(found[path.name]["mask-path"]) for path in sent] == masks
    assert [Path(found[path.name]["image-path"]) for path in sent] == sent
    for path, kind in zip(masks, ("PNG", "TIFF", "PNG"), strict=True):
        with Image.open(path) as mask:
            assert (mask.format, mask.size, set(np.unique(mask))) == (kind, (60, 40), {0, 255})
    with Image.open(masks[1]) as mask, Image.open(sent[1]) as picture:
        np.testing.assert_array_equal(mask, picture)

    record = found["b.tif"]
    outcome = Records(Store(cluster)).outcome(record["job-id"])
    assert isinstance(outcome, Result)
    assert record["void_frac"] == outcome.segmentation.area_fraction == 144 / 2400
    assert record["void_frac_legacy"] == pytest.approx(144 / (1 * 40))
    assert record["void_count"] == 1
    assert record["radii"] == [pytest.approx((144 / np.pi) ** 0.5)]
    assert record["positions"] == [[15.5, 5.5]]
    assert record["touches_side"] == [True]
    assert found["c.jpg"]["void_count"] == 1


def test_each_frame_of_a_stack_has_a_mask_and_a_record(start, folder, worker, tmp_path):
    frames = np.zeros((3, 40, 60), np.uint8)
    for number in range(3):
        frames[number, 10:20, 5 : 15 + number] = 255
    tifffile.imwrite(folder / "stack.tif", frames, photometric="minisblack")
    assert start(once=True, write_back=True).end().returned == 3
    records = sorted(details(folder), key=lambda record: record["frame"])
    assert [record["frame"] for record in records] == [0, 1, 2]
    assert [round(record["void_frac"] * 2400) for record in records] == [100, 110, 120]
    for number, record in enumerate(records):
        assert Path(record["mask-path"]) == folder / f"masks/stack.tif/frame-{number:04d}.png"
        with Image.open(record["mask-path"]) as mask:
            np.testing.assert_array_equal(mask, frames[number])
    with sqlite3.connect(tmp_path / "state/journal.sqlite") as journal:
        journal.execute("DELETE FROM returned")
    journal.close()
    assert start(once=True, write_back=True).end().returned == 3, "a restart knows every frame"
    assert len(details(folder)) == 3


def test_masks_are_not_taken_for_pictures(start, folder, worker, pending):
    square(folder / "a.png", 10, 8)
    assert start(once=True, write_back=True).end().returned == 1
    again = start(once=True, write_back=True).end()
    assert (again.submitted, again.left_out) == (0, {"in a masks folder": 2})
    assert start(once=True, include=("masks/*.png",)).end().submitted == 1, "unless somebody asks for them"


def test_results_that_nobody_waited_for_come_with_the_next_run(start, folder, cluster, worker):
    square(folder / "a.png", 10, 8)
    start(once=True).end()
    client = Client(cluster)
    wait_until(lambda: client.store.keys("results", ""), 30, "it has ended")
    assert not (folder / "masks").exists()
    assert start(once=True, write_back=True).end().returned == 1
    assert [record["void_count"] for record in details(folder)] == [1]


def test_killed_between_line_and_journal_writes_no_second_line(start, folder, worker, tmp_path):
    square(folder / "a.png", 10, 8)
    square(folder / "b.png", 20, 8)
    start(once=True, write_back=True).end()
    lines = (folder / "masks/defect-details.json").read_bytes().splitlines(keepends=True)
    (folder / "masks/defect-details.json").write_bytes(lines[0] + lines[1][:40])
    with sqlite3.connect(tmp_path / "state/journal.sqlite") as journal:
        journal.execute("DELETE FROM returned")
    journal.close()
    assert start(once=True, write_back=True).end().returned == 2
    assert sorted(json.dumps(record) for record in details(folder)) == sorted(line.decode().strip() for line in lines)


def test_a_folder_that_cannot_be_written_is_waited_for(start, folder, worker, caplog):
    (folder / "masks").write_text("in the way")
    watching = start(write_back=True)
    square(folder / "a.png", 10, 8)
    wait_until(lambda: "Results are kept and written there later" in caplog.text, 60, "it says so")
    (folder / "masks").unlink()
    wait_until(lambda: len(details(folder)) == 1, 30, "it heals")
    assert watching.stop().returned == 1


def test_a_failed_job_is_told_and_does_not_hold_the_watcher(start, folder, worker, caplog):
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    square(folder / "good.png", 10, 8)
    summary = start(once=True, write_back=True, settle=0.5).end()
    assert summary.returned == 1
    assert "'broken.png' has no result" in caplog.text
