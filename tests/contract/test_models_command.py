"""`graticule models`, as the person meets it who publishes a model and watches over it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import onnx
import pytest
from typer.testing import CliRunner

from graticule.cli import app, main
from graticule.manifest import MANIFEST_FILE, parse_manifest, read_model_folder
from graticule.registry import Registry
from graticule.store import Store
from tests.models import write_brightness_model

ROOT = Path(__file__).parents[2]
COMMANDS = ("push", "list", "show", "promote", "rollback", "pull", "remove")


class Answer(NamedTuple):
    """What a command left behind; its texts on one line each."""

    code: int
    out: str
    err: str


@pytest.fixture
def graticule(settings, monkeypatch, capsys):
    """The command line against the test's own cluster."""
    for name, value in settings.to_env().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["graticule", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Answer(int(ended.value.code or 0), " ".join(captured.out.split()), " ".join(captured.err.split()))

    return call


@pytest.fixture
def folder(tmp_path):
    """The brightness model with a card."""
    write_brightness_model(tmp_path / "brightness")
    (tmp_path / "brightness" / "README.md").write_text("# Brightness\n", encoding="utf-8")
    return tmp_path / "brightness"


@pytest.fixture
def registry(settings):
    return Registry(Store(settings))


@pytest.fixture
def published(graticule, folder, tmp_path):
    """Versions 1.0.0 and 2.0.0, the second in production."""
    write_brightness_model(tmp_path / "second", version="2.0.0")
    assert graticule("models", "push", folder).code == 0
    assert graticule("models", "push", tmp_path / "second").code == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_teaches_with_an_example(command):
    assert command in CliRunner().invoke(app, ["models", "--help"]).output
    helped = CliRunner().invoke(app, ["models", command, "--help"])
    assert helped.exit_code == 0
    assert f"graticule models {command} " in " ".join(helped.output.replace("│", " ").split())


def test_a_model_is_pushed_listed_and_shown(graticule, folder, settings):
    assert "No model is published yet" in graticule("models", "list").out
    assert graticule("models", "push", folder).out == "brightness@1.0.0 is published and in production."
    manifest, model = read_model_folder(folder)
    assert json.loads(graticule("models", "list", "--json").out) == [
        {
            "name": "brightness",
            "production": "1.0.0",
            "versions": ["1.0.0"],
            "task": "semantic-segmentation",
            "title": "Bright pixels",
            "size": len(model),
            "sha256": manifest.model.sha256,
        }
    ]
    listed = graticule("models", "list").out
    shown = graticule("models", "show", "brightness").out
    for word in ("brightness", "1.0.0", "semantic-segmentation", "Bright pixels", f"{len(model)} bytes"):
        assert word in listed
        assert word in shown
    for word in (
        "Inputs image: float32, batch x 1 x height x width",
        "Outputs logits: float32, batch x 1 x height x width",
        "Size policy policy multiple-of, multiple 16",
        "Normalisation kind scale Classes ■ 0 bright",
        "activation sigmoid, threshold 0.5",
        f"SHA-256 {manifest.model.sha256}",
        "framework: none",
        f"Card {settings.bucket('models')}/brightness/versions/1.0.0/README.md",
        "Versions 1.0.0 in production since 20",
    ):
        assert word in shown


def test_figures_and_provenance_are_shown(graticule, folder):
    manifest, _ = read_model_folder(folder)
    figures = {"held_out": {"dice": 0.8065, "pictures": 34}, "rate": 0.03}
    provenance = manifest.provenance.model_copy(update={"metrics": figures, "training_data": "[bold]Tiles"})
    (folder / MANIFEST_FILE).write_text(manifest.model_copy(update={"provenance": provenance}).to_yaml())
    graticule("models", "push", folder)
    shown = graticule("models", "show", "brightness").out
    assert "training_data: [bold]Tiles" in shown
    assert "Metrics held_out: dice 0.8065, pictures 34 rate: 0.03" in shown


def test_a_program_reads_what_show_knows(graticule, published, folder):
    shown = json.loads(graticule("models", "show", "brightness@1.0.0", "--json").out)
    assert shown["manifest"]["version"] == "1.0.0"
    assert shown["versions"] == ["1.0.0", "2.0.0"]
    assert shown["production"]["version"] == "2.0.0"
    assert [earlier["version"] for earlier in shown["production"]["history"]] == ["1.0.0"]
    assert shown["files"]["README.md"]["size"] == 13
    assert shown["card"].endswith("/brightness/versions/1.0.0/README.md")


def test_versions_are_promoted_and_rolled_back(graticule, folder, tmp_path, registry):
    graticule("models", "push", folder)
    for version in ("1.9.0", "1.10.0"):
        write_brightness_model(tmp_path / version, version=version)
        pushed = graticule("models", "push", tmp_path / version, "--no-promote").out
        assert f"brightness@{version} is published; 1.0.0 stays in production." in pushed
    assert registry.production("brightness") == "1.0.0"
    promoted = graticule("models", "promote", "brightness@1.10.0")
    assert "version 1.10.0 is in production. Before: 1.0.0." in promoted.out
    shown = graticule("models", "show", "brightness").out
    assert "Versions 1.0.0 1.9.0 1.10.0 in production since" in shown
    assert "Before 1.0.0 since" in shown
    assert "version 1.0.0 is in production." in graticule("models", "rollback", "brightness").out
    assert registry.production("brightness") == "1.0.0"
    again = graticule("models", "rollback", "brightness")
    assert (again.code, again.out) == (2, "")
    assert "brightness has no earlier version to go back to. 1.0.0 stays in production." in again.err


def test_a_model_without_a_version_in_production_is_listed(graticule, folder):
    pushed = graticule("models", "push", folder, "--no-promote").out
    assert "no version is in production yet. Next: graticule models promote brightness@1.0.0" in pushed
    assert "brightness │ none │ 1 │ semantic-segmentation" in graticule("models", "list").out
    assert "No version of 'brightness' is in production" in graticule("models", "show", "brightness").err
    assert "Versions 1.0.0" in graticule("models", "show", "brightness@1.0.0").out


@pytest.mark.parametrize("arguments", [("show", "Nope"), ("promote", "a/b@1"), ("pull", "../x"), ("remove", "x@..")])
def test_an_impossible_name_is_an_unknown_model(graticule, arguments):
    command, reference = arguments
    answer = graticule("models", command, reference)
    assert answer.code == 2
    assert f"There is no model {reference!r}; no model is published yet." in answer.err


def test_promote_asks_for_the_version(graticule, published):
    answer = graticule("models", "promote", "brightness")
    assert answer.code == 2
    assert "Which version of brightness? Nothing was changed." in answer.err


def test_a_pulled_folder_is_the_pushed_one_and_can_be_pushed_again(graticule, published, folder, tmp_path, monkeypatch):
    assert graticule("models", "pull", "brightness@1.0.0", "--out", tmp_path / "copy" / "here").code == 0
    copy = tmp_path / "copy" / "here"
    assert read_model_folder(copy) == read_model_folder(folder)
    assert (copy / "README.md").read_bytes() == (folder / "README.md").read_bytes()
    assert {path.name for path in copy.iterdir()} == {"model.onnx", MANIFEST_FILE, "README.md"}
    assert "brightness@1.0.0 is published; 2.0.0 stays" in graticule("models", "push", copy, "--no-promote").out
    assert graticule("models", "pull", "brightness@1.0.0", "--out", copy).code == 0, "the same contents may be there"
    monkeypatch.chdir(tmp_path / "copy")
    graticule("models", "pull", "brightness")
    assert read_model_folder(tmp_path / "copy" / "brightness")[0].version == "2.0.0"


def test_pull_overwrites_nothing(graticule, published, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.onnx").write_bytes(b"months of work")
    answer = graticule("models", "pull", "brightness", "--out", tmp_path / "mine")
    assert answer.code == 2
    assert "holds other contents already: model.onnx. Nothing was written." in answer.err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["model.onnx"]
    assert (tmp_path / "mine" / "model.onnx").read_bytes() == b"months of work"
    taken = graticule("models", "pull", "brightness", "--out", tmp_path / "mine" / "model.onnx")
    assert taken.code == 1
    assert "Cannot write" in taken.err


def test_a_damaged_model_is_not_pulled(graticule, published, registry, tmp_path):
    registry.store.put("models", "brightness/versions/2.0.0/model.onnx", b"damaged", "x/y")
    answer = graticule("models", "pull", "brightness", "--out", tmp_path / "out")
    assert answer.code == 2
    assert "expected SHA-256" in answer.err
    assert not (tmp_path / "out").exists()


def test_a_version_is_removed_only_on_purpose(graticule, published, registry):
    unasked = graticule("models", "remove", "brightness@1.0.0")
    assert unasked.code == 2
    assert "Nobody can be asked here. Nothing was removed. Give --yes" in unasked.err
    in_production = graticule("models", "remove", "brightness@2.0.0", "--yes")
    assert in_production.code == 2
    assert "brightness@2.0.0 is in production. It was not removed." in in_production.err
    for unclear in (("brightness", "--yes"), ("brightness@1.0.0", "--all", "--yes")):
        assert "Name either one version" in graticule("models", "remove", *unclear).err
    assert registry.versions("brightness") == ["1.0.0", "2.0.0"]
    assert graticule("models", "remove", "brightness@1.0.0", "--yes").out == "brightness@1.0.0 is removed."
    assert registry.versions("brightness") == ["2.0.0"]
    everything = graticule("models", "remove", "brightness", "--all", "--yes")
    assert everything.out == "brightness with all its versions is removed."
    assert registry.published_names() == []


@pytest.mark.skipif(sys.platform == "win32", reason="a terminal is imitated")
@pytest.mark.parametrize(("typed", "left", "code"), [(b"n\n", ["1.0.0", "2.0.0"], 1), (b"y\n", ["2.0.0"], 0)])
def test_a_person_at_a_terminal_is_asked(published, registry, typed, left, code):
    ours, theirs = os.openpty()
    os.write(ours, typed)
    asked = subprocess.run(
        [sys.executable, "-m", "graticule", "models", "remove", "brightness@1.0.0"],
        stdin=theirs,
        capture_output=True,
        timeout=60,
    )
    os.close(ours)
    os.close(theirs)
    assert b"Remove brightness@1.0.0? Jobs that ask for it will fail." in asked.stdout
    assert (asked.returncode, registry.versions("brightness")) == (code, left)


def test_push_refuses_what_workers_cannot_run(graticule, folder, registry):
    manifest, model = read_model_folder(folder)
    graph = onnx.load_model_from_string(model)
    half = next(tensor for tensor in graph.graph.initializer if tensor.name == "half")
    half.ClearField("raw_data")
    half.data_location = onnx.TensorProto.EXTERNAL
    half.external_data.add(key="location", value="/etc/passwd")
    graph.opset_import[0].version = 99
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
    unpinned = graticule("models", "push", folder)
    assert unpinned.code == 2
    assert "is not the file its manifest names: expected SHA-256" in unpinned.err
    _pin(folder, manifest)
    answer = graticule("models", "push", folder)
    assert answer.code == 2
    assert "lies in another file, '/etc/passwd'" in answer.err
    assert "It uses opset 99 of ai.onnx" in answer.err
    assert "Nothing was uploaded." in answer.err
    assert registry.store.keys("models") == []


def test_push_names_the_part_that_it_lacks(graticule, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "graticule_exporters.checking", raising=False)
    answer = graticule("models", "push", folder)
    assert answer.code == 2
    assert "needs the Python package 'onnx'" in answer.err
    assert 'pip install "graticule[export]"' in answer.err


def test_the_manifest_in_the_documentation_is_one():
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    example = text.partition("```yaml\n")[2].partition("```")[0]
    assert parse_manifest(example).reference == "tile-defects@1.0.0"


def _pin(folder, manifest):
    """Write the manifest anew for the ONNX file that lies in the folder."""
    sha256 = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    file = manifest.model.model_copy(update={"sha256": sha256})
    (folder / MANIFEST_FILE).write_text(manifest.model_copy(update={"model": file}).to_yaml(), encoding="utf-8")
