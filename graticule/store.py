"""The object store: five buckets of any S3 server, spoken to through the `minio` client.

Errors of the network and of the server become `StoreUnavailable` here and nowhere else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple
from urllib.parse import quote, unquote, urlsplit
from xml.etree import ElementTree

import urllib3
from minio import Minio
from minio.deleteobjects import DeleteObject
from minio.error import InvalidResponseError, MinioException, S3Error
from urllib3 import BaseHTTPResponse

from graticule.errors import Corrupted, NotFound, SourceUnreadable, StoreUnavailable
from graticule.jobs import ImageRef
from graticule.settings import Settings
from graticule.signature import Signer, object_path

Purpose = Literal["images", "jobs", "results", "models", "access"]
PURPOSES: tuple[Purpose, ...] = ("images", "jobs", "results", "models", "access")

IN_MEMORY_LIMIT = 16 * 1024**2
"""Files up to this size are read once, hashed and sent from memory; larger ones are streamed twice."""

_CHUNK = 1024**2
_PART_SIZE = 16 * 1024**2
_MISSING = {"NoSuchKey", "NoSuchObject", "NoSuchBucket"}
_REFUSED = 300
"""Lowest HTTP status that is no success."""
_SAID = "x-amz-meta-"
_CODES = {404: "NoSuchKey", 412: "PreconditionFailed"}


class StoredObject(NamedTuple):
    """An object as a listing shows it."""

    key: str
    size: int
    changed_at: datetime


class Store:
    """Object storage with one bucket for each right (images, jobs, results, models, access). Thread-safe."""

    def __init__(self, settings: Settings, *, retries: int = 3) -> None:
        """Connect lazily: nothing is sent before the first call.

        `retries`: how often a failed request is repeated, with exponential backoff, before StoreUnavailable.
        """
        self.settings = settings
        self.url = settings.s3_url
        parts = urlsplit(settings.s3_url)
        self._http = _http_pool(settings, retries)
        self._signer = Signer(
            settings.s3_access_key, settings.s3_secret_key.get_secret_value(), settings.s3_region, parts.netloc
        )
        self._minio = Minio(
            parts.netloc,
            access_key=settings.s3_access_key or None,
            secret_key=settings.s3_secret_key.get_secret_value() or None,
            secure=parts.scheme == "https",
            region=settings.s3_region,
            http_client=self._http,
        )

    # -- whole buckets ---------------------------------------------------------------------------------

    def create_buckets(self) -> None:
        """Make the buckets where they are missing."""
        for purpose in PURPOSES:
            name = self.settings.bucket(purpose)
            with self._translated(f"create bucket {name}"):
                if not self._minio.bucket_exists(name):
                    self._minio.make_bucket(name)

    # -- objects -----------------------------------------------------------------------------------------

    def put(self, purpose: Purpose, key: str, data: bytes, media_type: str) -> None:
        """Write an object, whether or not it exists."""
        with self._translated(f"write {purpose}/{key}"):
            self._request("PUT", self.settings.bucket(purpose), key, data, {"content-type": media_type})

    def put_if_absent(self, purpose: Purpose, key: str, data: bytes, media_type: str) -> bool:
        """Write an object unless there is one already; tell whether this call wrote it.

        Of several writers at the same time exactly one is told True.
        """
        headers = {"content-type": media_type, "if-none-match": "*"}
        with self._translated(f"write {purpose}/{key}"):
            try:
                self._request("PUT", self.settings.bucket(purpose), key, data, headers)
            except S3Error as error:
                if error.code == "PreconditionFailed":
                    return False
                raise
        return True

    def get(self, purpose: Purpose, key: str) -> bytes:
        """Read a whole object. Raises NotFound."""
        with self._translated(f"read {purpose}/{key}"):
            return self._request("GET", self.settings.bucket(purpose), key)

    def exists(self, purpose: Purpose, key: str) -> bool:
        """Whether there is such an object."""
        try:
            with self._translated(f"look for {purpose}/{key}"):
                self._minio.stat_object(self.settings.bucket(purpose), key)
        except NotFound:
            return False
        return True

    def remove(self, purpose: Purpose, key: str) -> None:
        """Remove an object; no error when it is gone already."""
        with self._translated(f"remove {purpose}/{key}"):
            self._minio.remove_object(self.settings.bucket(purpose), key)

    def remove_many(self, purpose: Purpose, keys: Iterable[str]) -> None:
        """Remove objects in one request, up to 1000 of them; no error for those that are gone already."""
        with self._translated(f"remove objects of {purpose}"):
            left = list(self._minio.remove_objects(self.settings.bucket(purpose), map(DeleteObject, keys)))
        if left:
            raise StoreUnavailable(f"{len(left)} objects of {purpose} could not be removed, such as {left[0].name}.")

    def keys(self, purpose: Purpose, prefix: str = "", *, limit: int | None = None) -> list[str]:
        """Keys below `prefix`, sorted, at most `limit`. Folders are not descended into unless `prefix` names them."""
        with self._translated(f"list {purpose}/{prefix}"):
            found = self._minio.list_objects(self.settings.bucket(purpose), prefix=prefix)
            # SeaweedFS keeps an emptied folder and lists it under its own name.
            keys = (item.object_name for item in found if item.object_name and item.object_name != prefix)
            return list(islice(keys, limit))

    # -- whole files, for backups --------------------------------------------------------------------------

    def walk(self, purpose: Purpose) -> Iterator[StoredObject]:
        """Every object of a bucket, folders descended into."""
        with self._translated(f"list {purpose}"):
            for item in self._minio.list_objects(self.settings.bucket(purpose), recursive=True):
                if item.object_name and not item.is_dir:
                    assert item.last_modified is not None
                    yield StoredObject(item.object_name, item.size or 0, item.last_modified)

    def download(self, purpose: Purpose, key: str, path: Path) -> tuple[str, dict[str, str]]:
        """Write an object into a file, whole; its media type and what its producer said of it. Raises NotFound."""
        with self._translated(f"read {purpose}/{key}"):
            found = self._minio.fget_object(self.settings.bucket(purpose), key, str(path))
        headers = {name.lower(): value for name, value in (found.metadata or {}).items()}
        said = {name.removeprefix(_SAID): value for name, value in headers.items() if name.startswith(_SAID)}
        return found.content_type or "application/octet-stream", said

    def upload_if_absent(self, purpose: Purpose, key: str, path: Path, media_type: str, said: dict[str, str]) -> bool:
        """Write a file as an object unless there is one; whether this call wrote it. `said`: as `download` gave it."""
        if self.exists(purpose, key):
            return False
        with self._translated(f"write {purpose}/{key}"):
            self._minio.fput_object(
                self.settings.bucket(purpose),
                key,
                str(path),
                content_type=media_type,
                metadata=dict(said),
                part_size=_PART_SIZE,
                num_parallel_uploads=1,
            )
        return True

    # -- images ------------------------------------------------------------------------------------------

    def put_image(self, data: bytes, filename: str, media_type: str = "application/octet-stream") -> ImageRef:
        """Store an image's bytes under their own hash."""
        sha256 = hashlib.sha256(data).hexdigest()
        bucket, key = self.settings.bucket("images"), image_key(sha256)
        headers = {"content-type": media_type, "x-amz-meta-filename": _ascii(filename)}
        with self._translated(f"write image {key}"):
            self._request("PUT", bucket, key, data, headers)
        return _image_ref(bucket, sha256, len(data), filename, media_type)

    def put_image_file(self, path: Path, media_type: str = "application/octet-stream") -> ImageRef:
        """Store an image file unchanged, without holding more than a part of a large one in memory.

        Raises SourceUnreadable when the file cannot be read, or changed while it was read.
        """
        with unreadable_source(path), path.open("rb") as file:
            return self.put_image_stream(file, printable_name(path), media_type)

    def put_image_stream(self, file: BinaryIO, filename: str, media_type: str = "application/octet-stream") -> ImageRef:
        """Store an open image file from its present position, 0, without holding more than a part of it in memory."""
        head = file.read(IN_MEMORY_LIMIT)
        if len(head) < IN_MEMORY_LIMIT:
            return self.put_image(head, filename, media_type)
        return self._put_large(file, filename, media_type)

    def get_image(self, ref: ImageRef) -> bytes:
        """Read an image and check it against its SHA-256. Raises NotFound, Corrupted."""
        with self._translated(f"read image {ref.key}"):
            data = self._request("GET", ref.bucket, ref.key)
        found = hashlib.sha256(data).hexdigest()
        if found != ref.sha256:
            raise Corrupted(f"Image {ref.key} is damaged in the store: its bytes have SHA-256 {found}.")
        return data

    def fetch_image(self, ref: ImageRef, file: BinaryIO) -> None:
        """Write an image's bytes to `file` and check them against their SHA-256, a part at a time in memory.

        Raises NotFound, Corrupted.
        """
        digest = hashlib.sha256()
        with self._translated(f"read image {ref.key}"):
            answer = self._minio.get_object(ref.bucket, ref.key)
            try:
                for chunk in answer.stream(_CHUNK):
                    digest.update(chunk)
                    file.write(chunk)
            finally:
                answer.close()
                answer.release_conn()
        if digest.hexdigest() != ref.sha256:
            raise Corrupted(f"Image {ref.key} is damaged in the store: its bytes have SHA-256 {digest.hexdigest()}.")

    def image_metadata(self, ref: ImageRef) -> dict[str, str]:
        """File name and media type as the producer gave them when the bytes were first stored."""
        with self._translated(f"look for image {ref.key}"):
            headers = self._minio.stat_object(ref.bucket, ref.key).metadata or {}
        return {"filename": unquote(headers.get("x-amz-meta-filename", ""))}

    def _put_large(self, file: BinaryIO, filename: str, media_type: str) -> ImageRef:
        file.seek(0)
        sha256, size = _hash_stream(file)
        file.seek(0)
        return self._stream_image(_UnchangedReader(file, filename, sha256, size), sha256, size, filename, media_type)

    def _stream_image(self, data: _UnchangedReader, sha256: str, size: int, filename: str, media_type: str) -> ImageRef:
        bucket, key = self.settings.bucket("images"), image_key(sha256)
        with self._translated(f"write image {key}"):
            self._minio.put_object(
                bucket,
                key,
                data,  # pyright: ignore[reportArgumentType]  (anything with read())
                size,
                content_type=media_type,
                metadata={"filename": _ascii(filename)},
                part_size=_PART_SIZE,
                num_parallel_uploads=1,
            )
        return _image_ref(bucket, sha256, size, filename, media_type)

    def _request(
        self, method: str, bucket: str, key: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> bytes:
        """One request on one object, without the minio client's own work; the answer's body. Raises S3Error."""
        path = object_path(bucket, key)
        signed = self._signer.headers(method, path, body, headers)
        answer = self._http.request(method, self.url.rstrip("/") + path, body=body or None, headers=signed)
        if answer.status < _REFUSED:
            return answer.data
        raise _error_of(answer, path)

    @contextmanager
    def _translated(self, action: str) -> Iterator[None]:
        try:
            yield
        except S3Error as error:
            if error.code in _MISSING:
                raise NotFound(f"Cannot {action}: the object store at {self.url} has no such object.") from error
            advice = "Is its disk full?" if error.code == "InternalError" else ""
            raise StoreUnavailable(
                f"Cannot {action}: the object store at {self.url} answered {error.code}: {error.message}",
                advice=advice,
            ) from error
        except (MinioException, InvalidResponseError, urllib3.exceptions.HTTPError) as error:
            raise StoreUnavailable(
                f"Cannot {action}: the object store at {self.url} does not answer ({_root_cause(error)})."
            ) from error


@contextmanager
def unreadable_source(path: Path) -> Iterator[None]:
    """Turn what the file system says of a file into SourceUnreadable."""
    try:
        yield
    except OSError as error:
        raise SourceUnreadable(
            f"Cannot read {printable_name(path)!r}: {error.strerror or error}.", data="Nothing was sent."
        ) from error


def image_key(sha256: str) -> str:
    """Key of an image: the same bytes always have the same one."""
    return f"{sha256[:2]}/{sha256}"


def _ascii(filename: str) -> str:
    """S3 metadata is ASCII; a user's name may be anything."""
    return quote(filename, safe=" ")


def _image_ref(bucket: str, sha256: str, size: int, filename: str, media_type: str) -> ImageRef:
    return ImageRef(
        bucket=bucket,
        key=image_key(sha256),
        sha256=sha256,
        size=size,
        filename=filename,
        media_type=media_type,
        frame=0,
    )


def printable_name(path: Path) -> str:
    """A file's name as text that JSON can hold: bytes that are not UTF-8 are shown as \\xNN."""
    return printable(path.name)


def printable(text: str) -> str:
    """Text from the file system with undecodable bytes shown as \\xNN."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _error_of(answer: BaseHTTPResponse, path: str) -> S3Error:
    """What the store said; some say nothing, or no XML."""
    try:
        return S3Error.fromxml(answer)
    except (ElementTree.ParseError, ValueError):
        code = _CODES.get(answer.status, f"HTTP {answer.status}")
        return S3Error(answer, code, answer.reason, path, None, None)


def _http_pool(settings: Settings, retries: int) -> urllib3.PoolManager:
    policy = urllib3.Retry(
        total=retries,
        backoff_factor=0.1,
        backoff_jitter=0.1,
        backoff_max=5,
        status_forcelist=(500, 502, 503, 504),
        allowed_methods=None,  # every write is idempotent
        raise_on_status=False,
    )
    timeout = urllib3.Timeout(connect=min(5.0, settings.store_timeout), read=settings.store_timeout)
    return urllib3.PoolManager(num_pools=4, maxsize=64, timeout=timeout, retries=policy)


class _UnchangedReader:
    """A reader that raises SourceUnreadable instead of the last bytes when they are not those that were hashed before.

    Then the upload is never completed, and no object comes to lie under the hash of other bytes.
    """

    def __init__(self, file: BinaryIO, filename: str, sha256: str, size: int) -> None:
        self._file = file
        self._filename = filename
        self._expected = sha256
        self._left = size
        self._hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._hash.update(data)
        self._left -= len(data)
        if self._left <= 0 and self._hash.hexdigest() != self._expected:
            raise SourceUnreadable(f"{self._filename!r} changed while it was read.", data="Nothing was sent.")
        return data


def _hash_stream(file: BinaryIO) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size


def _root_cause(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or error
    return str(reason).rpartition(": ")[2] or type(reason).__name__
