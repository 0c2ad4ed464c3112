"""Nothing that graticule runs reports to its maker."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def files_after(statement: str, home: Path) -> list[Path]:
    """What importing something leaves in an empty home folder."""
    environment = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    subprocess.run([sys.executable, "-c", statement], env=environment, check=True, timeout=60)
    return [path for path in home.rglob("*") if path.is_file()]


def test_onnxruntime_leaves_no_identifier_in_the_home_folder(tmp_path):
    assert files_after("import graticule_workers.service", tmp_path) == []


def test_recipes_send_no_analytics():
    for configuration in ROOT.glob("recipes/*/.dvc/config"):
        assert "analytics = false" in configuration.read_text(encoding="utf-8")
