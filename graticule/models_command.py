"""`graticule models`: publish models, look at them, and choose the version in production."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer
from rich import filesize
from rich.console import Console
from rich.table import Table
from rich.text import Text

from graticule.errors import BadInput
from graticule.jobs import Message
from graticule.manifest import Manifest, ObjectClass, Provenance, Task, Tensor
from graticule.outputs import clear_write_errors, write_atomically
from graticule.production import Production
from graticule.registry import CARD_FILE, Check, Registry, StoredFile, split_reference
from graticule.selection import natural_key
from graticule.settings import Settings
from graticule.store import Store, printable


class _Summary(Message):
    """What `list` tells of a model; the last four of the version in production, or of the last one."""

    name: str
    production: str | None
    versions: list[str]
    task: Task
    title: str
    size: int | None
    sha256: str


class _Known(Message):
    """What `show` tells of a version."""

    manifest: Manifest
    files: dict[str, StoredFile]
    card: str | None
    versions: list[str]
    production: Production | None


def push(settings: Settings, folder: Path, *, promote: bool, check: Check) -> int:
    """Publish a model folder. Raises InvalidManifest when it is refused."""
    registry = _registry(settings)
    manifest = registry.publish(folder, promote=promote, check=check)
    production = registry.production(manifest.name)
    if production == manifest.version:
        _say(f"{manifest.reference} is published and in production.")
        return 0
    others = f"{production} stays in production" if production else "no version is in production yet"
    _say(f"{manifest.reference} is published; {others}. Next: graticule models promote {manifest.reference}")
    return 0


def list_models(settings: Settings, *, as_json: bool) -> int:
    """Print every model: its version in production, task, size and number of versions."""
    registry = _registry(settings)
    models = [_summary(registry, name) for name in registry.published_names()]
    if as_json:
        _print_json([model.model_dump(mode="json") for model in models])
    elif models:
        table = Table("Model", "Production", "Versions", "Task", "Size", "Title")
        for model in models:
            production, versions = model.production or "none", str(len(model.versions))
            table.add_row(model.name, production, versions, model.task, _size(model.size), model.title)
        _console().print(table)
    else:
        _say("No model is published yet. Publish one with: graticule models push FOLDER")
    return 0


def show(settings: Settings, reference: str, *, as_json: bool) -> int:
    """Print what a manifest says, and which versions there are. Raises UnknownModel."""
    registry = _registry(settings)
    manifest = registry.resolve(reference)
    files = registry.files(manifest)
    known = _Known(
        manifest=manifest,
        files=files,
        card=registry.location(manifest, CARD_FILE) if CARD_FILE in files else None,
        versions=_sorted_versions(registry, manifest.name),
        production=registry.production_record(manifest.name),
    )
    if as_json:
        _print_json(known.model_dump(mode="json"))
    else:
        _print_details(known)
    return 0


def promote(settings: Settings, reference: str) -> int:
    """Put a published version into production. Raises UnknownModel."""
    registry = _registry(settings)
    name, version = _parsed(registry, reference)
    if version is None:
        raise BadInput(
            f"Which version of {name}?",
            data="Nothing was changed.",
            advice=f"Name it: graticule models promote {name}@VERSION. graticule models show {name} lists them.",
        )
    _say_production(name, registry.promote(name, version))
    return 0


def rollback(settings: Settings, name: str) -> int:
    """Put the version into production that was there before. Raises UnknownModel; BadInput when there is none."""
    _say_production(name, _registry(settings).rollback(name))
    return 0


def pull(settings: Settings, reference: str, out: Path | None) -> int:
    """Write a model folder; other contents are never overwritten. Raises UnknownModel, BadInput, GraticuleError."""
    registry = _registry(settings)
    manifest = registry.resolve(reference)
    folder = out or Path(manifest.name)
    files = registry.download(manifest)
    with clear_write_errors(folder):
        others = [name for name, data in files.items() if _holds_other(folder / name, data)]
        if others:
            raise BadInput(
                f"{printable(str(folder))!r} holds other contents already: {', '.join(others)}.",
                data="Nothing was written.",
                advice="Choose another --out.",
            )
        # The manifest is the last: without it the folder is no model folder.
        for name, data in files.items():
            write_atomically(folder / name, data)
    _say(f"{manifest.reference} is in {printable(str(folder))!r}: {', '.join(files)}.")
    return 0


def remove(settings: Settings, reference: str, *, whole: bool, yes: bool) -> int:
    """Remove a version, or a whole model. Raises UnknownModel; BadInput for the version in production."""
    registry = _registry(settings)
    name, version = _parsed(registry, reference)
    if (version is None) != whole:
        raise BadInput(
            "Name either one version (NAME@VERSION), or a model without a version and --all.",
            data="Nothing was removed.",
        )
    what = f"{reference} with all its versions" if whole else reference
    if not (yes or _confirmed(f"Remove {what}? Jobs that ask for it will fail.")):
        _say("Nothing was removed.")
        return 1
    if version is None:
        registry.remove_model(name)
    else:
        registry.remove(name, version)
    _say(f"{what} is removed.")
    return 0


# -- helpers ---------------------------------------------------------------------------------------------------


def _registry(settings: Settings) -> Registry:
    return Registry(Store(settings))


def _parsed(registry: Registry, reference: str) -> tuple[str, str | None]:
    name, version = split_reference(reference)
    if not name:
        raise registry.unknown(reference)
    return name, version


def _console() -> Console:
    return Console(markup=False, highlight=False)


def _say(sentence: str, style: str = "") -> None:
    _console().print(sentence, style=style, soft_wrap=True)


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _say_production(name: str, production: Production) -> None:
    before = f" Before: {production.history[0].version}." if production.history else ""
    _say(f"{name}: version {production.version} is in production.{before} Workers take it within seconds.")


def _confirmed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise BadInput("Nobody can be asked here.", data="Nothing was removed.", advice="Give --yes to remove it.")
    return typer.confirm(question)


def _holds_other(path: Path, data: bytes) -> bool:
    return path.exists() and path.read_bytes() != data


def _sorted_versions(registry: Registry, name: str) -> list[str]:
    return sorted(registry.versions(name), key=natural_key)


def _summary(registry: Registry, name: str) -> _Summary:
    versions = _sorted_versions(registry, name)
    production = registry.production(name)
    manifest = registry.resolve(f"{name}@{production or versions[-1]}")
    file = registry.files(manifest).get(manifest.model.file)
    return _Summary(
        name=name,
        production=production,
        versions=versions,
        task=manifest.task,
        title=manifest.title,
        size=file.size if file else None,
        sha256=manifest.model.sha256,
    )


def _print_details(known: _Known) -> None:
    manifest = known.manifest
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in (*_manifest_rows(manifest, known.files.get(manifest.model.file)), *_version_rows(known)):
        table.add_row(label, value)
    _say(manifest.reference, style="bold")
    _say("\n".join(filter(None, (manifest.title, manifest.description))))
    _console().print(table)


def _manifest_rows(manifest: Manifest, file: StoredFile | None) -> Iterator[tuple[str, str | Text]]:
    before, after = manifest.preprocessing, manifest.postprocessing
    yield "Task", manifest.task.value
    yield "Licence", manifest.license or "not given"
    yield "Inputs", _tensors(manifest.inputs)
    yield "Outputs", _tensors(manifest.outputs)
    yield "Colour", before.colour
    yield "Resize", _fields(before.resize) if before.resize else "none: native resolution"
    yield "Size policy", _fields(before.size)
    yield "Padding", _fields(before.padding)
    yield "Normalisation", _fields(before.normalisation)
    yield "Classes", _classes(after.classes)
    yield "Post-processing", _fields(after, "classes")
    yield "Batch", f"at most {manifest.batch.maximum}"
    yield "Precision", manifest.precision
    yield "File", f"{manifest.model.file} {_size(file.size if file else None)}".strip()
    yield "SHA-256", manifest.model.sha256
    yield "Provenance", _provenance(manifest.provenance)
    yield "Metrics", _figures(manifest.provenance.metrics)
    yield "Parity", _figures(manifest.provenance.parity)


def _version_rows(known: _Known) -> Iterator[tuple[str, str]]:
    production = known.production
    yield "Card", known.card or "none"
    yield "Versions", "\n".join(_version_line(version, production) for version in known.versions)
    if production and production.history:
        yield "Before", "\n".join(f"{earlier.version}{_since(earlier.since)}" for earlier in production.history)


def _tensors(tensors: tuple[Tensor, ...]) -> str:
    return "\n".join(f"{tensor.name}: {tensor.type}, {' x '.join(map(str, tensor.shape))}" for tensor in tensors)


def _classes(classes: tuple[ObjectClass, ...]) -> Text:
    names = [Text.assemble(("■ ", kind.colour), f"{kind.index} {kind.name}") for kind in classes]
    return Text(", ").join(names)


def _provenance(provenance: Provenance) -> str:
    return _figures(provenance.model_dump(exclude={"metrics", "parity"}, exclude_defaults=True))


def _fields(part: Message, *without: str) -> str:
    """`policy multiple-of, multiple 32`: every field that is set."""
    values = part.model_dump(mode="json", exclude=set(without), exclude_none=True)
    return _plain({name: value for name, value in values.items() if value != []})


def _figures(figures: dict[str, Any]) -> str:
    """One line for each entry."""
    return "\n".join(f"{name}: {_plain(value)}" for name, value in figures.items()) or "none"


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(part)}" for name, part in value.items())
    if isinstance(value, list):
        return " ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _size(size: int | None) -> str:
    return "" if size is None else filesize.decimal(size)


def _version_line(version: str, production: Production | None) -> str:
    if production is None or version != production.version:
        return version
    return f"{version}  in production{_since(production.since)}"


def _since(when: datetime | None) -> str:
    return f" since {when.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if when else ""
