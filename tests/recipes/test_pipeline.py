"""The whole recipe on generated pictures: prepare, split, train (stopped and resumed), evaluate, export."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
import yaml

torch = pytest.importorskip("torch", reason="training needs torch: pip install -e '.[train]'")
pytest.importorskip("onnx", reason="export needs onnx: pip install -e '.[train]'")

PROJECT = Path(__file__).parents[2]
RECIPE = PROJECT / "recipes" / "tile-defects"
KINDS = ("blowhole", "break", "crack", "fray", "uneven", "free")


def draw(folder, kind, number, chance):
    """A grey picture with a dark square on it, and its mask."""
    pixels = chance.normal(120, 8, (96, 128)).clip(0, 255).astype(np.uint8)
    mask = np.zeros_like(pixels)
    if kind != "free":
        top, left = chance.integers(5, 60, 2)
        mask[top : top + 20, left : left + 20] = 255
        pixels[mask > 0] //= 3
    stem = folder / kind / f"exp1_num_{number}"
    cv2.imwrite(f"{stem}.jpg", pixels)
    cv2.imwrite(f"{stem}.png", mask)


@pytest.fixture
def workplace(tmp_path):
    """A copy of the recipe with small parameters, in a project of its own, and generated data."""
    place = tmp_path / "project" / "recipes" / "tile-defects"
    shutil.copytree(
        RECIPE, place, ignore=shutil.ignore_patterns("work", ".dvc", "dvc.lock", "split.json", "metrics.json")
    )
    chance = np.random.default_rng(0)
    for kind in KINDS:
        (tmp_path / "tiles" / kind).mkdir(parents=True)
        for index in range(5):
            draw(tmp_path / "tiles", kind, 5000 * (index + 1), chance)
    parameters = yaml.safe_load((place / "params.yaml").read_text())
    parameters["data"] = "../tiles"
    parameters["split"] |= {"test": 0.2, "validation": 0.2}
    parameters["refit"] |= {"epochs": 1}
    parameters["train"] |= {"epochs": 1, "batches": 3, "batch": 4, "shapes": [[64, 96]], "widths": [8, 8, 8, 8, 8]}
    (place / "params.yaml").write_text(yaml.safe_dump(parameters))
    return place


def run(place, script, *arguments):
    environment = {name: value for name, value in os.environ.items() if name != "GRATICULE_TILES"}
    done = subprocess.run(
        [sys.executable, script, *arguments], cwd=place, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout + done.stderr


def test_pictures_to_model_folder(workplace):
    run(workplace, "prepare.py")
    run(workplace, "split.py")
    run(workplace, "train.py")
    parameters = yaml.safe_load((workplace / "params.yaml").read_text())
    assert "going on after epoch 1" in run(workplace, "train.py"), "a finished training must not start again"
    run(workplace, "refit.py")
    sheets = workplace / "sheets"
    run(workplace, "evaluate.py", "--sheets", str(sheets))
    run(workplace, "export.py")

    metrics = json.loads((workplace / "metrics.json").read_text())
    assert metrics["test"]["native"]["pictures"] == 5
    assert metrics["test"]["native"]["truth_pixels"] == 5 * 400
    assert metrics["test"]["native"]["pixels"] == 5 * 96 * 128
    assert metrics["held_exposures"]["native"]["pictures"] == 5, "a tile of one exposure is held"
    assert len(list(sheets.glob("*.png"))) == 6
    history = [json.loads(line) for line in (workplace / "work/train/history.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in history] == [parameters["train"]["epochs"]]

    model = workplace.parents[1] / "models" / "tile-defects"
    parity = json.loads((model / "parity.json").read_text())
    assert parity["passed"]
    assert parity["max_difference"] <= 1e-4
    assert {tuple(case["shape"][2:]) for case in parity["cases"]} >= {(256, 256), (192, 352)}
    assert {case["shape"][0] for case in parity["cases"]} >= {1, 2, 3}
    assert not list(model.glob("*.data"))
    session = onnxruntime.InferenceSession(str(model / "model.onnx"), providers=["CPUExecutionProvider"])
    logits = session.run(None, {"image": np.zeros((2, 1, 96, 160), np.float32)})[0]
    assert logits.shape == (2, 6, 96, 160)

    manifests = pytest.importorskip("graticule.manifest")
    manifest, _ = manifests.read_model_folder(model)
    assert manifest.reference == "tile-defects@1.0.0"


def test_missing_data_is_named(workplace):
    shutil.rmtree(workplace.parents[2] / "tiles")
    done = subprocess.run([sys.executable, "prepare.py"], cwd=workplace, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "no data folder at" in done.stderr
    assert "GRATICULE_TILES" in done.stderr
