"""The engine: what is loaded, on how many streams, what goes when memory is short, and how versions change."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from graticule.errors import InvalidManifest, UnknownModel
from graticule.registry import Registry
from graticule.store import Store
from graticule_workers.engine import pool as pool_module
from graticule_workers.engine import streams
from graticule_workers.engine.catalogue import Catalogue
from graticule_workers.engine.pool import ModelPool
from graticule_workers.engine.session import load_session
from graticule_workers.engine.streams import Plan, candidates, fastest
from tests.models import write_brightness_model


@pytest.fixture
def registry(settings):
    return Registry(Store(settings))


@pytest.fixture
def publish(registry, tmp_path):
    """Publish a brightness model that adds `logit`; its manifest."""

    def publish(name="brightness", version="1.0.0", *, logit=0.0, padding=0):
        folder = tmp_path / f"{name}-{version}"
        write_brightness_model(folder, name=name, version=version, extra_logit=logit, padding=padding)
        return registry.publish(folder)

    return publish


@pytest.fixture
def pool(registry, settings):
    made = ModelPool(registry, settings)
    yield made
    made.close()


def images(value: float = 1.0, count: int = 1) -> np.ndarray:
    return np.full((count, 1, 32, 32), value, np.float32)


# -- streams ----------------------------------------------------------------------------------------------------


def test_plans_share_the_cores_and_a_setting_is_a_demand():
    assert candidates(1) == [Plan(1, 1)]
    assert candidates(2) == [Plan(2, 1), Plan(1, 2)]
    assert candidates(16) == [Plan(16, 1), Plan(4, 4), Plan(1, 16)]
    assert candidates(16, streams=2) == [Plan(2, 8)]
    assert candidates(16, threads=4) == [Plan(4, 4)]
    assert candidates(2, streams=3, threads=1) == [Plan(3, 1)]


def test_the_faster_plan_is_taken_but_not_for_a_trifle(monkeypatch):
    monkeypatch.setattr(streams, "_speed", lambda sessions, images: sessions)
    plans = [Plan(1, 4), Plan(4, 1), Plan(2, 2)]
    speeds = {plans[0]: 100.0, plans[1]: 104.0, plans[2]: 90.0}
    assert fastest(plans, speeds.__getitem__, lambda plan: None) == plans[0]
    speeds[plans[1]] = 150.0
    assert fastest(plans, speeds.__getitem__, lambda plan: None) == plans[1]


def test_a_loaded_model_has_a_measured_plan(pool, publish):
    state = pool.load(publish())
    streams_, threads = int(state.plan.split()[0]), int(state.plan.split()[3])
    assert 1 <= streams_ * threads <= 2 * len(os.sched_getaffinity(0))
    assert state.memory > 0


def test_the_path_for_devices_gives_the_same_numbers(publish, registry, settings):
    manifest = publish()
    session = load_session(manifest, registry.load(manifest), settings, threads=1)
    batch = np.random.default_rng(0).random((3, 1, 32, 48), np.float32)
    expected = session.run(batch)
    session._bound = True  # as on a GPU, but with the CPU's memory
    np.testing.assert_array_equal(session.run(batch), expected)


# -- the pool -----------------------------------------------------------------------------------------------------


def test_many_threads_get_their_own_answers(pool, publish):
    manifest = publish()
    values = [index / 50 for index in range(50)]
    with ThreadPoolExecutor(16) as executor:
        answers = list(executor.map(lambda value: pool.infer(manifest, images(value)), values))
    for value, answer in zip(values, answers, strict=True):
        np.testing.assert_allclose(answer, 100 * (value - 0.5), rtol=1e-5, atol=1e-4)
    assert len(pool.models()) == 1


def test_when_memory_is_short_the_model_used_least_lately_goes_and_comes_back_when_asked_for(
    registry, settings, publish
):
    first, second = publish("first", logit=1.0, padding=700_000), publish("second", logit=2.0, padding=700_000)
    pool = ModelPool(registry, settings.model_copy(update={"model_memory": 1}))  # MiB: one of them fits
    try:
        for manifest, logit in ((first, 1.0), (second, 2.0), (first, 1.0)):
            np.testing.assert_allclose(pool.infer(manifest, images(0.5)), logit, atol=1e-5)
            assert [model.reference for model in pool.models()] == [manifest.reference]
    finally:
        pool.close()


def test_a_version_that_nobody_wants_any_more_is_unloaded(pool, publish, monkeypatch):
    old, new = publish(version="1.0.0"), publish(version="2.0.0", logit=1.0)
    pool.load(old)
    pool.load(new)
    pool.keep({new.reference})
    assert len(pool.models()) == 2, "it may be asked for again within seconds"
    monkeypatch.setattr(pool_module, "IDLE_BEFORE_UNLOAD", 0.0)
    pool.keep({new.reference})
    assert [model.reference for model in pool.models()] == [new.reference]
    pool.infer(old, images())
    assert len(pool.models()) == 2


# -- the catalogue ------------------------------------------------------------------------------------------------


@pytest.fixture
def catalogue(registry, pool):
    return Catalogue(registry, pool, serves=lambda name: name != "unwanted")


def test_jobs_get_the_version_in_production_once_it_is_loaded(catalogue, publish, registry, pool):
    publish(version="1.0.0")
    assert catalogue.follow() == ["brightness"]
    publish(version="2.0.0", logit=1.0)
    assert catalogue.resolve("brightness").version == "1.0.0", "jobs change over when the new one is warm"
    assert catalogue.resolve("brightness@2.0.0").version == "2.0.0"
    catalogue.follow()
    assert catalogue.resolve("brightness").version == "2.0.0"
    assert {model.reference for model in pool.models()} == {"brightness@1.0.0", "brightness@2.0.0"}
    registry.promote("brightness", "1.0.0")
    catalogue.follow()
    assert catalogue.resolve("brightness").version == "1.0.0"


def test_a_new_version_that_cannot_be_loaded_leaves_the_old_one_at_work(catalogue, publish, registry, monkeypatch):
    publish(version="1.0.0")
    catalogue.follow()
    bad = publish(version="2.0.0", logit=1.0)
    registry.store.put("models", f"brightness/versions/{bad.version}/model.onnx", b"damaged", "x/y")
    catalogue.follow()
    assert catalogue.resolve("brightness").version == "1.0.0"


def test_only_wanted_models_are_served_and_unknown_ones_named(catalogue, publish):
    publish("unwanted")
    publish("wanted")
    assert catalogue.follow() == ["wanted"]
    with pytest.raises(UnknownModel, match="wanted"):
        catalogue.resolve("nothing")


def test_a_model_that_does_not_fit_its_manifest_is_refused(pool, publish, registry):
    manifest = publish()
    (output,) = manifest.outputs
    wrong = manifest.model_copy(update={"outputs": (output.model_copy(update={"name": "nope"}),)})
    with pytest.raises(InvalidManifest, match="no tensor 'nope'"):
        pool.load(wrong)
