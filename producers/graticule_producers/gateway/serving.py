"""Bytes as an answer: entity tags, ranges, and what a browser may keep."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable
from urllib.parse import quote

from fastapi import Request, Response

FOR_EVER = "private, max-age=31536000, immutable"
"""What is made from a result never changes."""
ASK_AGAIN = "private, no-cache"

_RANGE = re.compile(r"^bytes=(\d*)-(\d*)$")


async def serve(
    request: Request,
    make: Callable[[], bytes],
    *,
    tag: str,
    media_type: str,
    filename: str = "",
    cache: str = FOR_EVER,
) -> Response:
    """Answer with the bytes of `make`, or with 304 (not made at all), 206, or 416 as the request's headers ask.

    `tag`: text that is another one whenever the bytes are.
    """
    entity = f'"{hashlib.sha256(tag.encode()).hexdigest()[:32]}"'
    headers = {"ETag": entity, "Cache-Control": cache, "Accept-Ranges": "bytes"}
    if filename:
        headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{quote(filename, safe='')}"
    if _matches(request.headers.get("if-none-match", ""), entity):
        return Response(status_code=304, headers=headers)
    data = await asyncio.to_thread(make)
    wanted = request.headers.get("range", "")
    if not wanted or request.headers.get("if-range", entity) != entity:
        return Response(data, media_type=media_type, headers=headers)
    return _part(data, wanted, media_type, headers)


def _part(data: bytes, wanted: str, media_type: str, headers: dict[str, str]) -> Response:
    """One range. Several, or something else than bytes, get the whole, as the standard allows."""
    match = _RANGE.match(wanted)
    if match is None or not any(match.groups()):
        return Response(data, media_type=media_type, headers=headers)
    first, last = match.groups()
    if first:
        start, end = int(first), min(int(last), len(data) - 1) if last else len(data) - 1
    else:
        start, end = max(0, len(data) - int(last)), len(data) - 1
    if start > end or start >= len(data):
        return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{len(data)}"})
    headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
    return Response(data[start : end + 1], 206, media_type=media_type, headers=headers)


def _matches(given: str, entity: str) -> bool:
    tags = {tag.strip().removeprefix("W/") for tag in given.split(",")}
    return entity in tags or "*" in tags
