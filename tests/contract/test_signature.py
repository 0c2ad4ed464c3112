"""Signed as Amazon's own examples are, and as another implementation signs."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import urlsplit

import pytest
from minio.credentials import Credentials
from minio.signer import sign_v4_s3

from graticule.signature import Signer, object_path

# Amazon S3 API reference, "Signature Calculations for the Authorization Header: ... Examples".
ACCESS, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
NOW = datetime(2013, 5, 24, tzinfo=UTC)


@pytest.fixture
def signer():
    return Signer(ACCESS, SECRET, "us-east-1", "examplebucket.s3.amazonaws.com")


def signature(headers: dict[str, str]) -> str:
    return headers["authorization"].rpartition("Signature=")[2]


def test_the_published_example_of_a_get(signer):
    headers = signer.headers("GET", "/test.txt", extra={"range": "bytes=0-9"}, now=NOW)
    assert signature(headers) == "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"


def test_the_published_example_of_a_put(signer):
    extra = {"date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY"}
    headers = signer.headers("PUT", object_path("", "test$file.text")[1:], b"Welcome to Amazon S3.", extra, now=NOW)
    assert signature(headers) == "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"


@pytest.mark.parametrize("key", ["plain", "pending/20261121T1~a.bulk~0.json", "ein Bild ä+&=%/$,;:@.tif", "日本語"])
def test_odd_keys_are_signed_as_the_minio_client_signs_them(key):
    host = "127.0.0.1:9000"
    path, now = object_path("bucket", key), datetime(2026, 11, 21, 23, 59, 59, tzinfo=UTC)
    mine = Signer(ACCESS, SECRET, "eu-1", host).headers("PUT", path, b"data", now=now)
    theirs = sign_v4_s3(
        method="PUT",
        url=urlsplit(f"http://{host}{path}"),
        region="eu-1",
        headers={
            "Host": host,
            "x-amz-content-sha256": mine["x-amz-content-sha256"],
            "x-amz-date": mine["x-amz-date"],
        },
        credentials=Credentials(ACCESS, SECRET),
        content_sha256=mine["x-amz-content-sha256"],
        date=now,
    )
    assert mine["authorization"] == theirs["Authorization"]


def test_the_key_changes_with_the_day(signer):
    first = signer.headers("GET", "/x", now=NOW)
    second = signer.headers("GET", "/x", now=NOW.replace(day=25))
    fresh = Signer(ACCESS, SECRET, "us-east-1", "examplebucket.s3.amazonaws.com")
    assert signature(second) == signature(fresh.headers("GET", "/x", now=NOW.replace(day=25)))
    assert signature(first) != signature(second)


def test_without_a_key_a_request_is_anonymous():
    assert Signer("", "", "r", "h").headers("GET", "/x") == {}
