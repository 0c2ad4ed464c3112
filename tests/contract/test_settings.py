"""Settings: where they come from, and how mistakes are told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from graticule.errors import SettingsError
from graticule.settings import CLUSTER_FILE, Settings, describe_settings, env_name, load_settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_environment(monkeypatch, tmp_path):
    for name in Settings.model_fields:
        monkeypatch.delenv(env_name(name), raising=False)
    monkeypatch.setenv("GRATICULE_DATA_DIR", str(tmp_path))


def test_every_mistake_is_reported_at_once_with_its_variable(monkeypatch):
    monkeypatch.setenv("GRATICULE_MAX_PIXELS", "-1")
    monkeypatch.setenv("GRATICULE_S3_URL", "ftp://x")
    monkeypatch.setenv("GRATICULE_VISIBILITY_TIMEOUT", "1")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    for name in ("GRATICULE_MAX_PIXELS", "GRATICULE_S3_URL", "GRATICULE_VISIBILITY_TIMEOUT"):
        assert name in str(caught.value)


def test_secrets_are_not_in_the_message(monkeypatch):
    monkeypatch.setenv("GRATICULE_S3_SECRET_KEY", "hunter2")
    monkeypatch.setenv("GRATICULE_MAX_PIXELS", "0")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "hunter2" not in str(caught.value)
    monkeypatch.delenv("GRATICULE_MAX_PIXELS")
    assert "hunter2" not in repr(load_settings())


def test_arguments_beat_the_environment_which_beats_the_running_cluster(monkeypatch, tmp_path):
    cluster = {"settings": {"s3_access_key": "cluster", "s3_region": "cluster", "namespace": "cluster"}}
    (tmp_path / CLUSTER_FILE).write_text(json.dumps(cluster), encoding="utf-8")
    monkeypatch.setenv("GRATICULE_S3_REGION", "environment")
    monkeypatch.setenv("GRATICULE_NAMESPACE", "environment")
    settings = load_settings(namespace="argument")
    assert (settings.s3_access_key, settings.s3_region, settings.namespace) == ("cluster", "environment", "argument")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"settings": 3}'])
def test_a_damaged_cluster_file_counts_as_none(tmp_path, content):
    (tmp_path / CLUSTER_FILE).write_text(content, encoding="utf-8")
    assert load_settings().s3_url == "http://127.0.0.1:9000"


def test_settings_travel_to_a_child_process_unchanged(monkeypatch, tmp_path):
    settings = load_settings(s3_secret_key="a b#c", namespace="lab", task_deadline=1.5, visibility_timeout=7.5)
    for name, value in settings.to_env().items():
        monkeypatch.setenv(name, value)
    assert load_settings() == settings


def test_every_setting_is_documented():
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    for name, default, description in describe_settings():
        assert f"`{name}`" in page
        assert description in page
        assert default in page


def test_a_namespace_keeps_clusters_apart():
    settings = load_settings(namespace="lab2")
    assert settings.bucket("images") == "lab2-images"
    assert settings.key_prefix == "lab2:"


def test_a_setting_may_lie_in_a_file_and_the_environment_beats_it(monkeypatch, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("from-the-file\n")
    monkeypatch.setenv("GRATICULE_S3_SECRET_KEY_FILE", str(secret))
    assert load_settings().s3_secret_key.get_secret_value() == "from-the-file"
    monkeypatch.setenv("GRATICULE_S3_SECRET_KEY", "from-the-environment")
    assert load_settings().s3_secret_key.get_secret_value() == "from-the-environment"


def test_a_file_that_cannot_be_read_stops_the_process_with_its_name(monkeypatch, tmp_path):
    monkeypatch.setenv("GRATICULE_REDIS_URL_FILE", str(tmp_path / "missing"))
    with pytest.raises(SettingsError, match=r"GRATICULE_REDIS_URL_FILE.*missing.*No such file"):
        load_settings()
