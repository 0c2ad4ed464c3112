"""A gateway process in front of a real cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from graticule.local.ports import choose_ports
from graticule.registry import Registry
from graticule.settings import Settings
from graticule.store import Store
from tests.conftest import in_own_namespace
from tests.gateway.chromium import CHROMIUM, Visit
from tests.models import write_brightness_model
from tests.worker.conftest import WorkerProcess, wait_until

BOUNDARY = "frontier-of-the-form"


@dataclass
class Answer:
    """What a server said."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class GatewayProcess:
    """`graticule gateway` as a child process."""

    def __init__(self, settings: Settings, log: Path) -> None:
        port = choose_ports(("gateway",), {})["gateway"]
        self.settings = settings.model_copy(update={"gateway_port": port})
        self.log = log
        self.url = f"http://127.0.0.1:{port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, until: int = 200) -> GatewayProcess:
        """Start it and wait until `/readyz` answers with the status `until`."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "graticule", "gateway"],
                env={**os.environ, **self.settings.to_env()},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(lambda: self.process.poll() is not None or self._readiness() == until, 60, "the gateway is ready")
        assert self.process.poll() is None, self.output
        return self

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, **headers)

    def post(self, path: str, body: bytes = b"", **headers: str) -> Answer:
        return self.ask("POST", path, body, **headers)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """`headers`: underscores stand for hyphens."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.url + path, body, named, method=method)
        opener = urllib.request.build_opener(NoRedirect)
        try:
            with opener.open(request, timeout=60) as answer:
                return Answer(answer.status, answer.read(), {k.lower(): v for k, v in answer.headers.items()})
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.read(), {k.lower(): v for k, v in error.headers.items()})

    def submit(self, *pictures: tuple[str, bytes], field: str = "file", **fields: str) -> Answer:
        """Send pictures in a form."""
        body, kind = form(*((field, name, data) for name, data in pictures), **fields)
        return self.post("/api/v1/jobs", body, Content_Type=kind)

    def _readiness(self) -> int:
        try:
            return self.get("/readyz").status
        except OSError:
            return 0


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def form(*files: tuple[str, str, bytes], **fields: str) -> tuple[bytes, str]:
    """A form's body and its Content-Type; each file is (field, file name, bytes)."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    for name, filename, data in files:
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n'
        parts.append(f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + data + b"\r\n")
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode(), f"multipart/form-data; boundary={BOUNDARY}"


def publish_brightness(settings: Settings, folder: Path) -> Settings:
    write_brightness_model(folder)
    Registry(Store(settings)).publish(folder)
    return settings


class Gateways:
    """Starts gateways; in the end all are gone, and none had an error of its own."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.folder = folder
        self._started: list[GatewayProcess] = []

    def start(self, **changed: object) -> GatewayProcess:
        log = self.folder / f"gateway-{len(self._started)}.log"
        gateway = GatewayProcess(self.settings.model_copy(update=changed), log)
        self._started.append(gateway)
        return gateway.start()

    def start_unready(self, settings: Settings) -> GatewayProcess:
        """A gateway of other settings, whose cluster does not answer."""
        gateway = GatewayProcess(settings, self.folder / f"gateway-{len(self._started)}.log")
        self._started.append(gateway)
        return gateway.start(until=503)

    def end(self) -> None:
        for gateway in self._started:
            gateway.kill()
            assert "Traceback" not in gateway.output, gateway.output


# -- shared by the tests of a module -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared(cluster_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A cluster in which the brightness model is published."""
    for settings in in_own_namespace(cluster_settings):
        yield publish_brightness(settings, tmp_path_factory.mktemp("shared") / "model")


@pytest.fixture(scope="module")
def gateways(shared: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateways]:
    """Starts gateways of the shared cluster."""
    made = Gateways(shared, tmp_path_factory.mktemp("gateways"))
    yield made
    made.end()


@pytest.fixture(scope="module")
def gateway(gateways: Gateways) -> GatewayProcess:
    """A gateway on loopback, without tokens."""
    return gateways.start(gateway_analyze_model="brightness")


@pytest.fixture(scope="module")
def guarded(gateways: Gateways) -> GatewayProcess:
    """A gateway that wants tokens."""
    return gateways.start(gateway_auth="on")


@pytest.fixture(scope="module")
def worker(shared: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """A worker that serves the brightness model."""
    made = WorkerProcess(shared, tmp_path_factory.mktemp("worker") / "worker.log")
    made.start()
    yield made
    made.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # In a container there is no sandbox for processes of root.
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


# -- for one test alone --------------------------------------------------------------------------------------


@pytest.fixture
def brightness(settings: Settings, tmp_path: Path) -> Settings:
    """A cluster in which the brightness model is published."""
    return publish_brightness(settings, tmp_path / "model")


@pytest.fixture
def start_gateway(brightness: Settings, tmp_path: Path) -> Iterator[Callable[..., GatewayProcess]]:
    """Starts gateways with settings of their own."""
    made = Gateways(brightness, tmp_path)
    yield made.start
    made.end()


@pytest.fixture
def start_worker(brightness: Settings, tmp_path: Path) -> Iterator[Callable[[], WorkerProcess]]:
    """Starts the worker."""
    made = WorkerProcess(brightness, tmp_path / "worker.log")

    def start() -> WorkerProcess:
        made.start()
        return made

    yield start
    made.kill()


@pytest.fixture
def visit(browser: Any, gateway: GatewayProcess) -> Iterator[Visit]:
    """A tab for the shared gateway."""
    made = Visit(browser, gateway.url)
    yield made
    made.context.close()
