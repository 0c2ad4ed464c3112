"""The home-grown queue: FastAPI puts the picture into a Celery message and waits for the answer in Redis' backend."""

from __future__ import annotations

import base64
import os
from typing import Any

from celery import Celery
from celery.signals import worker_process_init
from fastapi import FastAPI, UploadFile  # pyright: ignore[reportMissingImports]  (extra `bench`)

from benchmarks.peers.plain import REDIS_URL, PlainModel

_ANSWER_WITHIN = 120
"""Seconds."""

tasks = Celery("home-grown", broker=os.environ[REDIS_URL], backend=os.environ[REDIS_URL])
tasks.conf.broker_connection_retry_on_startup = True
app = FastAPI()
_loaded: list[PlainModel] = []


@worker_process_init.connect
def load(**_: object) -> None:
    """One single-threaded session in each process: there are as many processes as cores."""
    _loaded.append(PlainModel(threads=1))


@tasks.task
def analyse(picture: str) -> dict[str, Any]:
    """`picture`: an image file, base64."""
    return _loaded[0].answer(base64.b64decode(picture))


@app.get("/health")
def health() -> str:
    """Ready as soon as the module is loaded."""
    return "ok"


@app.post("/predict")
def predict(request: UploadFile) -> dict[str, Any]:
    """One picture."""
    picture = base64.b64encode(request.file.read()).decode()
    answer = analyse.delay(picture)  # pyright: ignore[reportFunctionMemberAccess]  (a task, not a function)
    return answer.get(timeout=_ANSWER_WITHIN)
