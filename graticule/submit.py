"""Submitting: the image, then the pending record, then the bell. Killed between two steps, nothing is lost."""

from __future__ import annotations

import hashlib
import logging
import socket
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from graticule import formats
from graticule.broker import Bell
from graticule.errors import BrokerUnavailable, ImageTooLarge
from graticule.jobs import Content, ImageRef, Job, Lane, Source, job_identity, new_job, utc_now
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
        self.host = socket.gethostname()

    def submit_file(
        self,
        path: Path,
        model: str,
        *,
        frame: int = 0,
        parameters: dict[str, Any] | None = None,
        stream: str = "",
        sequence: int | None = None,
        submitted_at: datetime | None = None,
        lane: Lane = Lane.BULK,
    ) -> Job:
        """Submit one frame of a file. The same unchanged file for the same model is the same job, however often sent.

        A producer that may have been killed between the steps repeats the submission with the `submitted_at` of the
        first try: then the pending record, too, is the same one.

        Raises SourceUnreadable, ImageTooLarge, StoreUnavailable.
        """
        return self.upload(path).submit(
            model,
            frame=frame,
            parameters=parameters,
            stream=stream,
            sequence=sequence,
            submitted_at=submitted_at,
            lane=lane,
        )

    def upload(self, path: Path) -> Upload:
        """A file of which several frames are going to be submitted."""
        return Upload(self, path)

    def count_frames(self, path: Path) -> int:
        """How many jobs a file stands for: one for each frame. Raises BadInput, SourceUnreadable, MissingPart."""
        with unreadable_source(path):
            return formats.frames(path, max_frames=self.settings.max_frames)

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
        source = Source(producer=self.producer, host=self.host)
        return self.send(
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
        source = Source(producer=self.producer, host=self.host)
        return self.send(new_job(image, model, source=source, parameters=parameters, stream=stream, lane=lane))

    def submit_tensors(self, file: BinaryIO, model: str, *, lane: Lane = Lane.INTERACTIVE) -> Job:
        """Submit an open file of tensors (`graticule.tensors`), at its beginning. Raises StoreUnavailable.

        The same tensors for the same version are the same job: `model` should name the version.
        """
        stored = self.store.put_image_stream(file, FILE_NAME, MEDIA_TYPE)
        source = Source(producer=self.producer, host=self.host)
        return self.send(new_job(stored, model, source=source, lane=lane, content=Content.TENSORS))

    def submit_again(self, job: Job) -> Job:
        """Try a job once more: a submission of now, which an earlier failure does not answer."""
        return self.send(job.model_copy(update={"submitted_at": utc_now()}))

    def ring(self, job: Job) -> None:
        """Ring for a recorded job; without Redis the reconciler will."""
        try:
            self._bell.ring(job)
        except BrokerUnavailable as error:
            log.warning("%s", error)

    def send(self, job: Job) -> Job:
        """Record a job whose image lies in the store, and ring. Raises StoreUnavailable."""
        self.records.add_pending(job)
        self.ring(job)
        return job

    def check_file(self, path: Path) -> datetime:
        """When the file was last changed. Raises SourceUnreadable, ImageTooLarge."""
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


class Upload:
    """A file that goes into the store once, however many of its frames become jobs. Thread-safe."""

    def __init__(self, submitter: Submitter, path: Path) -> None:
        self._submitter = submitter
        self._path = path
        self._lock = threading.Lock()
        self._sha256: str | None = None
        self._image: ImageRef | None = None
        self._modified: datetime | None = None

    def identity(self, model: str, parameters: dict[str, Any], stream: str = "", frame: int = 0) -> str:
        """Identity of the job that `submit` would make. Raises SourceUnreadable, ImageTooLarge."""
        with self._lock:
            modified = self._checked()
            if self._sha256 is None:
                with unreadable_source(self._path), self._path.open("rb") as file:
                    self._sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            return job_identity(self._sha256, frame, model, parameters, stream, _source_path(self._path), modified)

    def submit(
        self,
        model: str,
        *,
        frame: int = 0,
        parameters: dict[str, Any] | None = None,
        stream: str = "",
        sequence: int | None = None,
        submitted_at: datetime | None = None,
        lane: Lane = Lane.BULK,
    ) -> Job:
        """Submit one frame. The first call stores the file.

        Raises SourceUnreadable, ImageTooLarge, StoreUnavailable.
        """
        submitter = self._submitter
        with self._lock:
            modified = self._checked()
            if self._image is None:
                self._image = submitter.store.put_image_file(self._path, formats.media_type(self._path.name))
            image = self._image.model_copy(update={"frame": frame})
        return submitter.send(
            new_job(
                image,
                model,
                source=Source(producer=submitter.producer, host=submitter.host, path=_source_path(self._path)),
                parameters=parameters,
                stream=stream,
                sequence=sequence,
                captured_at=modified,
                submitted_at=submitted_at,
                lane=lane,
            )
        )

    def _checked(self) -> datetime:
        if self._modified is None:
            self._modified = self._submitter.check_file(self._path)
        return self._modified


def stream_of(path: Path, frames: int) -> str:
    """Name of the series that a file's frames make, where nobody gave one; none for a single picture."""
    return _source_path(path) if frames > 1 else ""


def _source_path(path: Path) -> str:
    return printable(str(path.absolute()))
