"""The models bucket: each version an immutable folder, and a pointer to the version in production.

::

    models/<name>/versions/<version>/model.onnx
    models/<name>/versions/<version>/manifest.yaml      written last: a version without it does not exist
    models/<name>/production.json                       {"version": "1.0.0"}
"""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path

from graticule.errors import InvalidManifest, NotFound, UnknownModel
from graticule.jobs import MODEL_PATTERN, VERSION_PATTERN
from graticule.manifest import MANIFEST_FILE, Manifest, parse_manifest, read_model_folder, verify_model
from graticule.settings import Settings
from graticule.store import Store

PRODUCTION_FILE = "production.json"
_REFERENCE = re.compile(rf"^(?P<name>{MODEL_PATTERN})(@(?P<version>{VERSION_PATTERN}))?$")


class Registry:
    """Publishes and looks up model folders in the store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def publish(self, folder: Path, *, promote: bool = True) -> Manifest:
        """Upload a model folder. A version that exists stays as it is; publishing the same files again is harmless.

        Raises InvalidManifest, also when that version exists with other contents.
        """
        manifest, model = read_model_folder(folder)
        prefix = _version_prefix(manifest.name, manifest.version)
        try:
            published = parse_manifest(self.store.get("models", prefix + MANIFEST_FILE))
        except NotFound:
            self.store.put("models", prefix + manifest.model.file, model, "application/octet-stream")
            self.store.put("models", prefix + MANIFEST_FILE, manifest.to_yaml().encode(), "application/yaml")
        else:
            if published != manifest:
                raise InvalidManifest(
                    f"{manifest.reference} is published already with other contents.",
                    data="The published version was not touched.",
                    advice="Give the changed model a new version in its manifest.",
                )
        if promote:
            self.promote(manifest.name, manifest.version)
        return manifest

    def promote(self, name: str, version: str) -> None:
        """Make a published version the one that jobs without a version get."""
        body = json.dumps({"version": version}).encode()
        self.store.put("models", f"{name}/{PRODUCTION_FILE}", body, "application/json")

    def names(self) -> list[str]:
        """Models that have a version in production."""
        folders = self.store.keys("models")
        candidates = [folder.rstrip("/") for folder in folders if folder.endswith("/")]
        return [name for name in candidates if self._production_version(name)]

    def versions(self, name: str) -> list[str]:
        """Published versions of a model."""
        prefix = f"{name}/versions/"
        return [key.removeprefix(prefix).rstrip("/") for key in self.store.keys("models", prefix)]

    def resolve(self, reference: str) -> Manifest:
        """The manifest that `name` or `name@version` stands for now. Raises UnknownModel that lists what is known."""
        match = _REFERENCE.match(reference)
        name, version = (match["name"], match["version"]) if match else ("", None)
        version = version or (self._production_version(name) if name else None)
        try:
            if version:
                return parse_manifest(self.store.get("models", _version_prefix(name, version) + MANIFEST_FILE))
        except NotFound:
            pass
        raise self._unknown(reference, name)

    def load(self, manifest: Manifest) -> bytes:
        """The ONNX file of a version, checked against its SHA-256."""
        key = _version_prefix(manifest.name, manifest.version) + manifest.model.file
        model = self.store.get("models", key)
        verify_model(manifest, model)
        return model

    def _production_version(self, name: str) -> str | None:
        try:
            pointer = json.loads(self.store.get("models", f"{name}/{PRODUCTION_FILE}"))
        except NotFound:
            return None
        return pointer["version"]

    def _unknown(self, reference: str, name: str) -> UnknownModel:
        names = self.names()
        if name in names:
            known = f"{name} has the versions {', '.join(self.versions(name))}"
        else:
            known = f"known models: {', '.join(names)}" if names else "no model is published yet"
        return UnknownModel(f"There is no model {reference!r}; {known}.")


def shipped_models_dir() -> Path:
    """The reference models that come with graticule, in the installed package or in the source tree."""
    package = Path(str(files("graticule")))
    installed = package / "shipped_models"
    return installed if installed.is_dir() else package.parent / "models"


def publish_shipped_models(settings: Settings) -> list[Manifest]:
    """Publish every shipped model that the store does not have yet; promote only those that have no version yet."""
    registry = Registry(Store(settings))
    published = []
    for manifest_file in sorted(shipped_models_dir().glob(f"*/{MANIFEST_FILE}")):
        name = manifest_file.parent.name
        published.append(registry.publish(manifest_file.parent, promote=not registry.versions(name)))
    return published


def _version_prefix(name: str, version: str) -> str:
    return f"{name}/versions/{version}/"
