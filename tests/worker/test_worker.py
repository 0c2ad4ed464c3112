"""A real worker process: pictures in, results out, and whatever may come between."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import redis
from PIL import Image

from graticule.broker import connect_redis, make_celery
from graticule.client import Client
from graticule.errors import JobFailed, UnknownModel
from graticule.events import Events
from graticule.jobs import Lane, utc_now
from graticule.manifest import MANIFEST_FILE, Task
from graticule.records import Records
from graticule.registry import Registry
from graticule.results import Failure, Result
from graticule.store import Store
from graticule.submit import Submitter
from tests.contract.test_formats import huge_png, jpeg, png
from tests.models import write_brightness_model
from tests.worker.conftest import WorkerProcess, wait_until


def picture(rectangle: tuple[int, int, int, int] = (20, 10, 60, 30), size: tuple[int, int] = (90, 120)) -> bytes:
    """A black PNG, height x width, with a white rectangle (left, top, right, bottom)."""
    pixels = np.zeros(size, np.uint8)
    left, top, right, bottom = rectangle
    pixels[top:bottom, left:right] = 255
    return png(pixels)


def pending(settings) -> list[str]:
    return Store(settings).keys("jobs", "pending/")


def test_a_picture_becomes_numbers_that_can_be_worked_out_by_hand(client, worker, tmp_path):
    path = tmp_path / "plate 1 – ä.png"
    path.write_bytes(picture())
    result = client.submit(path, "brightness", stream="s", lane=Lane.INTERACTIVE).result(30)
    measured = result.measurements
    assert (measured.count, measured.area_fraction) == (1, pytest.approx(800 / 10800))
    (found,) = measured.objects
    assert (found.class_name, found.area, found.bounding_box) == ("bright", 800, (20, 10, 60, 30))
    assert found.centroid == (39.5, 19.5)
    assert (result.image.width, result.image.height, result.image.format) == (120, 90, "png")
    assert result.model.version == "1.0.0"
    assert result.job.image.filename == path.name
    assert result.parameters["threshold"] == 0.5
    mask = client.mask(result)
    assert mask.shape == (90, 120)
    assert (mask == 1).sum() == 800
    assert (mask[10:30, 20:60] == 1).all()
    np.testing.assert_array_equal(client.picture(result), np.asarray(Image.open(path)))
    assert all(value >= 0 for value in result.timings.model_dump().values())


def test_everything_that_the_result_names_exists_and_the_pending_record_goes(client, worker):
    result = client.submit(picture(), "brightness").result(30)
    for artifact in result.artifacts.values():
        data = client.store.get("results", artifact.key)
        assert len(data) == artifact.size
    wait_until(lambda: not pending(client.settings), what="the pending record is removed")
    prefix = f"{result.job.job_id}/"
    assert client.store.keys("results", prefix) == [result.artifacts["mask"].key, prefix + "result.json"]


def test_the_same_job_twice_is_done_once(client, worker):
    first = client.submit(picture(), "brightness")
    done = first.result(30)
    again = client.submit(picture(), "brightness")
    assert again.job_id == first.job_id
    assert again.result(30) == done
    wait_until(lambda: not pending(client.settings), what="the second submission's record is removed")
    assert client.outcome(first.job_id) == done
    assert Events(client.settings).counts()["succeeded"] == 1
    assert f"job {first.job_id} was finished already" in worker.output


def test_a_job_whose_end_redis_forgot_keeps_its_first_result_and_is_told_of_again(client, worker, settings):
    done = client.submit(picture(), "brightness").result(30)
    broker: redis.Redis = connect_redis(settings)
    wait_until(lambda: Events(settings).counts()["succeeded"] == 1)
    broker.delete(*(f"{settings.key_prefix}graticule:{key}" for key in ("told", "counters", "events")))
    client.submit(picture(), "brightness")
    wait_until(lambda: Events(settings).counts()["succeeded"] == 1, what="its end is told again")
    wait_until(lambda: not pending(settings), what="the second submission's record is removed")
    assert client.outcome(done.job.job_id) == done


def test_parameters_change_the_result_and_wrong_ones_are_told(client, worker):
    def count(**parameters: object) -> int:
        return client.submit(picture(), "brightness", parameters=parameters).result(30).measurements.count

    assert count(minimum_area=800) == 1
    assert count(minimum_area=801) == 0
    with pytest.raises(JobFailed, match="Unknown parameter.*treshold.*threshold"):
        count(treshold=0.5)
    with pytest.raises(JobFailed, match="less than or equal to 1, found 2"):
        count(threshold=2)


def test_a_version_can_be_named(client, worker, tmp_path):
    write_brightness_model(tmp_path / "v2", version="2.0", extra_logit=1000)  # calls everything bright
    Registry(client.store).publish(tmp_path / "v2", promote=False)
    everything = client.submit(picture(), "brightness@2.0").result(30)
    assert (everything.model.version, everything.measurements.area_fraction) == ("2.0", 1.0)
    assert client.submit(picture(), "brightness").result(30).model.version == "1.0.0"


def test_a_model_published_later_is_served_without_a_restart(client, worker, tmp_path):
    write_brightness_model(tmp_path / "new", name="newcomer")
    Registry(client.store).publish(tmp_path / "new")
    assert client.submit(picture(), "newcomer").result(30).model.name == "newcomer"


def test_a_model_of_an_unknown_kind_fails_its_jobs_with_a_sentence(client, worker, tmp_path):
    manifest = write_brightness_model(tmp_path / "odd", name="odd")
    changed = manifest.model_copy(update={"task": Task.REGRESSION})
    (tmp_path / "odd" / MANIFEST_FILE).write_text(changed.to_yaml(), encoding="utf-8")
    Registry(client.store).publish(tmp_path / "odd")
    with pytest.raises(JobFailed, match=r"odd@1.0.0 is a regression model; this worker runs semantic-segmentation"):
        client.submit(picture(), "odd").result(30)
    assert client.submit(picture(), "brightness").result(30).measurements.count == 1


BAD_PICTURES = {
    "empty.png": (b"", "is empty"),
    "text.png": (b"not a picture", "found text that begins with 'not a picture'"),
    "cut.jpg": (jpeg(np.random.default_rng(0).integers(0, 255, (99, 99), np.uint8))[:2000], "cannot be read"),
    "bomb.png": (huge_png(), "2,500,000,000 pixels"),
    "a\nb.png": (b"x", "is not an image"),
    "ü" * 127 + ".": (b"x", "is not an image"),
}


def test_bad_pictures_fail_with_a_sentence_and_the_others_go_on(client, worker):
    good = [client.submit(picture((i, i, i + 20, i + 20)), "brightness") for i in range(5)]
    bad = {name: client.submit(data, "brightness", filename=name) for name, (data, _) in BAD_PICTURES.items()}
    good += [client.submit(picture((i, i, i + 30, i + 30)), "brightness") for i in range(5)]
    for name, handle in bad.items():
        with pytest.raises(JobFailed, match=BAD_PICTURES[name][1]):
            handle.result(30)
        failure = client.outcome(handle.job_id)
        assert isinstance(failure, Failure)
        assert (failure.stage, failure.tries) == ("decode", 1)
        assert client.store.get_image(handle.job.image) == BAD_PICTURES[name][0]
    assert all(handle.result(30).measurements.count == 1 for handle in good)
    assert worker.alive
    wait_until(lambda: not pending(client.settings), what="no record is left")


def test_a_failed_job_can_be_sent_again(client, worker, tmp_path):
    first = client.submit(b"broken", "brightness")
    with pytest.raises(JobFailed):
        first.result(30)
    failed_at = client.outcome(first.job_id).completed_at
    with pytest.raises(JobFailed):
        client.submit(b"broken", "brightness").result(30)
    assert client.outcome(first.job_id).completed_at > failed_at


def test_an_unknown_model_is_refused_with_the_known_names(client):
    with pytest.raises(UnknownModel, match="no model 'nope'; known models: brightness"):
        client.submit(picture(), "nope")
    with pytest.raises(UnknownModel, match="brightness has the versions 1.0.0"):
        client.submit(picture(), "brightness@9")


def test_a_job_for_an_unknown_model_ends_in_failed(client, worker):
    job = Submitter(client.settings, producer="test").submit_bytes(picture(), "x.png", "nope")
    failure = wait_until(lambda: client.outcome(job.job_id), 30, "the reconciler ends it")
    assert isinstance(failure, Failure)
    assert (failure.error, failure.stage) == ("UnknownModel", "route")
    assert "known models: brightness" in failure.message
    wait_until(lambda: not pending(client.settings), what="no record is left")


def test_an_image_that_is_gone_or_damaged_fails_and_says_so(client, worker, settings):
    submitter = Submitter(client.settings, producer="test")
    image = submitter.store.put_image(picture(), "x.png")
    submitter.store.put("images", image.key, b"other bytes", "image/png")
    with pytest.raises(JobFailed, match=r"Corrupted in fetch.*damaged"):
        _send(client, submitter, image).result(30)
    gone = submitter.store.put_image(picture((1, 1, 9, 9)), "y.png")
    submitter.store.remove("images", gone.key)
    with pytest.raises(JobFailed, match=r"NotFound in fetch"):
        _send(client, submitter, gone).result(30)


def _send(client, submitter, image):
    from graticule.client import JobHandle
    from graticule.jobs import Source, new_job

    job = new_job(image, "brightness", source=Source(producer="test"))
    submitter.records.add_pending(job)
    submitter.ring(job)
    return JobHandle(client, job)


@pytest.mark.parametrize("message", [["nonsense"], [], [{"job_id": "x"}], [3]])
def test_a_message_that_is_no_job_is_kept_and_the_worker_goes_on(client, worker, message):
    app = make_celery(client.settings)
    app.send_task("graticule.analyse", args=message, queue="brightness.bulk")
    wait_until(lambda: client.store.keys("jobs", "dead/"), what="it is kept")
    assert client.submit(picture(), "brightness").result(30).measurements.count == 1


def test_pickles_are_not_accepted(client, worker, tmp_path):
    witness = tmp_path / "unpickled"

    class Evil:
        def __reduce__(self) -> tuple:
            return Path.touch, (witness,)

    app = make_celery(client.settings)
    app.conf.task_serializer = "pickle"
    app.send_task("graticule.analyse", args=[Evil()], queue="brightness.bulk", serializer="pickle")
    assert client.submit(picture(), "brightness").result(30).measurements.count == 1
    assert not witness.exists()


def test_interactive_goes_before_bulk(client, settings, tmp_path):
    handles = [
        client.submit(picture((i, i, i + 20, i + 20), (400, 400)), "brightness", lane=Lane.BULK) for i in range(60)
    ]
    urgent = client.submit(picture((50, 50, 90, 90), (400, 400)), "brightness", lane=Lane.INTERACTIVE)
    one_thread = settings.model_copy(update={"worker_threads": 1})
    process = WorkerProcess(one_thread, tmp_path / "worker.log")
    try:
        process.start()
        finished = [handle.job_id for handle, _ in client.as_completed([*handles, urgent], timeout=60)]
    finally:
        process.kill()
    times = {job_id: client.outcome(job_id).completed_at for job_id in finished}
    assert sorted(times, key=times.__getitem__).index(urgent.job_id) <= 2


def test_a_worker_told_to_stop_finishes_what_it_holds_and_leaves_the_rest(client, worker):
    handles = [client.submit(picture((i, i, i + 20, i + 20), (600, 600)), "brightness") for i in range(40)]
    wait_until(lambda: client.outcome(handles[0].job_id), what="the first is done")
    assert worker.stop() == 0
    broker = connect_redis(client.settings)
    assert broker.hlen(f"{client.settings.key_prefix}unacked") == 0
    worker.start()
    outcomes = [outcome for _, outcome in client.as_completed(handles, timeout=60)]
    assert all(isinstance(outcome, Result) for outcome in outcomes)


def test_a_producer_killed_before_it_rings_loses_nothing(client, settings, tmp_path):
    impatient = settings.model_copy(update={"visibility_timeout": 6.0, "reconcile_interval": 0.2})
    submitter = Submitter(settings, producer="test")
    from graticule.jobs import Source, new_job

    job = new_job(submitter.store.put_image(picture(), "x.png"), "brightness", source=Source(producer="test"))
    submitter.records.add_pending(job)  # and here it is killed
    process = WorkerProcess(impatient, tmp_path / "worker.log")
    try:
        process.start()
        outcome = wait_until(lambda: client.outcome(job.job_id), 30, "the reconciler rings")
    finally:
        process.kill()
    assert isinstance(outcome, Result)


def test_the_record_of_a_finished_job_is_removed_when_its_message_was_lost(client, worker, settings):
    done = client.submit(picture(), "brightness").result(30)
    records = Records(client.store)
    stale = done.job.model_copy(update={"submitted_at": utc_now()})
    records.add_pending(stale)
    Submitter(settings, producer="test").ring(stale)
    wait_until(lambda: not pending(settings), what="the stale record is removed")
    assert client.outcome(stale.job_id) == done


def test_results_are_json_that_others_can_read(client, worker):
    result = client.submit(picture(), "brightness").result(30)
    raw = json.loads(client.store.get("results", f"{result.job.job_id}/result.json"))
    assert raw["schema_version"] == 1
    assert raw["status"] == "succeeded"
    assert raw["measurements"]["objects"][0]["bounding_box"] == [20, 10, 60, 30]
    mask = Image.open(io.BytesIO(client.store.get("results", raw["artifacts"]["mask"]["key"])))
    assert (mask.format, mask.mode, mask.size) == ("PNG", "L", (120, 90))


def test_an_array_can_be_submitted(client, worker):
    pixels = np.zeros((50, 70), np.uint16)
    pixels[10:20, 10:20] = 60000
    result = client.submit(pixels, "brightness").result(30)
    assert (result.image.dtype, result.measurements.objects[0].area) == ("uint16", 100)


def test_a_result_is_found_although_its_event_was_lost(client, worker, settings):
    handle = client.submit(picture(), "brightness")
    broker: redis.Redis = connect_redis(settings)
    wait_until(lambda: client.outcome(handle.job_id))
    broker.delete(f"{settings.key_prefix}graticule:events")
    assert handle.result(20).measurements.count == 1


def test_the_client_type_is_public():
    import graticule

    assert graticule.Client is Client
