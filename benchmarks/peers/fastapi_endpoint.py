"""FastAPI + onnxruntime as people write it: a plain `def` endpoint around one session."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, UploadFile  # pyright: ignore[reportMissingImports]  (extra `bench`)

from benchmarks.peers.plain import PlainModel
from graticule_workers.engine.session import usable_cores

model = PlainModel(threads=usable_cores())
app = FastAPI()


@app.get("/health")
def health() -> str:
    """Ready as soon as the module is loaded."""
    return "ok"


@app.post("/predict")
def predict(request: UploadFile) -> dict[str, Any]:
    """One picture; FastAPI runs up to 40 of these at once in threads."""
    return model.answer(request.file.read())
