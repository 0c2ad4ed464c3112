"""What another user of the same machine could reach: every listening port of the cluster, tried without credentials."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from graticule.local.cluster import EmbeddedCluster
from graticule.local.parts import PORTS_FILE
from graticule.local.ports import GRPC_OFFSET
from graticule.settings import Settings, load_settings
from graticule.store import Store

HTTP_PORTS = ["s3", "s3-master", "s3-filer", "s3-volume", "s3-admin"]
GRPC_PORTS = HTTP_PORTS
DATA_PATHS = [
    "/dir/assign",
    "/dir/lookup?volumeId=1&read=yes",
    "/dir/status",
    "/submit",
    "/buckets/",
    "/buckets/images/secret",
    "/1,01637037d6",
    "/images/secret",
    "/ui/index.html?x",
    "/metrics",
]
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"


@pytest.fixture(scope="module")
def exposed(tmp_path_factory) -> Iterator[tuple[EmbeddedCluster, Settings, dict[str, int]]]:
    folder: Path = tmp_path_factory.mktemp("exposed")
    made = EmbeddedCluster(load_settings(data_dir=folder), worker=False, flower=False)
    with made as settings:
        Store(settings).put("images", "secret", b"confidential", "text/plain")
        yield made, settings, json.loads((folder / PORTS_FILE).read_text())


def answer(url: str, method: str = "GET") -> tuple[int, bytes, str]:
    request = urllib.request.Request(url, method=method, data=b"x" if method in ("PUT", "POST") else None)
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return response.status, response.read(), response.headers.get("Authorization", "")
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, refusal.read(), refusal.headers.get("Authorization", "")


@pytest.mark.parametrize("name", HTTP_PORTS)
@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "DELETE"])
def test_no_http_port_gives_data_or_tokens_to_a_stranger(exposed, name, method):
    _, settings, ports = exposed
    for path in DATA_PATHS:
        status, body, token = answer(f"http://127.0.0.1:{ports[name]}{path}", method)
        assert b"confidential" not in body, (name, method, path)
        assert not token, (name, method, path)
        if path not in ("/metrics", "/ui/index.html?x"):
            assert status in (400, 401, 403, 404, 405, 501), (name, method, path, status, body[:200])
    assert Store(settings).get("images", "secret") == b"confidential"


@pytest.mark.parametrize("name", GRPC_PORTS)
def test_no_grpc_port_talks_to_a_stranger(exposed, name):
    _, _, ports = exposed
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with pytest.raises(ssl.SSLError, match="certificate required|bad certificate|CERTIFICATE_REQUIRED"):
        speak(ports[name] + GRPC_OFFSET, context)
    with contextlib.suppress(ConnectionError):
        assert speak(ports[name] + GRPC_OFFSET, None) == b""


def speak(port: int, context: ssl.SSLContext | None) -> bytes:
    """Send the greeting of HTTP/2, in TLS or not; what the server says."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
        if context is None:
            plain.sendall(HTTP2_PREFACE)
            return plain.recv(64)
        with context.wrap_socket(plain) as channel:
            channel.sendall(HTTP2_PREFACE)
            return channel.recv(64)


def test_only_known_ports_are_open_and_only_to_this_machine(exposed):
    made, _, ports = exposed
    known = {*ports.values(), *(ports[name] + GRPC_OFFSET for name in GRPC_PORTS)}
    for child in made.children:
        for connection in psutil.Process(child.pid).net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                assert connection.laddr.ip == "127.0.0.1"
                assert connection.laddr.port in known


def test_everything_in_the_folder_is_closed_to_others(exposed):
    made, _, _ = exposed
    for folder in (made.folder, made.folder / "redis", made.folder / "s3", made.folder / "s3" / "data"):
        assert folder.stat().st_mode & 0o077 == 0
    for path in (made.folder, made.folder / "redis", made.folder / "s3", made.folder / "logs"):
        open_to_others = [file.name for file in path.iterdir() if file.is_file() and file.stat().st_mode & 0o077]
        assert set(open_to_others) <= {"up.lock"}


@pytest.mark.slow
def test_a_hundred_namespaces_find_room(exposed):
    """Each bucket takes a volume of its own: the number of volumes must not depend on the size of the disk."""
    _, settings, _ = exposed
    for number in range(25):
        store = Store(settings.model_copy(update={"namespace": f"n{number}"}))
        store.create_buckets()
        store.put("jobs", "k", b"v", "text/plain")
