"""The compose files, read as a container engine would, so that their services can be run as plain processes."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
MAIN = ROOT / "docker-compose.yml"
_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\})")


class _Loader(yaml.SafeLoader):
    """YAML with compose's own tags."""


class Override(dict[str, Any]):
    """A mapping that takes the place of the one it is merged into."""


class OverrideList(list[Any]):
    """A list that takes the place of the one it is merged into."""


def _override(loader: yaml.SafeLoader, node: yaml.Node) -> object:
    if isinstance(node, yaml.MappingNode):
        return Override(loader.construct_mapping(node, deep=True))
    return OverrideList(loader.construct_sequence(node, deep=True))  # type: ignore[arg-type]


_Loader.add_constructor("!override", _override)


def read(path: Path) -> dict[str, Any]:
    return yaml.load(path.read_text(encoding="utf-8"), _Loader)


def interpolated(value: Any, variables: dict[str, str] | None = None) -> Any:
    """`${NAME:-default}` and `$$`, everywhere in a value."""
    if isinstance(value, dict):
        return {key: interpolated(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolated(item, variables) for item in value]
    if not isinstance(value, str):
        return value
    known = variables or {}
    return _VARIABLE.sub(lambda m: "$" if m[0] == "$$" else known.get(m["name"]) or m["default"] or "", value)


def services(*paths: Path, variables: dict[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """The services of some files, later files over earlier ones."""
    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        for name, service in read(path)["services"].items():
            found[name] = _merged(found.get(name, {}), service)
    return interpolated(found, variables)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        if isinstance(value, dict) and not isinstance(value, Override) and isinstance(below.get(key), dict):
            result[key] = _merged(below[key], value)
        elif isinstance(value, OverrideList):
            result[key] = list(value)
        elif key in ("ports", "configs", "secrets", "networks", "volumes") and isinstance(value, list):
            result[key] = [*below.get(key, []), *(item for item in value if item not in below.get(key, []))]
        else:
            result[key] = value
    return result


def secret_targets(service: dict[str, Any]) -> dict[str, str]:
    """Name below /run/secrets -> name of the secret."""
    return dict(_secret(entry) for entry in service.get("secrets", []))


def _secret(entry: str | dict[str, str]) -> tuple[str, str]:
    return (entry, entry) if isinstance(entry, str) else (entry["target"], entry["source"])


@dataclass
class Place:
    """Where a service runs when there is no container: a folder, and what its addresses and paths become."""

    folder: Path
    secrets: Path
    replace: dict[str, str] = field(default_factory=dict)

    def mount(self, service: dict[str, Any]) -> Path:
        """The service's /run/secrets: what it was given, and nothing else."""
        mounted = self.folder / "run-secrets"
        shutil.rmtree(mounted, ignore_errors=True)
        mounted.mkdir(parents=True)
        for target, source in secret_targets(service).items():
            # Redis does not read its file if it is a symbolic link to elsewhere; addresses differ, too.
            (mounted / target).write_text(self.here((self.secrets / source).read_text()))
        return mounted

    def here(self, text: str) -> str:
        if text == "/data":
            return str(self.folder / "data")
        for old, new in {"/run/secrets": str(self.folder / "run-secrets"), **self.replace}.items():
            text = text.replace(old, new)
        return text


def environment(service: dict[str, Any], place: Place) -> dict[str, str]:
    """The environment of a container: nothing of ours but what Python needs to find the code."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "OMP_NUM_THREADS", "HOME") if name in os.environ}
    given = {name: place.here(str(value)) for name, value in service.get("environment", {}).items()}
    return {**kept, "GRATICULE_DATA_DIR": "/nonexistent", **given}


def command(service: dict[str, Any], place: Place) -> list[str]:
    """What the container runs; `graticule` and `celery` are those of this Python."""
    built = "graticule" if (service.get("build") or {}).get("target") in ("gateway", "worker") else ""
    words = [*service.get("entrypoint", [built] if built else []), *service.get("command", [])]
    return ours([place.here(word) for word in words])


def health_check(service: dict[str, Any], place: Place) -> list[str]:
    kind, *words = service["healthcheck"]["test"]
    words = [place.here(word) for word in words]
    return ["sh", "-c", *words] if kind == "CMD-SHELL" else ours(words)


def ours(words: list[str]) -> list[str]:
    if words[0] == "graticule":
        return [sys.executable, "-m", "graticule", *words[1:]]
    if words[0] == "python":
        return [sys.executable, *words[1:]]
    if words[0] == "sh":
        return [*words[:-1], re.sub(r"\bexec celery\b", f"exec {shlex.quote(sys.executable)} -m celery", words[-1])]
    return words
