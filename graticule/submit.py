"""Submitting: the image, then the pending record, then the bell. Killed between two steps, nothing is lost."""

from __future__ import annotations

import hashlib
import logging
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from graticule import formats
from graticule.broker import Bell
from graticule.errors import BrokerUnavailable, ImageTooLarge
from graticule.jobs import Content, Job, Lane, Source, job_identity, new_job, utc_now
from graticule.records import Records
from graticule.settings import Settings
from graticule.store import Store, printable, printable_name, unreadable_source
from graticule.tensors import FILE_NAME, MEDIA_TYPE

log = logging.getLogger(__name__)


class Submitter:
    """Puts images into the store and jobs into the queues. Thread-safe."""

    def __init__(self, settings: Settings, *, producer: str, store: Store | None = None) -> None:
        """`producer`: the kind of producer as it will stand in every job's source."""
        self.settings = settings
        self.store = store or Store(settings)
        self.records = Records(self.store)
        self.producer = producer
        self._bell = Bell(settings)
        self._host = socket.gethostname()

    def submit_file(
        self,
        path: Path,
        model: str,
        *,
        parameters: dict[str, Any] | None = None,
        stream: str = "",
        sequence: int | None = None,
        submitted_at: datetime | None = None,
        lane: Lane = Lane.BULK,
    ) -> Job:
        """Submit a file. The same unchanged file for the same model is the same job, however often it is sent.

        A producer that may have been killed between the steps repeats the submission with the `submitted_at` of the
        first try: then the pending record, too, is the same one.

        Raises SourceUnreadable, ImageTooLarge, StoreUnavailable.
        """
        modified = self._check_file(path)
        image = self.store.put_image_file(path, formats.media_type(path.name))
        source = Source(producer=self.producer, host=self._host, path=_source_path(path))
        return self._send(
            new_job(
                image,
                model,
                source=source,
                parameters=parameters,
                stream=stream,
                sequence=sequence,
                captured_at=modified,
                submitted_at=submitted_at,
                lane=lane,
            )
        )

    def identity_of_file(self, path: Path, model: str, parameters: dict[str, Any], stream: str = "") -> str:
        """Identity of the job that `submit_file` would make of a file. Raises SourceUnreadable, ImageTooLarge."""
        modified = self._check_file(path)
        with unreadable_source(path), path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return job_identity(sha256, 0, model, parameters, stream, _source_path(path), modified)

    def submit_bytes(
        self,
        data: bytes,
        filename: str,
        model: str,
        *,
        parameters: dict[str, Any] | None = None,
        stream: str = "",
        captured_at: datetime | None = None,
        lane: Lane = Lane.INTERACTIVE,
    ) -> Job:
        """Submit an image that is in memory. Raises ImageTooLarge, StoreUnavailable."""
        self._check_size(len(data), filename)
        image = self.store.put_image(data, filename, formats.media_type(filename))
        source = Source(producer=self.producer, host=self._host)
        return self._send(
            new_job(
                image,
                model,
                source=source,
                parameters=parameters,
                stream=stream,
                captured_at=captured_at,
                lane=lane,
            )
        )

    def submit_stream(
        self,
        file: BinaryIO,
        filename: str,
        model: str,
        *,
        parameters: dict[str, Any] | None = None,
        stream: str = "",
        lane: Lane = Lane.INTERACTIVE,
    ) -> Job:
        """Submit an open file that somebody uploaded, at its beginning. Raises StoreUnavailable."""
        image = self.store.put_image_stream(file, filename, formats.media_type(filename))
        source = Source(producer=self.producer, host=self._host)
        return self._send(new_job(image, model, source=source, parameters=parameters, stream=stream, lane=lane))

    def submit_tensors(self, file: BinaryIO, model: str, *, lane: Lane = Lane.INTERACTIVE) -> Job:
        """Submit an open file of tensors (`graticule.tensors`), at its beginning. Raises StoreUnavailable.

        The same tensors for the same version are the same job: `model` should name the version.
        """
        stored = self.store.put_image_stream(file, FILE_NAME, MEDIA_TYPE)
        source = Source(producer=self.producer, host=self._host)
        return self._send(new_job(stored, model, source=source, lane=lane, content=Content.TENSORS))

    def submit_again(self, job: Job) -> Job:
        """Try a job once more: a submission of now, which an earlier failure does not answer."""
        return self._send(job.model_copy(update={"submitted_at": utc_now()}))

    def ring(self, job: Job) -> None:
        """Ring for a recorded job; without Redis the reconciler will."""
        try:
            self._bell.ring(job)
        except BrokerUnavailable as error:
            log.warning("%s", error)

    def _send(self, job: Job) -> Job:
        self.records.add_pending(job)
        self.ring(job)
        return job

    def _check_file(self, path: Path) -> datetime:
        with unreadable_source(path):
            status = path.stat()
        self._check_size(status.st_size, printable_name(path))
        return datetime.fromtimestamp(status.st_mtime, UTC)

    def _check_size(self, size: int, filename: str) -> None:
        if size > self.settings.max_image_bytes:
            raise ImageTooLarge(
                f"{filename!r} has {size:,} bytes; at most {self.settings.max_image_bytes:,} are accepted"
                " (GRATICULE_MAX_IMAGE_BYTES).",
                data="Nothing was sent.",
            )


def _source_path(path: Path) -> str:
    return printable(str(path.absolute()))
