"""Reading what a client sends: pictures go to temporary files while they come in, never whole into memory.

Limits are checked while reading: number of parts and files, length of names and of fields.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from graticule import formats
from graticule.settings import Settings
from graticule_producers.gateway import metrics
from graticule_producers.gateway.problems import Problem

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

IN_MEMORY = 1024**2
"""Bytes of a picture that are held in memory; larger ones are on disk."""
LONGEST_NAME = 255
"""Characters of a file's name."""
MOST_FIELDS = 50
LONGEST_FIELD = 64 * 1024

FILE = {"type": "string", "format": "binary"}
"""A file in the description of a form."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_LONGEST_HEADER = 8 * 1024


def form_body(
    properties: Mapping[str, Any], required: Sequence[str], other_types: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The OpenAPI description of a body that `read_upload` reads: a form, or one of `other_types`."""
    form = {"schema": {"type": "object", "properties": dict(properties), "required": list(required)}}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": form, **(other_types or {})}}}


class _Spool(tempfile.SpooledTemporaryFile[bytes]):
    """In memory while it is small."""

    @property
    def name(self) -> str:
        """None: readers of formats would take the number that is there else for a path."""
        return ""


@dataclass
class UploadedFile:
    """A picture that came in."""

    filename: str
    file: BinaryIO
    size: int = 0

    def write(self, data: bytes) -> None:
        """Append bytes."""
        self.file.write(data)
        self.size += len(data)


@dataclass
class Upload:
    """Everything that one request brought."""

    files: list[UploadedFile] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)
    resources: ExitStack = field(default_factory=ExitStack)

    def add_file(self, filename: str) -> UploadedFile:
        """Begin a file."""
        spooled = self.resources.enter_context(_Spool(IN_MEMORY))
        self.files.append(UploadedFile(checked_name(filename), cast("BinaryIO", spooled)))
        return self.files[-1]

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *_: object) -> None:
        self.resources.close()


OnFile = Callable[[dict[str, str]], None]
"""Called when a file begins, with the fields that came before it; may raise Problem."""


async def read_upload(
    request: Request, settings: Settings, file_fields: frozenset[str], on_file: OnFile = lambda _: None
) -> Upload:
    """The pictures and fields of a request: a form (multipart/form-data), or one picture as the whole body.

    `file_fields`: names of the form's fields that hold pictures; empty: any. Raises Problem.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    upload = Upload()
    try:
        if kind == b"multipart/form-data":
            form = _Form(upload, settings.gateway_max_files, file_fields, on_file)
            await _read_form(request.stream(), options.get(b"boundary", b""), form)
        else:
            await _read_body(request, upload)
    except BaseException:
        upload.resources.close()
        raise
    for received in upload.files:
        received.file.seek(0)
        metrics.count_upload(received.size)
    return upload


async def read_body(request: Request, limit: int, too_long: str) -> Upload:
    """The whole body as one file. Raises Problem (413) with the sentence `too_long` beyond `limit` bytes."""
    upload = Upload()
    try:
        received = upload.add_file("")
        if (length := request.headers.get("content-length", "")).isdigit() and int(length) > limit:
            raise Problem(413, too_long, close=True)
        async for chunk in request.stream():
            await _off_loop_if_large(received.size, received.write, chunk)
            if received.size > limit:
                raise Problem(413, too_long, close=True)
        received.file.seek(0)
    except BaseException:
        upload.resources.close()
        raise
    metrics.count_upload(received.size)
    return upload


def check_picture(received: UploadedFile, settings: Settings) -> None:
    """Raise Problem, UnreadableImage or ImageTooLarge unless the header is that of a picture within the limits."""
    head = received.file.read(64)
    received.file.seek(0)
    if head and not any(reader.matches(head) for reader in formats.READERS):
        known = ", ".join(reader.name for reader in formats.READERS)
        raise Problem(415, f"{received.filename!r} is not a picture of a known kind: expected one of {known}.")
    info = formats.probe(received.file, received.filename, max_pixels=settings.max_pixels)
    check_decoded_size(info.width * info.height * info.channels, info.dtype, received.filename, settings)
    received.file.seek(0)


def check_decoded_size(values: int, dtype: str, filename: str, settings: Settings) -> None:
    """Raise Problem when so many values of a type need more memory than the gateway gives to one picture."""
    size = values * np.dtype(dtype).itemsize
    if size > settings.gateway_max_decoded:
        raise Problem(
            413,
            f"{filename!r} would need {size:,} bytes once decoded; at most {settings.gateway_max_decoded:,} are taken"
            " (GRATICULE_GATEWAY_MAX_DECODED). Nothing was decoded.",
            error="ImageTooLarge",
        )


def checked_name(name: str) -> str:
    """The last part of a file's name, for people to recognise; never used as a path. Raises Problem."""
    last = _CONTROL.sub("_", PurePosixPath(name.replace("\\", "/")).name) or "picture"
    if len(last) > LONGEST_NAME:
        raise Problem(422, f"A file's name may have {LONGEST_NAME} characters; found {len(last):,}.", close=True)
    return last


async def _read_body(request: Request, upload: Upload) -> None:
    received = upload.add_file(request.query_params.get("filename", "") or "picture")
    async for chunk in request.stream():
        await _off_loop_if_large(received.size, received.write, chunk)
    if not received.size:
        raise Problem(422, "The body is empty: expected a picture.")


async def _read_form(chunks: AsyncIterator[bytes], boundary: bytes, form: _Form) -> None:
    if not 1 <= len(boundary) <= 200:
        raise Problem(400, "The form's Content-Type names no boundary.", close=True)
    parser = MultipartParser(boundary, form.callbacks())
    total = 0
    try:
        async for chunk in chunks:
            total += len(chunk)
            await _off_loop_if_large(total, parser.write, chunk)
        parser.finalize()
    except MultipartParseError as error:
        raise Problem(400, f"The form cannot be read: {error}.", close=True) from error
    if not form.ended:
        raise Problem(400, "The form ends before its last boundary.", close=True)


async def _off_loop_if_large(size: int, write: Callable[[bytes], object], chunk: bytes) -> None:
    """What goes to the disk must not hold up the other clients."""
    if size > IN_MEMORY:
        await asyncio.to_thread(write, chunk)
    else:
        write(chunk)


class _Form:
    """Puts the parts of a form where they belong, as the parser finds them."""

    def __init__(self, upload: Upload, most_files: int, file_fields: frozenset[str], on_file: OnFile) -> None:
        self.ended = False
        self._on_file = on_file
        self._upload = upload
        self._most_files = most_files
        self._file_fields = file_fields
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._disposition = b""
        self._fields = 0
        self._file: UploadedFile | None = None
        self._field: str = ""
        self._value = bytearray()

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin_part,
            "on_header_field": lambda data, start, end: self._grow(self._header_name, data[start:end]),
            "on_header_value": lambda data, start, end: self._grow(self._header_value, data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._begin_content,
            "on_part_data": lambda data, start, end: self._content(data[start:end]),
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def _begin_part(self) -> None:
        self._disposition, self._file, self._field = b"", None, ""
        self._value.clear()

    def _grow(self, header: bytearray, data: bytes) -> None:
        header += data
        if len(header) > _LONGEST_HEADER:
            raise Problem(400, f"A part's header may have {_LONGEST_HEADER:,} bytes.", close=True)

    def _end_header(self) -> None:
        if bytes(self._header_name).lower() == b"content-disposition":
            self._disposition = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _begin_content(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if b"filename" in options:
            self._begin_file(name, options[b"filename"].decode("utf-8", "replace"))
        else:
            self._begin_field(name)

    def _begin_file(self, name: str, filename: str) -> None:
        if self._file_fields and name not in self._file_fields:
            expected = " or ".join(sorted(self._file_fields))
            raise Problem(422, f"The form has a file in the field {name[:80]!r}; expected {expected}.", close=True)
        if len(self._upload.files) >= self._most_files:
            limit = f"at most {self._most_files} files are accepted in one request (GRATICULE_GATEWAY_MAX_FILES)"
            raise Problem(413, f"Too many files: {limit}.", close=True)
        self._on_file(self._upload.fields)
        self._file = self._upload.add_file(filename)

    def _begin_field(self, name: str) -> None:
        self._fields += 1
        if self._fields > MOST_FIELDS:
            raise Problem(413, f"Too many fields: at most {MOST_FIELDS} are accepted.", close=True)
        self._field = name

    def _content(self, data: bytes) -> None:
        if self._file is not None:
            self._file.write(data)
            return
        self._value += data
        if len(self._value) > LONGEST_FIELD:
            text = f"The field {self._field[:80]!r} may have {LONGEST_FIELD:,} bytes."
            raise Problem(413, text, close=True)

    def _end_part(self) -> None:
        if self._file is None:
            self._upload.fields[self._field] = self._value.decode("utf-8", "replace")

    def _end(self) -> None:
        self.ended = True
