"""The command line: what it says to a newcomer and to somebody who made a mistake."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from graticule.cli import app, parse_parameters

ROOT = Path(__file__).parents[2]


def graticule(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "graticule", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "COLUMNS": "200", **environment},
        timeout=60,
    )


def test_every_command_explains_itself():
    listing = CliRunner().invoke(app, ["--help"]).output
    commands = ["up", "down", "status", "doctor", "demo", "submit", "run", "watch", "worker", "settings", "simulate"]
    commands += ["gateway", "tokens", "dead-letters", "models"]
    for command in commands:
        assert command in listing
        helped = CliRunner().invoke(app, [command, "--help"])
        assert helped.exit_code == 0
        assert len(helped.output) > 200


def test_a_flag_of_a_setting_names_its_variable():
    text = " ".join(CliRunner().invoke(app, ["worker", "--help"]).output.split())
    for variable in ("GRATICULE_WORKER_THREADS", "GRATICULE_PROVIDER", "GRATICULE_LOG_LEVEL"):
        assert variable in text


def test_the_version_is_that_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert graticule("--version").stdout.strip() == f"graticule {project['version']}"


def test_wrong_settings_stop_a_process_with_one_message_and_no_traceback():
    answer = graticule("worker", GRATICULE_MAX_PIXELS="-3", GRATICULE_NAMESPACE="Not Good")
    assert answer.returncode == 2
    assert "GRATICULE_MAX_PIXELS" in answer.stderr
    assert "GRATICULE_NAMESPACE" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_cluster_that_does_not_answer_is_one_sentence(tmp_path):
    picture = tmp_path / "x.png"
    picture.write_bytes(b"x")
    answer = graticule(
        "submit", str(picture), "--model", "m", GRATICULE_S3_URL="http://127.0.0.1:1", GRATICULE_DATA_DIR=str(tmp_path)
    )
    assert answer.returncode == 1
    assert "http://127.0.0.1:1 does not answer" in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [(None, {}), (["threshold=0.4", "name=x y"], {"threshold": 0.4, "name": "x y"}), (["a=b=c"], {"a": "b=c"})],
)
def test_parameters_are_numbers_where_they_can_be(pairs, expected):
    assert parse_parameters(pairs) == expected
