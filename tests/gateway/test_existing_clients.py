"""The calls of clients that already exist, as their reference pages tell them."""

from __future__ import annotations

import io
import json
from datetime import datetime

import numpy as np
import pytest
from PIL import Image

from graticule_producers.gateway.existing.analyze import centre_square
from tests.contract.test_formats import jpeg
from tests.gateway.conftest import form
from tests.worker.conftest import wait_until
from tests.worker.test_worker import picture


def send(gateway, path, *files, accept="", **fields):
    body, kind = form(*files, **fields)
    return gateway.post(path, body, Content_Type=kind, **({"Accept": accept} if accept else {}))


# -- magnetic tiles ------------------------------------------------------------------------------------------


def test_analyze_answers_rows_of_zeros_and_ones_over_the_whole_picture(gateway, worker):
    answer = send(gateway, "/analyze", ("image", "tile.png", picture()))
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert list(answer.json) == ["pred"]
    rows = answer.json["pred"]
    assert all(type(value) is int for row in rows for value in row)
    mask = np.array(rows)
    assert mask.shape == (90, 120)
    assert mask.sum() == mask[10:30, 20:60].sum() == 800


def test_analyze_takes_jpeg_and_crops_as_formerly_when_asked(gateway, worker):
    pixels = np.zeros((112, 448), np.uint8)
    pixels[:, 224:] = 255
    answer = send(gateway, "/analyze?crop=center", ("image", "tile.jpg", jpeg(pixels, quality=95)))
    mask = np.array(answer.json["pred"])
    assert mask.shape == (224, 224)
    assert mask[:, :108].sum() == 0
    assert mask[:, 116:].all()


def test_the_centre_square_is_cut_after_scaling_the_short_side():
    mask = np.zeros((10, 30), bool)
    mask[:, 10:20] = True
    assert centre_square(mask, 5).shape == (5, 5)
    assert centre_square(mask, 5).all()
    assert centre_square(mask.T, 20).all()


def test_analyze_refuses_get_and_other_fields(gateway):
    assert gateway.get("/analyze").status == 405
    assert send(gateway, "/analyze", ("picture", "tile.png", picture())).status == 422
    assert send(gateway, "/analyze").status == 422
    assert send(gateway, "/analyze", ("image", "tile.txt", b"text")).status == 415


# -- PACBED --------------------------------------------------------------------------------------------------


def test_inference_answers_422_and_says_which_systems_are_known(gateway):
    parameters = {
        "physical_params": {
            "acceleration_voltage": 80000,
            "convergence_angle": 20.0,
            "zone_axis": {"u": 0, "v": 0, "w": 1},
            "crystal_structure": "Rutile",
        },
        "file_params": {"typ": "raw", "dtype": "float32", "width": 256, "height": 256},
    }
    answer = send(gateway, "/inference/", ("file", "p.raw", bytes(256 * 256 * 4)), parameters=json.dumps(parameters))
    assert answer.status == 422
    assert "no system is published yet" in answer.json["detail"]


# -- DEEPaaS -------------------------------------------------------------------------------------------------


def test_deepaas_lists_its_models(gateway):
    answer = gateway.get("/v2/models/")
    (model,) = answer.json["models"]
    assert (model["id"], model["name"], model["version"]) == ("brightness", "Bright pixels", "1.0.0")
    assert model["links"] == [{"rel": "self", "href": "/v2/models/brightness/"}]
    assert {"description", "license", "url", "author"} <= set(model)
    assert gateway.get(model["links"][0]["href"]).json == model
    assert gateway.get("/v2/models/nonsense/").status == 404


@pytest.mark.parametrize("where", ["query", "form"])
def test_deepaas_predicts_with_a_threshold(gateway, worker, where):
    path, fields = "/v2/models/brightness/predict/", {}
    if where == "query":
        path += "?threshold=0.25"
    else:
        fields = {"threshold": "0.25"}
    answer = send(gateway, path, ("input_file", "a.png", picture()), accept="application/json", **fields)
    assert (answer.status, answer.json["status"]) == (200, "OK")
    predictions = answer.json["predictions"]
    assert (predictions["count"], predictions["area_fraction"]) == (1, pytest.approx(800 / 10800))
    assert gateway.get(predictions["links"]["self"]).json["parameters"] == {"threshold": 0.25}


def test_deepaas_gives_the_mask_as_a_picture(gateway, worker):
    answer = send(gateway, "/v2/models/brightness/predict/", ("input_file", "a.png", picture()), accept="image/png")
    assert answer.headers["content-type"] == "image/png"
    mask = np.asarray(Image.open(io.BytesIO(answer.body)))
    assert (mask.dtype, set(np.unique(mask))) == (np.uint8, {0, 255})
    assert (mask == 255).sum() == 800


def test_deepaas_refuses_what_it_cannot_take(gateway):
    path = "/v2/models/brightness/predict/"
    for threshold in ("2", "-1", "x", "nan"):
        assert send(gateway, path, ("input_file", "a.png", picture()), threshold=threshold).status == 422
        assert send(gateway, f"{path}?threshold={threshold}", ("input_file", "a.png", picture())).status == 422
    assert send(gateway, path, ("file", "a.png", picture())).status == 422
    assert send(gateway, path, ("input_file", "a.txt", b"no picture")).status == 415


def test_deepaas_trainings_are_not_there_yet(gateway):
    base = "/v2/models/brightness/train/"
    answers = [
        gateway.get(base),
        gateway.post(base),
        gateway.get(base + "d2f7"),
        gateway.ask("DELETE", base + "d2f7"),
    ]
    assert [answer.status for answer in answers] == [501] * 4


# -- the old status page ---------------------------------------------------------------------------------------


@pytest.fixture
def watched(gateway, worker):
    """Two pictures of a stream: one object, then none."""
    for name, shown in (("frame-0.png", picture()), ("frame-1.png", picture((0, 0, 0, 0)))):
        gateway.submit((name, shown), model="brightness", stream="tem", wait="30")
    wait_until(lambda: gateway.get("/api/status").json["images"] == 2, what="the stream has two pictures")
    return gateway


def test_the_status_page_s_data_have_the_keys_that_notebooks_read(watched):
    first, second = watched.get("/api/data").json
    assert set(first) == {
        *("void_frac", "void_count", "radii", "radii_average", "positions", "touches_side", "type", "run_time"),
        *("created_time", "detect_time", "completed_time", "rtt", "image-path", "mask-path"),
    }
    assert (first["void_frac"], first["void_count"]) == (pytest.approx(800 / 10800), 1)
    assert first["radii"] == [pytest.approx((800 / np.pi) ** 0.5)]
    assert (first["positions"], first["touches_side"], first["type"]) == ([[39.5, 19.5]], [False], ["bright"])
    assert first["radii_average"] == first["radii"][0]
    assert first["rtt"] > 0
    assert datetime.fromisoformat(first["completed_time"]) >= datetime.fromisoformat(first["detect_time"])
    assert (second["void_count"], second["radii"], second["positions"], second["radii_average"]) == (0, [], [], 0)
    assert watched.get("/api/data?limit=1").json == [second]


def test_the_status_page_shows_pictures_by_their_number(watched):
    status = watched.get("/api/status").json
    assert (status["stream"], status["model"], status["images"], status["newest"]) == ("tem", "brightness", 2, 1)
    shown = {kind: watched.get(f"/api/{kind}/0") for kind in ("image", "mask", "overlay")}
    assert {answer.headers["content-type"] for answer in shown.values()} == {"image/png"}
    mask = np.asarray(Image.open(io.BytesIO(shown["mask"].body)))
    assert (mask == 255).sum() == 800
    assert np.asarray(Image.open(io.BytesIO(shown["overlay"].body))).shape == (90, 120, 3)
    assert watched.get("/api/mask/-1").body == watched.get("/api/mask/1").body
    assert watched.get("/api/image/2").status == 404
    assert watched.get("/api/image/0?stream=other").status == 404


def test_a_status_page_without_a_stream_is_empty(start_gateway):
    gateway = start_gateway()
    assert gateway.get("/api/status").json["images"] == 0
    assert gateway.get("/api/data").json == []


# -- the Open Inference Protocol --------------------------------------------------------------------------------


def test_open_inference_protocol_health_and_metadata(gateway, worker):
    assert gateway.get("/oip/v2/health/live").status == gateway.get("/oip/v2/health/ready").status == 200
    metadata = gateway.get("/oip/v2/models/brightness").json
    assert metadata["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 1, -1, -1]}]
    assert metadata["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 1, -1, -1]}]
    assert metadata["versions"] == ["1.0.0"]
    assert gateway.get("/oip/v2/models/brightness/versions/1.0.0").json == metadata
    assert gateway.get("/oip/v2/models/brightness/ready").status == 200
    assert gateway.get("/oip/v2/models/nonsense").status == 404


def test_open_inference_protocol_is_not_ready_without_a_worker(start_gateway):
    gateway = start_gateway()
    assert gateway.get("/oip/v2/health/live").status == 200
    assert gateway.get("/oip/v2/health/ready").status == 503
    assert gateway.get("/oip/v2/models/brightness/ready").status == 503
