"""Figures that people will quote: worked out by hand."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest

from benchmarks.bare import BarePipeline
from benchmarks.cpu import CpuMeter
from benchmarks.figures import figure, percentile, ratio
from benchmarks.machine import describe
from benchmarks.models import NOOP, UNET, prepare_models
from benchmarks.peers.load import form
from benchmarks.pictures import tiles


def test_a_ratio_is_formed_within_each_round():
    """The machine became twice as slow after the first round: the ratio must not see it."""
    ours, theirs = [80.0, 40.0, 44.0], [100.0, 50.0, 50.0]

    one = ratio("tile", "ours / theirs", ours, theirs)

    assert one.rounds == (0.8, 0.8, 0.88)
    assert (one.median, one.lowest, one.highest) == (0.8, 0.8, 0.88)


def test_a_round_that_is_missing_is_noticed():
    with pytest.raises(ValueError, match="longer"):
        ratio("tile", "ours / theirs", [1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="there is no round"):
        figure("tile", "speed", "images/s", [])


@pytest.mark.parametrize(("percent", "value"), [(50, 5), (95, 10), (99, 10), (10, 1), (11, 2), (100, 10)])
def test_percentiles_are_values_that_were_measured(percent, value):
    assert percentile([10, 1, 9, 2, 8, 3, 7, 4, 6, 5], percent) == value


def test_the_machine_is_named():
    described = describe()
    assert described["cores"] >= 1
    assert described["processor"]
    assert described["packages"]["onnxruntime"]


def test_cpu_of_a_process_includes_its_children_those_that_ended_too(tmp_path):
    """A child burns half a second and ends; the parent sleeps."""
    burn = "import time\nwhile time.process_time() < 0.5: pass"
    script = (
        f"import subprocess, sys, time; subprocess.run([sys.executable, '-c', {burn!r}]);"
        "print(flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    try:
        meter = CpuMeter({"parent": parent.pid})
        assert parent.stdout
        parent.stdout.readline()
        assert 0.4 < meter.seconds()["parent"] < 5
    finally:
        parent.kill()
        parent.communicate()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return prepare_models(tmp_path_factory.mktemp("models"))


def test_the_heavier_model_is_what_the_issue_asks_for(models):
    model = onnx.load(models[UNET].folder / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert 7e6 < sum(np.prod(weight.dims) for weight in model.graph.initializer) < 9e6


def test_the_made_models_are_always_the_same_bytes(models, tmp_path):
    again = prepare_models(tmp_path / "again")
    for name in (UNET, NOOP):
        assert (again[name].folder / "model.onnx").read_bytes() == (models[name].folder / "model.onnx").read_bytes()


def test_both_ways_to_run_bare_find_the_same_few_objects(models):
    pictures = tiles(3, side=256)
    wide, narrow = BarePipeline.one_wide(models[NOOP]), BarePipeline.many_narrow(models[NOOP])

    counts = wide.counts(pictures)

    assert narrow.counts(pictures) == counts
    assert 0 < sum(counts) < 60
    assert [narrow.mask(data) for data in pictures] == [wide.mask(data) for data in pictures]


def test_the_form_of_the_load_client_is_a_form():
    """Read by the standard library's parser of multipart messages."""
    from email.parser import BytesParser

    from benchmarks.peers.load import FORM_HEADERS

    head = f"Content-Type: {FORM_HEADERS['Content-Type']}\r\n\r\n".encode()
    (part,) = BytesParser().parsebytes(head + form(b"\x89PNG\r\n\x1a\nbytes")).get_payload()
    assert part.get_param("name", header="content-disposition") == "request"
    assert part.get_filename() == "picture.png"
