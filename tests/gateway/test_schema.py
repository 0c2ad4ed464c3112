"""The interface does what its OpenAPI document says: schemathesis, with the exceptions of schemathesis.toml."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from graticule.store import Store
from graticule.tokens import Scope, TokenStore

pytest.importorskip("schemathesis", reason="schemathesis is not installed")

CONFIGURATION = Path(__file__).with_name("schemathesis.toml")


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_no_server_error_no_undocumented_status_no_body_against_its_schema(guarded, shared, worker):
    token = TokenStore(Store(shared)).create("schemathesis", frozenset({Scope.ADMIN}), timedelta(hours=1))[1]
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIGURATION), "run"]
    options = ["--max-examples", "5", "--phases", "examples,coverage,fuzzing,stateful", "--request-timeout", "60"]
    # Listening to events never ends. One thread: Python 3.11 cannot parse in several, which Hypothesis does.
    options += ["--exclude-path", "/api/v1/events", "--header", f"Authorization: Bearer {token}"]
    run = subprocess.run(
        [*command, f"{guarded.url}/openapi.json", *options], capture_output=True, text=True, timeout=150
    )
    assert run.returncode == 0, run.stdout[-6000:]
    assert worker.alive
