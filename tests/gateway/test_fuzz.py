"""Damaged uploads: never a 5xx, never a dead worker, never much memory."""

from __future__ import annotations

import io
import random

import numpy as np
import psutil
import pytest

from tests.contract.test_formats import GREY16, RGB8, jpeg, png, tiff
from tests.gateway.conftest import form
from tests.worker.test_worker import picture

pytestmark = pytest.mark.slow

ROUNDS = 60
"""Mutations of each file."""


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


SEEDS = {
    "grey.png": png(np.tile(GREY16, (4, 4))),
    "rgb.jpg": jpeg(np.tile(RGB8, (4, 4, 1))),
    "pages.tif": tiff(np.stack([GREY16, GREY16])),
    "packed.tif": tiff(GREY16, compression="zlib"),
    "array.npy": npy(GREY16),
}


def mutated(data: bytes, dice: random.Random) -> bytes:
    """Like `data`, with bytes changed, cut out, doubled, or the end missing."""
    changed = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 8, 40))):
        at = dice.randrange(max(1, len(changed)))
        kind = dice.randrange(5)
        if kind == 0:
            changed[at : at + 1] = bytes([dice.randrange(256)])
        elif kind == 1:
            changed[at : at + 4] = dice.choice((b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x7f\xff\xff\xff"))
        elif kind == 2:
            del changed[at : at + dice.randrange(64)]
        elif kind == 3:
            changed[at:at] = changed[at : at + dice.randrange(64)]
        else:
            del changed[at:]
    return bytes(changed)


@pytest.mark.parametrize("name", SEEDS)
def test_damaged_pictures_are_refused_or_fail_and_nothing_dies(gateway, worker, name):
    dice = random.Random(name)
    before = psutil.Process(gateway.process.pid).memory_info().rss
    jobs = []
    for _ in range(ROUNDS):
        answer = gateway.submit((name, mutated(SEEDS[name], dice)), model="brightness")
        assert answer.status in (202, 413, 415, 422), answer.body
        jobs += answer.json.get("jobs", [])
    for job in jobs:
        assert gateway.get(f"/api/v1/jobs/{job['job_id']}?wait=30").json["status"] in ("succeeded", "failed")
        assert gateway.get(job["links"]["image.png"]).status in (200, 413, 422)
    sound = gateway.submit(("sound.png", picture()), model="brightness", wait="30")
    assert (sound.status, worker.alive) == (200, True)
    assert psutil.Process(gateway.process.pid).memory_info().rss - before < 200e6


def test_damaged_forms_are_refused(gateway):
    body, kind = form(("file", "a.png", picture()), model="brightness", stream="s", wait="0")
    dice = random.Random(7)
    statuses = set()
    for _ in range(4 * ROUNDS):
        answer = gateway.post("/api/v1/jobs", mutated(body, dice), Content_Type=kind)
        statuses.add(answer.status)
    assert statuses <= {202, 400, 413, 415, 422}
    assert len(statuses) > 1
