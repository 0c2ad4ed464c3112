"""What can be had of a job that is done: masks, overlays, tables; streams, lists, events."""

from __future__ import annotations

import csv
import http.client
import io
import json

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from graticule import __version__
from graticule.broker import connect_redis
from graticule.local.status import collect_status
from tests.contract.test_formats import tiff
from tests.worker.conftest import wait_until
from tests.worker.test_worker import picture


@pytest.fixture
def done(gateway, worker):
    """A finished job with one object of 40 x 20 px at (20, 10)."""
    (job,) = gateway.submit(("a.png", picture()), model="brightness", stream="line 1", wait="30").json["jobs"]
    return job


def image(answer):
    return np.asarray(Image.open(io.BytesIO(answer.body)))


def test_the_mask_is_the_stored_one(gateway, done):
    answer = gateway.get(done["links"]["mask.png"])
    assert answer.headers["content-type"] == "image/png"
    mask = image(answer)
    assert (mask[10:30, 20:60] == 1).all()
    assert mask.sum() == 800
    assert gateway.get(done["links"]["result.json"]).json == done["result"]


def test_a_client_that_has_it_already_is_told_so(gateway, done):
    for name, path in done["links"].items():
        if name == "self":
            continue
        entity = gateway.get(path).headers["etag"]
        again = gateway.get(path, If_None_Match=entity)
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", entity)
        assert gateway.get(path, If_None_Match='"other"').status == 200


@pytest.mark.parametrize(
    ("asked", "taken"),
    [
        ("bytes=0-9", slice(0, 10)),
        ("bytes=5-", slice(5, None)),
        ("bytes=-7", slice(-7, None)),
        ("bytes=3-999999", slice(3, None)),
    ],
)
def test_a_part_can_be_asked_for(gateway, done, asked, taken):
    whole = gateway.get(done["links"]["mask.png"]).body
    part = gateway.get(done["links"]["mask.png"], Range=asked)
    assert (part.status, part.body) == (206, whole[taken])
    assert part.headers["content-range"].endswith(f"/{len(whole)}")


def test_a_part_that_is_not_there_is_416_and_one_of_other_bytes_the_whole(gateway, done):
    path = done["links"]["mask.png"]
    whole = gateway.get(path)
    assert gateway.get(path, Range=f"bytes={len(whole.body)}-").status == 416
    for odd in ("bytes=a-b", "bytes=-", "lines=1-2", "bytes=0-1,3-4"):
        assert gateway.get(path, Range=odd).body == whole.body
    assert gateway.get(path, Range="bytes=0-1", If_Range='"other"').body == whole.body


def test_the_overlay_s_opacity_goes_from_the_picture_to_the_drawing(gateway, done):
    path = done["links"]["overlay.webp"]
    plain, full = (image(gateway.get(f"{path}?opacity={opacity}")).astype(int) for opacity in (0, 1))
    assert plain.shape == full.shape == (90, 120, 3)
    original = np.asarray(Image.open(io.BytesIO(picture())))
    assert abs(plain[:, :, 0] - original).mean() < 3
    outline = full[9, 25:55]
    assert outline[:, 0].mean() > outline[:, 1].mean() + 80  # the class is red
    assert gateway.get(f"{path}?opacity=2").status == 422


def test_the_layer_is_transparent_where_there_is_no_object(gateway, done):
    layer = image(gateway.get(done["links"]["layer.png"]))
    assert layer.shape == (90, 120, 4)
    assert (layer[10:30, 20:60] == (255, 0, 0, 255)).all()
    assert (layer[:, :, 3] > 0).sum() == 800


def test_a_deep_picture_becomes_one_that_browsers_show(gateway, worker):
    pixels = np.zeros((40, 60), np.float32)
    pixels[:, 30:] = 7.5
    (job,) = gateway.submit(("deep.tif", tiff(pixels)), model="brightness", wait="30").json["jobs"]
    shown = image(gateway.get(job["links"]["image.png"]))
    assert (shown.dtype, shown.shape) == (np.uint8, (40, 60, 3))
    assert (shown[:, 30:].min(), shown[:, :30].max()) == (255, 0)
    assert image(gateway.get(job["links"]["image.png"] + "?width=30")).shape == (20, 30, 3)


def test_the_tables_hold_the_numbers_of_the_result(gateway, done):
    (found,) = done["result"]["measurements"]["objects"]
    (row,) = csv.DictReader(io.StringIO(gateway.get(done["links"]["objects.csv"]).body.decode("utf-8-sig")))
    assert (int(row["area_px"]), row["class"], float(row["centroid_x_px"])) == (800, "bright", found["centroid"][0])
    table = pyarrow.parquet.read_table(io.BytesIO(gateway.get(done["links"]["objects.parquet"]).body)).to_pylist()
    assert [line["area_px"] for line in table] == [800]
    features = gateway.get(done["links"]["objects.geojson"]).json["features"]
    assert [feature["properties"]["area"] for feature in features] == [800]
    ((ring,),) = features[0]["geometry"]["coordinates"]
    assert sorted(map(tuple, ring[:-1])) == [(19.5, 9.5), (19.5, 29.5), (59.5, 9.5), (59.5, 29.5)]
    assert ring[0] == ring[-1]


def test_jobs_are_listed_and_filtered_page_by_page(start_gateway, start_worker):
    gateway = start_gateway()
    start_worker()
    for number in range(5):
        stream = "even" if number % 2 == 0 else "odd"
        gateway.submit((f"p{number}.png", picture((0, 0, 5 + number, 5))), model="brightness", stream=stream, wait="30")
    gateway.submit(("bad.png", picture()), model="brightness", parameters='{"x": 1}', wait="30")
    listed = wait_until(lambda: len(jobs := names(gateway, "")) == 6 and jobs, what="the index has six jobs")
    assert listed == ["bad.png", "p4.png", "p3.png", "p2.png", "p1.png", "p0.png"]
    assert names(gateway, "stream=odd") == ["p3.png", "p1.png"]
    assert names(gateway, "status=failed") == ["bad.png"]
    assert names(gateway, "status=succeeded&text=P4") == ["p4.png"]
    assert names(gateway, "model=other") == []
    first = gateway.get("/api/v1/jobs?limit=4").json
    second = gateway.get(f"/api/v1/jobs?limit=4&cursor={first['next']}").json
    assert [job["filename"] for job in first["jobs"] + second["jobs"]] == listed
    assert second["next"] == ""


def names(gateway, query):
    return [job["filename"] for job in gateway.get(f"/api/v1/jobs?{query}").json["jobs"]]


def test_a_stream_has_a_series_of_its_measurements(gateway, worker):
    for side in (10, 20, 30):
        gateway.submit((f"{side}.png", picture((0, 0, side, side))), model="brightness", stream="a/b c", wait="30")
    wait_until(lambda: ("a/b c", 3) in streams(gateway), what="the stream has 3 jobs")
    series = gateway.get("/api/v1/streams/series?stream=a/b%20c").json
    assert [point["filename"] for point in series["points"]] == ["10.png", "20.png", "30.png"]
    assert [point["area_fraction"] for point in series["points"]] == pytest.approx([n / 10800 for n in (100, 400, 900)])
    assert series["points"][0]["mean_radius"] == pytest.approx((100 / np.pi) ** 0.5)
    text = gateway.get("/api/v1/streams/series?stream=a/b%20c&format=csv&limit=2")
    rows = list(csv.DictReader(io.StringIO(text.body.decode())))
    assert [(row["filename"], row["count"]) for row in rows] == [("20.png", "1"), ("30.png", "1")]
    assert gateway.get("/api/v1/streams/series?stream=none").status == 404


def streams(gateway):
    return [(stream["name"], stream["jobs"]) for stream in gateway.get("/api/v1/streams").json]


def test_the_index_is_rebuilt_from_storage_when_redis_lost_it(start_gateway, start_worker):
    gateway = start_gateway()
    start_worker()
    gateway.submit(("a.png", picture()), model="brightness", stream="line 1", wait="30")
    wait_until(lambda: names(gateway, ""), what="the job is in the index")
    with connect_redis(gateway.settings) as broker:
        for key in broker.scan_iter(f"{gateway.settings.key_prefix}graticule:*"):
            broker.delete(key)
    assert names(gateway, "") == []
    other = start_gateway()
    wait_until(lambda: names(other, "") == ["a.png"], what="the index is rebuilt")
    (job,) = other.get("/api/v1/jobs").json["jobs"]
    assert (job["status"], job["count"], job["stream"]) == ("succeeded", 1, "line 1")


def test_models_have_a_card(gateway):
    (model,) = gateway.get("/api/v1/models").json
    assert (model["name"], model["version"], model["classes"]) == ("brightness", "1.0.0", {"bright": "#ff0000"})
    card = gateway.get("/api/v1/models/brightness").json
    assert (card["manifest"]["title"], card["versions"]) == ("Bright pixels", ["1.0.0"])
    assert gateway.get("/api/v1/models/nonsense").status == 404


def test_health_figures_and_cluster(gateway, worker):
    assert gateway.get("/healthz").json["status"] == "ok"
    ready = {"service": "graticule gateway", "version": __version__, "status": "ok", "problems": []}
    assert gateway.get("/readyz").json == ready
    cluster = gateway.get("/api/v1/cluster").json
    assert cluster["queues"] == {"brightness.interactive": 0, "brightness.bulk": 0}
    assert [found["models"] for found in cluster["workers"]] == [["brightness@1.0.0"]]
    text = gateway.get("/metrics").body.decode()
    assert 'graticule_queue_waiting{queue="brightness.bulk"} 0.0' in text
    assert 'route="/healthz",status="200"' in text


class Listener:
    """A client of the events."""

    def __init__(self, gateway, query="", last=""):
        host = gateway.url.removeprefix("http://")
        self.connection = http.client.HTTPConnection(host, timeout=30)
        self.connection.request("GET", f"/api/v1/events{query}", headers={"Last-Event-ID": last} if last else {})
        self.answer = self.connection.getresponse()
        assert self.answer.status == 200
        assert self.answer.headers["Content-Type"].startswith("text/event-stream")
        assert self.block() == {"retry": "2000"}

    def block(self):
        """The next block of lines that is not a comment."""
        fields = {}
        while True:
            line = self.answer.readline().decode().rstrip("\n")
            if line and not line.startswith(":"):
                name, _, value = line.partition(": ")
                fields[name] = value
            elif not line and fields:
                return fields

    def close(self):
        self.connection.close()


def test_events_come_as_jobs_end_and_go_on_where_the_connection_broke(gateway, worker):
    listener = Listener(gateway, "?stream=s")
    send = lambda name, size, stream="s": gateway.submit(  # noqa: E731
        (name, picture((0, 0, size, 5))), model="brightness", stream=stream, wait="30"
    )
    send("other.png", 4, "elsewhere")
    send("1.png", 5)
    first = listener.block()
    assert (first["event"], json.loads(first["data"])["filename"]) == ("job", "1.png")
    listener.close()
    send("2.png", 6)
    send("3.png", 7)
    resumed = Listener(gateway, "?stream=s", last=first["id"])
    assert [json.loads(resumed.block()["data"])["filename"] for _ in range(2)] == ["2.png", "3.png"]
    send("4.png", 8)
    assert json.loads(resumed.block()["data"])["filename"] == "4.png"
    resumed.close()


def test_a_client_that_was_away_too_long_is_told_to_load_again(gateway, worker):
    for size in (5, 6):
        gateway.submit(("a.png", picture((50, 0, 50 + size, 5))), model="brightness", wait="30")
    listener = Listener(gateway, last="1-0")
    assert listener.block()["event"] == "reset"
    gateway.submit(("new.png", picture((50, 0, 59, 5))), model="brightness", wait="30")
    assert json.loads(listener.block()["data"])["filename"] == "new.png"
    listener.close()
    assert gateway.get("/api/v1/events", Last_Event_ID="x").status == 422


def test_graticule_status_tells_of_the_gateway_that_the_settings_point_to(gateway, gateways):
    def found(settings):
        return [part for part in collect_status(settings).parts if part.name == "gateway"]

    (part,) = found(gateway.settings)
    assert (part.state, part.address, part.version) == ("ready", gateway.url, __version__)
    store_is_away = gateway.settings.model_copy(update={"s3_url": "http://127.0.0.1:1", "store_timeout": 1.0})
    limping = gateways.start_unready(store_is_away)
    (part,) = found(limping.settings)
    assert part.state == "storage does not answer"
    limping.stop()
    assert found(limping.settings) == []
