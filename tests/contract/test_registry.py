"""Model folders: published once, pinned by hash, found by name."""

from __future__ import annotations

import pytest

from graticule.errors import InvalidManifest, UnknownModel
from graticule.manifest import MANIFEST_FILE, Manifest, parse_manifest, read_model_folder
from graticule.registry import Registry, publish_shipped_models, shipped_models_dir
from graticule.store import Store
from tests.models import brightness_manifest, write_brightness_model


@pytest.fixture
def registry(settings):
    return Registry(Store(settings))


def test_a_published_model_is_found_and_its_bytes_are_checked(registry, tmp_path):
    manifest = write_brightness_model(tmp_path)
    assert registry.publish(tmp_path) == manifest
    assert registry.names() == ["brightness"]
    assert registry.resolve("brightness") == registry.resolve("brightness@1.0.0") == manifest
    assert registry.load(manifest) == (tmp_path / "model.onnx").read_bytes()
    registry.store.put("models", "brightness/versions/1.0.0/model.onnx", b"tampered", "x/y")
    with pytest.raises(InvalidManifest, match="expected SHA-256"):
        registry.load(manifest)


def test_a_version_never_changes(registry, tmp_path):
    write_brightness_model(tmp_path / "a")
    write_brightness_model(tmp_path / "b", extra_logit=1)
    registry.publish(tmp_path / "a")
    registry.publish(tmp_path / "a")
    with pytest.raises(InvalidManifest, match="published already with other contents"):
        registry.publish(tmp_path / "b")


def test_production_is_a_pointer(registry, tmp_path):
    for version in ("1.0.0", "2.0.0"):
        write_brightness_model(tmp_path / version, version=version)
        registry.publish(tmp_path / version, promote=False)
    with pytest.raises(UnknownModel):
        registry.resolve("brightness")
    assert registry.versions("brightness") == ["1.0.0", "2.0.0"]
    registry.promote("brightness", "2.0.0")
    assert registry.resolve("brightness").version == "2.0.0"
    registry.promote("brightness", "1.0.0")
    assert registry.resolve("brightness").version == "1.0.0"


@pytest.mark.parametrize("reference", ["nope", "../x", "a/b", "", "x@../../etc"])
def test_what_is_not_published_is_unknown(registry, reference):
    with pytest.raises(UnknownModel, match="no model is published yet"):
        registry.resolve(reference)


def test_a_folder_that_does_not_keep_its_promise_is_refused(tmp_path):
    with pytest.raises(InvalidManifest, match="not a model folder"):
        read_model_folder(tmp_path)
    write_brightness_model(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"other")
    with pytest.raises(InvalidManifest, match="not the file its manifest names"):
        read_model_folder(tmp_path)
    (tmp_path / MANIFEST_FILE).write_text("name: [", encoding="utf-8")
    with pytest.raises(InvalidManifest, match="not YAML"):
        read_model_folder(tmp_path)


def test_every_mistake_of_a_manifest_is_named():
    broken = brightness_manifest().model_dump(mode="json")
    broken["name"] = "Not A Name"
    broken["postprocessing"]["threshold"] = 3
    broken["surprise"] = True
    with pytest.raises(InvalidManifest) as caught:
        parse_manifest(str(broken))
    for word in ("name:", "postprocessing.threshold:", "surprise:"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"activation": "softmax"},
        {"classes": [{"index": 1, "name": "x", "colour": "#000000"}]},
        {"classes": [{"index": 0, "name": "x", "colour": "red"}]},
    ],
)
def test_impossible_post_processing_is_refused(change):
    raw = brightness_manifest().model_dump(mode="json")
    raw["postprocessing"].update(change)
    with pytest.raises(InvalidManifest):
        parse_manifest(str(raw))


def test_a_manifest_survives_its_own_yaml():
    manifest = brightness_manifest()
    assert parse_manifest(manifest.to_yaml()) == manifest
    assert isinstance(manifest, Manifest)


def test_the_shipped_models_are_whole(settings):
    folders = [path.parent for path in shipped_models_dir().glob(f"*/{MANIFEST_FILE}")]
    assert folders, "no model is shipped"
    for folder in folders:
        manifest, model = read_model_folder(folder)
        assert manifest.name == folder.name
        assert len(model) <= 30_000_000
    published = publish_shipped_models(settings)
    assert {m.name for m in published} == {folder.name for folder in folders}
    assert publish_shipped_models(settings) == published
