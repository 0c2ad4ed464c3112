"""The models bucket: each version an immutable folder, and a pointer to the version in production.

::

    models/<name>/versions/<version>/model.onnx
    models/<name>/versions/<version>/README.md          the model card, if there is one
    models/<name>/versions/<version>/parity.json        agreement with the source framework, if it was measured
    models/<name>/versions/<version>/files.json         size and SHA-256 of the files above
    models/<name>/versions/<version>/manifest.yaml      written last: a version without it does not exist
    models/<name>/production.json                       {"version": "2.0.0", "since": ..., "history": [...]}
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from graticule.errors import BadInput, Corrupted, InvalidManifest, NotFound, UnknownModel
from graticule.jobs import MODEL_PATTERN, VERSION_PATTERN, Message, Sha256
from graticule.manifest import MANIFEST_FILE, Manifest, parse_manifest, read_model_folder, verify_model
from graticule.production import Production, promoted, rolled_back
from graticule.settings import Settings
from graticule.store import Store, unreadable_source

CARD_FILE = "README.md"
PARITY_FILE = "parity.json"
FILES_FILE = "files.json"
PRODUCTION_FILE = "production.json"
COMPANIONS = (CARD_FILE, PARITY_FILE)
"""Files of a model folder that are published with the model when they are there."""

_NAME = re.compile(MODEL_PATTERN)
_REFERENCE = re.compile(rf"(?P<name>{MODEL_PATTERN})(@(?P<version>{VERSION_PATTERN}))?")
_MEDIA_TYPES = {".md": "text/markdown", ".json": "application/json", ".yaml": "application/yaml"}

Check = Callable[[Manifest, bytes], None]
"""Looks at a model before it is published. Raises InvalidManifest to refuse it."""
T = TypeVar("T")


class StoredFile(Message):
    """What is known of a published file without reading it."""

    # As with the pointer: a newer graticule may write more.
    model_config = ConfigDict(frozen=True, extra="ignore")

    size: int = Field(ge=0, description="Bytes.")
    sha256: Sha256


_FILES = TypeAdapter(dict[str, StoredFile])
_PRODUCTION = TypeAdapter(Production)


class Registry:
    """Publishes and looks up model folders in the store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    # -- publishing ----------------------------------------------------------------------------------------

    def publish(self, folder: Path, *, promote: bool = True, check: Check | None = None) -> Manifest:
        """Upload a model folder. A version that exists stays as it is; publishing the same files again is harmless.

        `check` may refuse the model before anything is uploaded. Raises InvalidManifest, also when that version
        exists with other contents, and SourceUnreadable.
        """
        manifest, model = read_model_folder(folder)
        if check:
            check(manifest, model)
        if not self._is_published_alike(manifest):
            self._upload(manifest, {manifest.model.file: model, **_companions(folder)})
        if promote:
            self.promote(manifest.name, manifest.version)
        return manifest

    def promote(self, name: str, version: str) -> Production:
        """Make a published version the one that jobs without a version get. Raises UnknownModel."""
        self.resolve(f"{name}@{version}")
        return self._point(name, promoted(self._pointer_to_replace(name), version))

    def rollback(self, name: str) -> Production:
        """Put the version into production that was there before. Raises UnknownModel; BadInput when there is none."""
        now = self.production_record(name)
        if now is None:
            raise self.unknown(name)
        before = rolled_back(now, lambda version: self.is_published(name, version))
        if before is None:
            raise BadInput(
                f"{name} has no earlier version to go back to.",
                data=f"{now.version} stays in production.",
                advice=f"Name the version that you want: graticule models promote {name}@VERSION",
            )
        return self._point(name, before)

    def remove(self, name: str, version: str) -> None:
        """Remove a version, also what an interrupted `publish` left of it.

        Raises BadInput for the version in production, UnknownModel when there is nothing of that name.
        """
        if self.production(name) == version:
            raise BadInput(
                f"{name}@{version} is in production.",
                data="It was not removed.",
                advice="Promote another version first, or remove the whole model with --all.",
            )
        reference = f"{name}@{version}"
        if split_reference(reference) != (name, version) or not self._remove_folder(_version_prefix(name, version)):
            raise self.unknown(reference)

    def remove_model(self, name: str) -> None:
        """Remove a model with all its versions. Raises UnknownModel."""
        if not _NAME.fullmatch(name):
            raise self.unknown(name)
        folders = self._folders(name)
        self.store.remove("models", f"{name}/{PRODUCTION_FILE}")
        if not sum(self._remove_folder(_version_prefix(name, version)) for version in folders):
            raise self.unknown(name)

    # -- looking up ----------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Models that have a version in production."""
        return [name for name in self._models() if self.store.exists("models", f"{name}/{PRODUCTION_FILE}")]

    def published_names(self) -> list[str]:
        """Models that have a version, in production or not."""
        return [name for name in self._models() if self.versions(name)]

    def versions(self, name: str) -> list[str]:
        """Published versions of a model, sorted as text."""
        return [version for version in self._folders(name) if self.is_published(name, version)]

    def is_published(self, name: str, version: str) -> bool:
        """Whether there is such a version."""
        return self.store.exists("models", _version_prefix(name, version) + MANIFEST_FILE)

    def production(self, name: str) -> str | None:
        """The version in production: one small read."""
        record = self.production_record(name)
        return record.version if record else None

    def production_record(self, name: str) -> Production | None:
        """The version in production with its history. Raises InvalidManifest when the pointer cannot be read."""
        if not _NAME.fullmatch(name):
            return None
        try:
            data = self.store.get("models", f"{name}/{PRODUCTION_FILE}")
        except NotFound:
            return None
        return _read(
            _PRODUCTION,
            data,
            InvalidManifest(
                f"{PRODUCTION_FILE} of {name} cannot be read.",
                advice=f"Write it anew: graticule models promote {name}@VERSION",
            ),
        )

    def resolve(self, reference: str) -> Manifest:
        """The manifest that `name` or `name@version` stands for now. Raises UnknownModel that lists what is known."""
        name, version = split_reference(reference)
        version = version or self.production(name)
        try:
            if version:
                return parse_manifest(self.store.get("models", _version_prefix(name, version) + MANIFEST_FILE))
        except NotFound:
            pass
        raise self.unknown(reference)

    def unknown(self, reference: str) -> UnknownModel:
        """The error for a reference that stands for nothing; it lists what is known."""
        name, _ = split_reference(reference)
        if versions := self.versions(name):
            known = f"{name} has the versions {', '.join(versions)}"
            if reference == name:
                return UnknownModel(f"No version of {name!r} is in production; {known}.")
        else:
            names = self.names()
            known = f"known models: {', '.join(names)}" if names else "no model is published yet"
        return UnknownModel(f"There is no model {reference!r}; {known}.")

    def load(self, manifest: Manifest) -> bytes:
        """The ONNX file of a version, checked against its SHA-256."""
        model = self.store.get("models", _prefix(manifest) + manifest.model.file)
        verify_model(manifest, model)
        return model

    def files(self, manifest: Manifest) -> dict[str, StoredFile]:
        """The files of a version beside its manifest, by name. Empty for one published before they were listed."""
        try:
            data = self.store.get("models", _prefix(manifest) + FILES_FILE)
        except NotFound:
            return {}
        return _read(_FILES, data, Corrupted(f"{FILES_FILE} of {manifest.reference} cannot be read."))

    def download(self, manifest: Manifest) -> dict[str, bytes]:
        """The whole model folder of a version: every file checked against its SHA-256, the manifest last."""
        known = self.files(manifest)
        folder = {manifest.model.file: self.load(manifest)}
        for name in COMPANIONS:
            if name in known:
                folder[name] = self._companion(manifest, name, known[name])
        folder[MANIFEST_FILE] = manifest.to_yaml().encode()
        return folder

    def location(self, manifest: Manifest, file: str) -> str:
        """Where a file of a version lies: bucket and key."""
        return f"{self.store.settings.bucket('models')}/{_prefix(manifest)}{file}"

    # -- helpers -------------------------------------------------------------------------------------------

    def _is_published_alike(self, manifest: Manifest) -> bool:
        try:
            published = parse_manifest(self.store.get("models", _prefix(manifest) + MANIFEST_FILE))
        except NotFound:
            return False
        if published != manifest:
            raise InvalidManifest(
                f"{manifest.reference} is published already with other contents.",
                data="The published version was not touched.",
                advice="Give the changed model a new version in its manifest.",
            )
        return True

    def _upload(self, manifest: Manifest, folder: dict[str, bytes]) -> None:
        listing = {name: StoredFile(size=len(data), sha256=_sha256(data)) for name, data in folder.items()}
        folder = {
            **folder,
            FILES_FILE: _FILES.dump_json(listing, indent=1),
            MANIFEST_FILE: manifest.to_yaml().encode(),
        }
        for name, data in folder.items():
            self._put_once(manifest, name, data)

    def _put_once(self, manifest: Manifest, name: str, data: bytes) -> None:
        """Of two pushes of one version at the same time only one may win, or a manifest would get the other's file."""
        key = _prefix(manifest) + name
        media_type = _MEDIA_TYPES.get(PurePosixPath(name).suffix, "application/octet-stream")
        # The look first spares sending a large file only to have it refused.
        if not self.store.exists("models", key) and self.store.put_if_absent("models", key, data, media_type):
            return
        if self.store.get("models", key) != data:
            raise InvalidManifest(
                f"The store holds another {name} for {manifest.reference}: somebody else is publishing this version"
                " now, or an attempt was interrupted.",
                data="Nothing was overwritten.",
                advice="Give your model another version, or clear what an interrupted attempt left: graticule models"
                f" remove {manifest.reference}",
            )

    def _companion(self, manifest: Manifest, name: str, known: StoredFile) -> bytes:
        data = self.store.get("models", _prefix(manifest) + name)
        if _sha256(data) != known.sha256:
            raise Corrupted(
                f"{name} of {manifest.reference} is damaged in the store: expected SHA-256 {known.sha256}, found"
                f" {_sha256(data)}."
            )
        return data

    def _pointer_to_replace(self, name: str) -> Production | None:
        try:
            return self.production_record(name)
        except InvalidManifest:
            return None

    def _point(self, name: str, production: Production) -> Production:
        body = production.model_dump_json().encode()
        self.store.put("models", f"{name}/{PRODUCTION_FILE}", body, "application/json")
        return production

    def _remove_folder(self, prefix: str) -> bool:
        """Remove a version's objects; tell whether there were any."""
        keys = self.store.keys("models", prefix)
        # The manifest goes first: a removal that is interrupted leaves no version without its files.
        for key in sorted(keys, key=lambda key: not key.endswith(f"/{MANIFEST_FILE}")):
            self.store.remove("models", key)
        return bool(keys)

    def _models(self) -> list[str]:
        return [key.rstrip("/") for key in self.store.keys("models") if key.endswith("/")]

    def _folders(self, name: str) -> list[str]:
        """Versions of which there is anything, published or not."""
        prefix = f"{name}/versions/"
        keys = self.store.keys("models", prefix) if _NAME.fullmatch(name) else []
        return [key.removeprefix(prefix).rstrip("/") for key in keys]


def split_reference(reference: str) -> tuple[str, str | None]:
    """`name@version` -> name, version; `name` -> name, None; anything else -> an empty name, which no model has."""
    match = _REFERENCE.fullmatch(reference)
    return (match["name"], match["version"]) if match else ("", None)


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


def _companions(folder: Path) -> dict[str, bytes]:
    found = {}
    for path in (folder / name for name in COMPANIONS):
        with unreadable_source(path):
            if path.is_file():
                found[path.name] = path.read_bytes()
    return found


def _prefix(manifest: Manifest) -> str:
    return _version_prefix(manifest.name, manifest.version)


def _version_prefix(name: str, version: str) -> str:
    return f"{name}/versions/{version}/"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _read(adapter: TypeAdapter[T], data: bytes, unreadable: BadInput | Corrupted) -> T:
    try:
        return adapter.validate_json(data)
    except ValidationError as error:
        raise unreadable from error
