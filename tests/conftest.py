"""A real Redis and a real S3 server for every test that asks for one; each test in a namespace of its own."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from graticule.broker import connect_redis
from graticule.local.cluster import EmbeddedCluster
from graticule.settings import FILE_SUFFIX, Settings, env_name, load_settings
from graticule.store import PURPOSES, Store


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> Iterator[None]:
    """A cluster of the person who runs the tests must not be touched."""
    with pytest.MonkeyPatch.context() as patch:
        for name in Settings.model_fields:
            patch.delenv(env_name(name), raising=False)
            patch.delenv(env_name(name) + FILE_SUFFIX, raising=False)
        patch.setenv("GRATICULE_DATA_DIR", "/nonexistent/graticule-tests")
        yield


@pytest.fixture(scope="session")
def cluster_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A cluster without worker and Flower, for the whole session."""
    folder = tmp_path_factory.mktemp("cluster")
    with EmbeddedCluster(load_settings(data_dir=folder), worker=False, flower=False) as running:
        yield running


@pytest.fixture
def settings(cluster_settings: Settings) -> Iterator[Settings]:
    """The session's cluster, in a namespace that no other test shares and that is removed afterwards."""
    yield from in_own_namespace(cluster_settings)


def in_own_namespace(cluster_settings: Settings) -> Iterator[Settings]:
    """A cluster's settings with a namespace of their own; everything in it is removed afterwards."""
    made = cluster_settings.model_copy(
        update={"namespace": f"t{secrets.token_hex(4)}", "reconcile_interval": 1.0, "data_dir": Path("/nonexistent")}
    )
    store = Store(made)
    store.create_buckets()
    yield made
    for purpose in PURPOSES:
        _remove_bucket(store, made.bucket(purpose))
    with connect_redis(made) as broker:
        for key in broker.scan_iter(f"{made.key_prefix}*"):
            broker.delete(key)


def _remove_bucket(store: Store, bucket: str) -> None:
    for item in store._minio.list_objects(bucket, recursive=True):
        store._minio.remove_object(bucket, item.object_name or "")
    store._minio.remove_bucket(bucket)
