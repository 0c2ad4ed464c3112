"""Backups: the buckets as files of a folder, and back.

::

    <folder>/objects/<bucket's purpose>/<key>     every object that was ever backed up here
    <folder>/listings/<time>.jsonl                what the store held at that time, one object a line; the backup

Nothing in a backup is ever removed or emptied by a later one: a store that was wiped makes an empty listing, not an
empty backup. Objects are not read again when they have not changed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from pydantic import AwareDatetime, Field, ValidationError

from graticule.errors import BadInput, NotFound
from graticule.jobs import Message, utc_now
from graticule.outputs import write_atomically
from graticule.store import PURPOSES, Purpose, Store, StoredObject

THREADS = 8
_BATCH = 1000

# A job's record is listed before its picture and its result: whatever happens meanwhile, a backup holds one of them.
BACKUP_ORDER: tuple[Purpose, ...] = ("jobs", "images", "results", "models", "access")
# And workers find the results there when the records come back.
RESTORE_ORDER: tuple[Purpose, ...] = ("images", "models", "access", "results", "jobs")
assert sorted(BACKUP_ORDER) == sorted(RESTORE_ORDER) == sorted(PURPOSES)

T = TypeVar("T")
R = TypeVar("R")


class Entry(Message):
    """One object of a backup."""

    purpose: Purpose
    key: str
    size: int = Field(ge=0, description="Bytes.")
    changed_at: AwareDatetime
    media_type: str
    metadata: dict[str, str] = Field(description="What the producer said of it, such as the file's name.")


class Report(Message):
    """What a backup or a restore did."""

    objects: int = Field(description="Objects of the backup.")
    copied: int = Field(description="Those of them that had to be copied.")
    copied_bytes: int
    left_out: tuple[str, ...] = Field(default=(), description="Keys that graticule never makes.")


def back_up(store: Store, folder: Path) -> Report:
    """Copy every object that is new or changed, then write the listing. Raises StoreUnavailable, BadInput."""
    listing: list[Entry] = []
    copied: list[Entry] = []
    left_out: list[str] = []
    known = {(entry.purpose, entry.key): entry for entry in _last_entries(folder)}

    def keep(found: tuple[Purpose, StoredObject]) -> None:
        purpose, item = found
        path = _path(folder, purpose, item.key)
        if path is None:
            left_out.append(f"{purpose}/{item.key}")
            return
        before = known.get((purpose, item.key))
        if before and before.size == item.size and before.changed_at == item.changed_at and _size(path) == item.size:
            listing.append(before)
            return
        try:
            entry = _fetch(store, purpose, item, path)
        except NotFound:
            return  # a job that ended meanwhile
        listing.append(entry)
        copied.append(entry)

    for purpose in BACKUP_ORDER:
        _each(keep, ((purpose, item) for item in store.walk(purpose)))
    _write_listing(folder, listing)
    return _report(listing, copied, left_out)


def restore(store: Store, folder: Path, name: str = "") -> Report:
    """Bring back every object of a listing (default: the newest) that the store does not hold.

    What the store holds stays as it is. Raises BadInput when there is no such backup or a file of it is missing or has
    another size, StoreUnavailable.
    """
    listing = read_listing(folder, name)
    missing = [str(path) for entry in listing if (path := _bad_file(folder, entry))]
    if missing:
        raise BadInput(
            f"{len(missing)} of {len(listing)} files of the backup are missing or damaged, such as {missing[0]}.",
            data="Nothing was restored.",
            advice="Is the whole folder there?",
        )
    store.create_buckets()
    copied: list[Entry] = []

    def bring(entry: Entry) -> None:
        path = _path(folder, entry.purpose, entry.key)
        assert path is not None
        if store.upload_if_absent(entry.purpose, entry.key, path, entry.media_type, entry.metadata):
            copied.append(entry)

    for purpose in RESTORE_ORDER:
        _each(bring, (entry for entry in listing if entry.purpose == purpose))
    return _report(listing, copied, [])


def listings(folder: Path) -> list[str]:
    """The names of the backups in a folder, the oldest first."""
    return sorted(path.stem for path in (folder / "listings").glob("*.jsonl"))


def read_listing(folder: Path, name: str = "") -> list[Entry]:
    """The objects of a backup; without a name: of the newest. Raises BadInput."""
    names = listings(folder)
    if not names or (name and name not in names):
        known = f"it holds {', '.join(names)}" if names else "it holds none"
        raise BadInput(f"There is no backup {name or 'at all'} in {folder}; {known}.", data="Nothing was changed.")
    path = folder / "listings" / f"{name or names[-1]}.jsonl"
    try:
        return [Entry.model_validate_json(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValidationError) as error:
        raise BadInput(f"The listing {path} cannot be read: {error}", data="Nothing was changed.") from error


def _last_entries(folder: Path) -> list[Entry]:
    return read_listing(folder) if listings(folder) else []


def _fetch(store: Store, purpose: Purpose, item: StoredObject, path: Path) -> Entry:
    path.parent.mkdir(parents=True, exist_ok=True)
    media_type, metadata = store.download(purpose, item.key, path)
    return Entry(
        purpose=purpose,
        key=item.key,
        size=path.stat().st_size,
        changed_at=item.changed_at,
        media_type=media_type,
        metadata=metadata,
    )


def _write_listing(folder: Path, listing: list[Entry]) -> None:
    """The backup exists from here on."""
    (folder / "listings").mkdir(parents=True, exist_ok=True)
    lines = (entry.model_dump_json() for entry in sorted(listing, key=lambda entry: (entry.purpose, entry.key)))
    write_atomically(folder / "listings" / f"{_name(utc_now())}.jsonl", "".join(f"{line}\n" for line in lines).encode())


def _name(now: datetime) -> str:
    return now.strftime("%Y-%m-%dT%H-%M-%S.%fZ")


def _path(folder: Path, purpose: Purpose, key: str) -> Path | None:
    """Where an object lies; None for a key that would lead elsewhere: any producer can make one."""
    parts = key.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return None
    return Path(folder, "objects", purpose, *(quote(part, safe="@+=,~ ") for part in parts))


def _bad_file(folder: Path, entry: Entry) -> Path | None:
    path = _path(folder, entry.purpose, entry.key)
    if path is None:
        return Path(entry.key)
    return None if _size(path) == entry.size else path


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116 (half the time of Path.stat, for each of many thousands)
    except OSError:
        return -1


def _each(action: Callable[[T], None], items: Iterable[T]) -> None:
    """Do something with every item, several at the same time, without holding all of them in memory."""
    with ThreadPoolExecutor(THREADS) as pool:
        for batch in _batches(items):
            list(pool.map(action, batch))


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    source = iter(items)
    while batch := list(islice(source, _BATCH)):
        yield batch


def _report(listing: list[Entry], copied: list[Entry], left_out: list[str]) -> Report:
    return Report(
        objects=len(listing),
        copied=len(copied),
        copied_bytes=sum(entry.size for entry in copied),
        left_out=tuple(left_out),
    )
