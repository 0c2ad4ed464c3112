"""Many files, real processes, and what happens when they are killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from graticule.records import Records
from graticule.store import Store
from tests.watcher.conftest import picture, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

COUNT = 2000


def test_killed_in_the_middle_and_started_again_every_picture_is_one_job(cluster, folder, command, pending):
    for number in range(COUNT):
        (folder / f"{number}.png").write_bytes(picture(number, side=8))
    records = Records(Store(cluster))

    def sent() -> int:
        return len(records.oldest_pending(100_000))

    for share in (0.2, 0.5, 0.8):
        with command("--existing") as process:
            wait_until(lambda share=share: sent() > COUNT * share or process.poll() is not None, 120)
            process.kill()
    assert sent() < COUNT, "killed too late to show anything"
    with command("--once") as process:
        assert process.wait(200) == 0
    jobs = pending()
    assert Counter(job.image.filename for job in jobs) == Counter(f"{number}.png" for number in range(COUNT))
    assert len({job.job_id for job in jobs}) == COUNT
    assert len({job.sequence for job in jobs}) == COUNT


def test_a_new_folder_that_is_filled_at_once_loses_nothing(start, folder, tmp_path):
    count = 1000
    watching = start(rescan=300)

    def fill(part: int) -> None:
        place = folder / f"series {part}" / "raw"
        place.mkdir(parents=True)
        for number in range(part, count, 4):
            (place / f"{number}.png").write_bytes(picture(number, side=8))

    threads = [threading.Thread(target=fill, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    watching.wait_for_count(count, 120)
    assert set(watching.names.values()) == {1}
    assert watching.stop().complete


@pytest.mark.skipif(sys.platform == "win32", reason="sends a POSIX signal")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(command, folder, number, pending, tmp_path):
    with command("--rescan", "300") as process:
        log = tmp_path / "watch.log"
        wait_until(lambda: "Watching" in log.read_text(), 30)
        written = 0

        def write_another() -> bool:
            nonlocal written
            written += 1
            (folder / f"{written}.png").write_bytes(picture(written))
            return bool(pending())

        wait_until(write_another, 30)
        process.send_signal(number)
        assert process.wait(30) == 0
    assert "submitted, " in log.read_text().splitlines()[-1]


def test_light():
    """What runs on the instrument's computer loads neither the worker nor its libraries, and stays small."""
    code = (
        "import sys, graticule_producers.watcher.commands;"
        "heavy = {'onnxruntime', 'cv2', 'pyarrow', 'graticule_workers', 'torch'} & set(sys.modules);"
        "sys.exit(', '.join(heavy) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_idle_memory(command, tmp_path):
    with command() as process:
        wait_until(lambda: "Watching" in (tmp_path / "watch.log").read_text(), 30)
        status = Path(f"/proc/{process.pid}/status").read_text()
        resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024
    assert resident < 150, f"{resident:.0f} MiB"
