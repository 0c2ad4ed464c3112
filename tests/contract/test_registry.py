"""Model folders: published once, pinned by hash, found by name, moved into and out of production."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice

import pytest

from graticule.errors import BadInput, Corrupted, InvalidManifest, StoreUnavailable, UnknownModel
from graticule.manifest import MANIFEST_FILE, Manifest, parse_manifest, read_model_folder
from graticule.production import LONGEST_HISTORY, promoted
from graticule.registry import Registry, publish_shipped_models, shipped_models_dir, split_reference
from graticule.store import Store
from tests.models import brightness_manifest, write_brightness_model


@pytest.fixture
def registry(settings):
    return Registry(Store(settings))


@pytest.fixture
def versions(registry, tmp_path):
    """Three versions of the brightness model, none of them in production."""
    for version in ("1.0.0", "2.0.0", "3.0.0"):
        write_brightness_model(tmp_path / version, version=version)
        registry.publish(tmp_path / version, promote=False)
    return registry


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


def test_of_two_models_that_claim_one_version_one_is_published_whole(registry, settings, tmp_path):
    for number in range(6):
        write_brightness_model(tmp_path / str(number), extra_logit=number)
    together = threading.Barrier(6)

    def publish(number: int) -> bool:
        together.wait()
        try:
            Registry(Store(settings)).publish(tmp_path / str(number))
        except InvalidManifest:
            return False
        return True

    with ThreadPoolExecutor(6) as threads:
        won = [number for number, done in enumerate(threads.map(publish, range(6))) if done]
    assert len(won) == 1
    assert registry.load(registry.resolve("brightness")) == (tmp_path / str(won[0]) / "model.onnx").read_bytes()


def test_what_an_interrupted_push_left_is_no_version_and_can_be_cleared(registry, tmp_path):
    write_brightness_model(tmp_path)
    registry.store.put("models", "brightness/versions/1.0.0/model.onnx", b"half of it", "x/y")
    assert (registry.versions("brightness"), registry.published_names()) == ([], [])
    with pytest.raises(InvalidManifest, match="holds another model.onnx.*models remove brightness@1.0.0"):
        registry.publish(tmp_path)
    registry.remove("brightness", "1.0.0")
    registry.publish(tmp_path)
    assert registry.load(registry.resolve("brightness")) == (tmp_path / "model.onnx").read_bytes()


def test_a_check_refuses_before_anything_is_uploaded(registry, tmp_path):
    def refuse(manifest: Manifest, model: bytes) -> None:
        assert model == (tmp_path / "model.onnx").read_bytes()
        raise InvalidManifest(f"{manifest.reference} is not wanted.")

    write_brightness_model(tmp_path)
    with pytest.raises(InvalidManifest, match="not wanted"):
        registry.publish(tmp_path, check=refuse)
    assert registry.store.keys("models") == []


def test_the_card_and_the_parity_report_travel_with_the_model(registry, tmp_path):
    manifest = write_brightness_model(tmp_path)
    (tmp_path / "README.md").write_bytes(b"# Card\n")
    (tmp_path / "parity.json").write_bytes(b"{}")
    (tmp_path / "notes.txt").write_bytes(b"private")
    registry.publish(tmp_path)
    sizes = {name: file.size for name, file in registry.files(manifest).items()}
    assert sizes == {"model.onnx": (tmp_path / "model.onnx").stat().st_size, "README.md": 7, "parity.json": 2}
    folder = registry.download(manifest)
    assert list(folder)[-1] == MANIFEST_FILE
    assert folder.keys() == {*sizes, MANIFEST_FILE}
    for name in sizes:
        assert folder[name] == (tmp_path / name).read_bytes()
    registry.store.put("models", "brightness/versions/1.0.0/README.md", b"# Lies\n", "x/y")
    with pytest.raises(Corrupted, match="README.md of brightness@1.0.0 is damaged"):
        registry.download(manifest)


def test_a_version_published_before_files_were_listed_is_still_whole(registry, tmp_path):
    manifest = write_brightness_model(tmp_path)
    registry.publish(tmp_path)
    registry.store.remove("models", "brightness/versions/1.0.0/files.json")
    assert registry.files(manifest) == {}
    assert registry.download(manifest).keys() == {"model.onnx", MANIFEST_FILE}


def test_production_is_a_pointer(versions):
    assert versions.production("brightness") is None
    with pytest.raises(UnknownModel, match="No version of 'brightness' is in production.*1.0.0, 2.0.0, 3.0.0"):
        versions.resolve("brightness")
    assert versions.names() == []
    assert versions.published_names() == ["brightness"]
    assert versions.versions("brightness") == ["1.0.0", "2.0.0", "3.0.0"]
    versions.promote("brightness", "2.0.0")
    assert versions.production("brightness") == versions.resolve("brightness").version == "2.0.0"
    versions.promote("brightness", "1.0.0")
    assert versions.production("brightness") == versions.resolve("brightness").version == "1.0.0"


def test_a_version_that_is_not_published_cannot_be_promoted(versions):
    versions.promote("brightness", "1.0.0")
    with pytest.raises(UnknownModel, match="no model 'brightness@9.0.0'; brightness has the versions 1.0.0"):
        versions.promote("brightness", "9.0.0")
    assert versions.production("brightness") == "1.0.0"


def test_rollback_returns_to_the_version_before_and_then_to_the_one_before_that(versions):
    for version in ("1.0.0", "2.0.0", "2.0.0", "3.0.0"):
        versions.promote("brightness", version)
    assert [versions.rollback("brightness").version for _ in range(2)] == ["2.0.0", "1.0.0"]
    with pytest.raises(BadInput, match="no earlier version to go back to. 1.0.0 stays in production"):
        versions.rollback("brightness")
    assert versions.production("brightness") == "1.0.0"
    versions.promote("brightness", "3.0.0")
    assert versions.rollback("brightness").version == "1.0.0"


def test_rollback_passes_over_versions_that_were_removed(versions):
    for version in ("1.0.0", "2.0.0", "1.0.0", "3.0.0"):
        versions.promote("brightness", version)
    versions.remove("brightness", "1.0.0")
    assert versions.rollback("brightness").version == "2.0.0"
    with pytest.raises(BadInput, match="no earlier version"):
        versions.rollback("brightness")


@pytest.mark.parametrize("name", ["nope", "../x", ""])
def test_what_is_not_in_production_cannot_be_rolled_back(registry, name):
    with pytest.raises(UnknownModel):
        registry.rollback(name)


def test_the_pointer_of_an_older_release_is_read_and_extended(versions):
    versions.store.put("models", "brightness/production.json", b'{"version": "1.0.0"}', "application/json")
    assert versions.resolve("brightness").version == "1.0.0"
    record = versions.promote("brightness", "2.0.0")
    assert [(earlier.version, earlier.since) for earlier in record.history] == [("1.0.0", None)]
    assert json.loads(versions.store.get("models", "brightness/production.json"))["version"] == "2.0.0"
    assert versions.rollback("brightness").version == "1.0.0"


def test_an_unreadable_pointer_is_named_and_written_anew_by_promote(versions):
    versions.store.put("models", "brightness/production.json", b'{"version": ', "application/json")
    with pytest.raises(InvalidManifest, match="production.json of brightness cannot be read"):
        versions.resolve("brightness")
    assert versions.names() == ["brightness"], "its jobs must be told, not forgotten"
    versions.promote("brightness", "2.0.0")
    assert versions.resolve("brightness").version == "2.0.0"


def test_the_history_is_bounded_and_begins_with_the_newest():
    record = None
    for number in range(50):
        record = promoted(record, str(number))
    assert record is not None
    assert [earlier.version for earlier in record.history] == [str(n) for n in range(48, 48 - LONGEST_HISTORY, -1)]


def test_promotions_at_the_same_time_leave_one_whole_pointer(versions, settings):
    done = threading.Event()
    seen = set()

    def read() -> None:
        while not done.is_set():
            seen.add(Registry(Store(settings)).production("brightness"))

    def promote(version: str) -> str:
        return Registry(Store(settings)).promote("brightness", version).version

    versions.promote("brightness", "1.0.0")
    with ThreadPoolExecutor(5) as threads:
        reader = threads.submit(read)
        list(threads.map(promote, islice(cycle(["1.0.0", "2.0.0", "3.0.0"]), 60)))
        done.set()
        reader.result()
    assert seen <= {"1.0.0", "2.0.0", "3.0.0"}
    assert len(seen) > 1, "nothing was read while the pointer moved"
    assert versions.production("brightness") in {"1.0.0", "2.0.0", "3.0.0"}


def test_a_version_is_removed_unless_it_is_in_production(versions):
    versions.promote("brightness", "2.0.0")
    with pytest.raises(BadInput, match="brightness@2.0.0 is in production. It was not removed"):
        versions.remove("brightness", "2.0.0")
    versions.remove("brightness", "1.0.0")
    assert versions.versions("brightness") == ["2.0.0", "3.0.0"]
    assert versions.store.keys("models", "brightness/versions/1.0.0/") == []
    with pytest.raises(UnknownModel, match="no model 'brightness@1.0.0'"):
        versions.remove("brightness", "1.0.0")
    with pytest.raises(UnknownModel):
        versions.remove("../brightness", "1.0.0")


class BreakingStore(Store):
    """A store that goes away after the first removal."""

    def remove(self, purpose, key):
        super().remove(purpose, key)
        raise StoreUnavailable("gone")


def test_a_removal_that_is_interrupted_leaves_no_version_without_its_file(versions, settings):
    with pytest.raises(StoreUnavailable):
        Registry(BreakingStore(settings)).remove("brightness", "1.0.0")
    assert versions.store.exists("models", "brightness/versions/1.0.0/model.onnx"), "the manifest must go first"
    assert versions.versions("brightness") == ["2.0.0", "3.0.0"]
    versions.remove("brightness", "1.0.0")
    assert versions.store.keys("models", "brightness/versions/1.0.0/") == []


def test_a_whole_model_is_removed(versions, tmp_path):
    write_brightness_model(tmp_path / "other", name="other")
    versions.publish(tmp_path / "other")
    versions.promote("brightness", "2.0.0")
    versions.remove_model("brightness")
    assert versions.published_names() == versions.names() == ["other"]
    for name in ("brightness", "../other", ""):
        with pytest.raises(UnknownModel):
            versions.remove_model(name)
    versions.publish(tmp_path / "1.0.0")
    assert versions.resolve("brightness").version == "1.0.0"


@pytest.mark.parametrize(
    ("reference", "parts"),
    [
        ("tile-defects", ("tile-defects", None)),
        ("tile-defects@1.0.0-rc.1+x", ("tile-defects", "1.0.0-rc.1+x")),
        ("Tile", ("", None)),
        ("a@", ("", None)),
        ("a@1/../2", ("", None)),
        ("a\n", ("", None)),
    ],
)
def test_a_reference_is_a_name_and_perhaps_a_version(reference, parts):
    assert split_reference(reference) == parts


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
