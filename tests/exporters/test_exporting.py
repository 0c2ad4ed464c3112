"""The parity gate, and the export of ONNX files: what needs no training framework."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from graticule.errors import BadInput, UnreadableModel
from graticule.manifest import Quantity, SizePolicy, Task
from graticule.registry import shipped_models_dir
from graticule_exporters.conversion import convert
from graticule_exporters.draft import make_draft
from graticule_exporters.graph import serialised
from graticule_exporters.kinds import Kind, detect
from graticule_exporters.labels import read_table, split_heading
from graticule_exporters.network import Attempt, Network, Origin, Port
from graticule_exporters.parity import LIMITS
from graticule_exporters.precision import overflowing, reductions
from graticule_exporters.request import make_request
from graticule_exporters.running import runner
from graticule_exporters.sources.keras_config import hidden_code
from tests.exporters.exporting import assert_served, exported, graticule, picture, refusal, worker

pytestmark = pytest.mark.slow

FREE = ["batch", 1, "height", "width"]
TILES = shipped_models_dir() / "tile-defects"


def small_model(
    *nodes: onnx.NodeProto,
    shape: list | None = None,
    answer: list | None = None,
    opset: int = 18,
    ir_version: int = 9,
    **constants: float | np.ndarray,
) -> onnx.ModelProto:
    """A graph from `image` to `logits`; constants are float32."""
    graph = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape or FREE)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, answer or shape or FREE)],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def steep() -> onnx.ModelProto:
    """logits = 20 * (image - 0.5)."""
    return small_model(
        helper.make_node("Sub", ["image", "half"], ["centred"]),
        helper.make_node("Mul", ["centred", "twenty"], ["logits"]),
        half=0.5,
        twenty=20.0,
    )


def written(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


class Twenty(Network):
    """20 * (image - 0.5), 'converted' to whatever graphs a test hands over."""

    inputs = (Port("image", ("batch", 1, "height", "width")),)
    outputs = ("logits",)
    origin = Origin("numpy", np.__version__, {})

    def __init__(self, *graphs: onnx.ModelProto) -> None:
        self.graphs = graphs

    def run(self, feed):
        return [20 * (feed["image"] - np.float32(0.5))]

    def attempts(self, example) -> Iterator[Attempt]:
        for number, graph in enumerate(self.graphs):
            yield Attempt(f"way {number}", graph)


def wrong_elsewhere() -> onnx.ModelProto:
    """Right for pictures 256 px wide; elsewhere a logit is off by the difference in px."""
    return small_model(
        helper.make_node("Shape", ["image"], ["length"], start=3, end=4),
        helper.make_node("Cast", ["length"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["wide", "usual"], ["off"]),
        helper.make_node("Sub", ["image", "half"], ["centred"]),
        helper.make_node("Mul", ["centred", "twenty"], ["steep"]),
        helper.make_node("Add", ["steep", "off"], ["logits"]),
        half=0.5,
        twenty=20.0,
        usual=256.0,
    )


def altered(factor: float) -> onnx.ModelProto:
    model = steep()
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.float32(20 * factor), "twenty"))
    return model


def request(tmp_path: Path, **given: object):
    return make_request({"source": tmp_path / "s", "out": tmp_path / "out", "name": "m", "precision": "fp32", **given})


# -- the gate ------------------------------------------------------------------------------------------------------


def test_a_right_conversion_keeps_its_freedom(tmp_path):
    found = convert(Twenty(steep()), request(tmp_path))
    assert found.report.passed
    assert found.policy.fields()["policy"] == "multiple-of"
    assert len({case.size for case in found.report.cases}) >= 2
    assert len({case.batch for case in found.report.cases}) >= 2
    assert {case.real for case in found.report.cases} == {True, False}


@pytest.mark.parametrize("factor", [1.001, 0.5, float("nan")])
def test_an_altered_layer_does_not_pass(tmp_path, factor):
    found = convert(Twenty(altered(factor)), request(tmp_path))
    assert not found.report.passed
    assert found.report.cases[found.report.worst].faults


def test_a_conversion_that_is_right_at_one_size_only_gets_that_size(tmp_path):
    found = convert(Twenty(wrong_elsewhere()), request(tmp_path))
    assert found.report.passed
    policy = SizePolicy.model_validate(found.policy.fields())
    assert (policy.policy, policy.height, policy.width) == ("fixed", 256, 256)
    assert "agrees at 256 x 256 px only" in policy.reason
    assert [d.dim_value for d in found.model.graph.input[0].type.tensor_type.shape.dim][1:] == [1, 256, 256]


def test_a_way_that_is_right_everywhere_goes_before_one_that_is_not(tmp_path):
    found = convert(Twenty(wrong_elsewhere(), steep()), request(tmp_path))
    assert found.report.way == "way 1"
    assert found.policy.fields()["policy"] == "multiple-of"


def test_a_graph_that_answers_in_another_shape_does_not_pass(tmp_path):
    half = small_model(
        helper.make_node("AveragePool", ["image"], ["logits"], kernel_shape=[2, 2], strides=[2, 2]),
        answer=["batch", 1, "h", "w"],
    )
    found = convert(Twenty(half), request(tmp_path))
    assert not found.report.passed
    assert "other shapes" in found.report.cases[0].faults[0]


def test_one_label_that_changes_is_seen(tmp_path):
    """Differences far below the tolerance of numbers, that move the mask, do not pass."""
    tolerant = request(tmp_path, tolerance=10.0)
    found = convert(Twenty(altered(-1)), tolerant)
    assert not found.report.passed
    assert any("intersection over union" in fault for case in found.report.cases for fault in case.faults)


# -- the command ---------------------------------------------------------------------------------------------------


def test_an_onnx_file_becomes_a_folder_that_workers_serve(tmp_path, settings):
    source = written(steep(), tmp_path / "steep.onnx")
    out = tmp_path / "out"
    told = graticule(
        "export", "onnx", source, "--name", "steep", "--version", "2.1.0", "--out", out, "--class", "bright=#00ff00",
        "--threshold", "0.4", "--license", "MIT", "--push", settings=settings,
    )  # fmt: skip
    assert "steep@2.1.0 is published and in production" in told
    manifest = exported(out)
    assert manifest.postprocessing.classes[0].colour == "#00ff00"
    assert (manifest.license, manifest.postprocessing.threshold) == ("MIT", 0.4)
    assert len(manifest.provenance.source_sha256) == 64
    assert manifest.provenance.versions["onnxruntime"] == onnxruntime.__version__
    assert {path.name for path in out.iterdir()} == {"model.onnx", "manifest.yaml", "parity.json", "parity.md"}
    assert json.loads((out / "parity.json").read_text())["passed"] is True
    pixels = picture((96, 160), 1)
    with worker(settings, tmp_path / "worker.log") as client:
        assert_served(client, "steep", pixels, 1 / (1 + np.exp(-20 * (pixels / 255 - 0.5))) > 0.4)


def test_the_same_source_gives_the_same_bytes(tmp_path):
    source = written(steep(), tmp_path / "steep.onnx")
    for name in ("a", "b"):
        graticule("export", "onnx", source, "--name", "m", "--out", tmp_path / name)
    for file in ("model.onnx", "manifest.yaml", "parity.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_names_and_texts_of_the_exporter_do_not_reach_the_file(tmp_path):
    plain, chatty = steep(), steep()
    chatty.doc_string, chatty.producer_version = "made on Tuesday", "17"
    for node in chatty.graph.node:
        node.name, node.doc_string = f"call_{id(node)}", "/home/somebody/train.py, line 3"
        node.input[:] = [name.replace("centred", "tmp_8812") for name in node.input]
        node.output[:] = [name.replace("centred", "tmp_8812") for name in node.output]
    models = [convert(Twenty(model), request(tmp_path)).model for model in (plain, chatty)]
    assert serialised(models[0]) == serialised(models[1])


def test_bad_files_are_one_sentence_each(tmp_path):
    out = tmp_path / "out"
    empty = tmp_path / "empty.onnx"
    empty.touch()
    assert "is empty" in refusal("onnx", empty, out)
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(steep().SerializeToString()[:100])
    assert "is not an ONNX file, or it is damaged" in refusal("onnx", cut, out)
    assert "Cannot read" in refusal("onnx", tmp_path / "nowhere.onnx", out)
    foreign = small_model(helper.make_node("Sharpen", ["image"], ["logits"], domain="org.acme"))
    foreign.opset_import.append(helper.make_opsetid("org.acme", 1))
    assert "operators of the domain 'org.acme' (Sharpen)" in refusal("onnx", written(foreign, tmp_path / "f.onnx"), out)
    outside = steep()
    outside.graph.initializer[0].data_location = TensorProto.EXTERNAL
    outside.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")
    assert "lies in another file" in refusal("onnx", written(outside, tmp_path / "o.onnx"), out)
    quarter = small_model(
        helper.make_node("AveragePool", ["image"], ["logits"], kernel_shape=[4, 4], strides=[4, 4]),
        answer=["batch", 1, "h", "w"],
    )
    assert "one value for each of its pixels" in refusal("onnx", written(quarter, tmp_path / "q.onnx"), out)


def test_mistakes_in_the_request_are_named(tmp_path):
    source = written(steep(), tmp_path / "steep.onnx")
    out = tmp_path / "out"
    assert "1 output channel(s), 2 class(es)" in refusal("onnx", source, out, "--class", "a", "--class", "b")
    told = refusal("onnx", source, out, "--size", "big", "--precision", "fp8")
    assert "--size: expected HEIGHTxWIDTH" in told
    assert "--precision: expected one of fp32, fp16, int8, found 'fp8'" in told
    assert "standardise needs mean and std" in refusal("onnx", source, out, "--normalisation", "standardise")
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    assert "holds other files already: thesis.tex" in refusal("onnx", source, out)
    assert (out / "thesis.tex").read_text() == "years of work"


def test_a_failed_export_takes_the_old_model_away_and_keeps_the_worst_case(tmp_path):
    """A half-precision export cannot pass a tolerance of 1e-9: what an earlier export left must not stay as a model."""
    out = tmp_path / "out"
    source = TILES / "model.onnx"
    manifest = TILES / "manifest.yaml"
    graticule("export", "onnx", source, "--name", "tiles", "--manifest-from", manifest, "--out", out, "--size", "64x64")
    assert exported(out).postprocessing.threshold == 0.9
    options = ("--manifest-from", manifest, "--size", "64x64", "--precision", "fp16", "--tolerance", "1e-9")
    told = refusal("onnx", source, out, *options, code=1)
    assert "does not answer as the trained one" in told
    report = json.loads((out / "parity.json").read_text())
    assert report["passed"] is False
    with np.load(out / "worst-case.npz") as worst:
        assert np.abs(worst["trained.logits"] - worst["converted.logits"]).max() > 1e-9
        assert worst["input.image"].shape[1] == 1


def test_a_missing_framework_names_the_command_that_installs_it(tmp_path):
    if importlib.util.find_spec("tensorflow"):
        pytest.skip("TensorFlow is installed here")
    h5py = pytest.importorskip("h5py", reason="needs h5py to write the file: pip install 'graticule[formats]'")
    source = tmp_path / "m.h5"
    with h5py.File(source, "w") as file:
        file.attrs["model_config"] = '{"class_name": "Functional", "config": {"layers": []}}'
        file.attrs["keras_version"] = "2.15.0"
    told = refusal_without_data("keras", source, tmp_path / "out")
    assert 'pip install "graticule[export-keras]"' in told


def refusal_without_data(kind: str, source: Path, out: Path) -> str:
    return graticule("export", kind, source, "--name", "bad", "--out", out, code=2)


def test_inspect_tells_what_a_file_is(tmp_path):
    told = graticule("export", "inspect", TILES / "model.onnx")
    assert "ONNX" in told
    assert "image: batch x 1 x height x width" in told
    assert "graticule export onnx" in told
    found = json.loads(graticule("export", "inspect", TILES / "model.onnx", "--json"))
    assert found["outputs"] == ["logits: batch x 6 x height x width"]
    text = tmp_path / "notes.txt"
    text.write_text("no model")
    assert "of no kind that graticule knows" in graticule("export", "inspect", text, code=2)


# -- what is derived -----------------------------------------------------------------------------------------------


def test_a_softmax_at_the_end_is_left_to_the_worker(tmp_path):
    """The worker knows the background by its softmax; the graph's own must not come on top."""
    two = np.array([[[[-20.0]]], [[[20.0]]]], np.float32)

    class Probabilities(Twenty):
        outputs = ("p",)

        def run(self, feed):
            logits = feed["image"] * two.reshape(1, 2, 1, 1)
            powers = np.exp(logits - logits.max(axis=1, keepdims=True))
            return [powers / powers.sum(axis=1, keepdims=True)]

    model = small_model(
        helper.make_node("Conv", ["image", "kernel"], ["both"]),
        helper.make_node("Softmax", ["both"], ["logits"], axis=1),
        answer=["batch", 2, "height", "width"],
        kernel=two,
    )
    found = convert(Probabilities(model), request(tmp_path))
    assert found.report.passed
    assert found.draft.postprocessing.activation == "softmax"
    assert [kind.name for kind in found.draft.postprocessing.classes] == ["background", "object"]
    (answer,) = runner(found.model)({"image": np.ones((1, 1, 4, 4), np.float32)})
    assert answer[0, 1, 0, 0] == pytest.approx(20)


def test_channels_come_first_whatever_the_source_has(tmp_path):
    """batch x height x width x 3, as TensorFlow has it: the brightest channel, times 20."""
    source = small_model(
        helper.make_node("ReduceMax", ["image", "last"], ["brightest"], keepdims=1),
        helper.make_node("Sub", ["brightest", "half"], ["centred"]),
        helper.make_node("Mul", ["centred", "twenty"], ["logits"]),
        shape=["batch", "height", "width", 3],
        answer=["batch", "height", "width", 1],
        half=0.5,
        twenty=20.0,
    )
    source.graph.initializer.append(numpy_helper.from_array(np.array([3]), "last"))
    out = tmp_path / "out"
    graticule("export", "onnx", written(source, tmp_path / "s.onnx"), "--name", "m", "--out", out)
    manifest = exported(out)
    assert manifest.inputs[0].shape == ("batch", 3, "height", "width")
    assert manifest.outputs[0].shape == ("batch", 1, "height", "width")
    assert manifest.preprocessing.colour == "rgb"
    session = onnxruntime.InferenceSession(str(out / "model.onnx"))
    pixels = np.random.default_rng(1).random((2, 3, 5, 7), dtype=np.float32)
    (answer,) = session.run(None, {"image": pixels})
    np.testing.assert_allclose(answer, 20 * (pixels.max(axis=1, keepdims=True) - 0.5), atol=1e-5)


def test_flags_go_before_the_manifest_that_goes_before_the_source(tmp_path):
    partial = tmp_path / "m.yaml"
    partial.write_text("title: From the file\npostprocessing: {threshold: 0.7, minimum_area: 9}\n")
    given = request(tmp_path, manifest_from=partial, threshold=0.2)
    draft = make_draft(given, Twenty(steep()), steep())
    assert (draft.postprocessing.threshold, draft.postprocessing.minimum_area) == (0.2, 9)
    assert draft.postprocessing.activation == "sigmoid"
    assert draft.task is Task.SEMANTIC_SEGMENTATION


@pytest.mark.parametrize(
    ("heading", "expected"),
    [
        ("Thickness / A", ("thickness", "A")),
        ("Mistilt / mrad", ("mistilt", "mrad")),
        ("Scale / []", ("scale", "")),
        ("Dose rate [e/A^2]", ("dose_rate", "e/A^2")),
        ("Class", ("class", "")),
    ],
)
def test_headings_of_label_tables(heading, expected):
    assert split_heading(heading) == expected


def test_label_tables_are_read_in_any_order_and_checked(tmp_path):
    table = tmp_path / "thickness.csv"
    table.write_text("Index;Thickness / A\n2;30,5\n0;10\n1;20\n")
    found = read_table(table, "p")
    assert (found.quantity, found.unit, found.values) == ("thickness", "A", (10, 20, 30.5))
    table.write_text("Index;Thickness / A\n0;10\n2;20\n")
    with pytest.raises(BadInput, match="each index from 0 to 1 once"):
        read_table(table, "p")
    table.write_text("Index;Thickness / A\n0;thin\n")
    with pytest.raises(BadInput, match="line 2"):
        read_table(table, "p")


def test_a_quantity_is_read_with_its_range_and_unit(tmp_path):
    given = request(tmp_path, quantities=("angle=convergence_angle:15:25:mrad",))
    assert given.quantity_of("angle") == Quantity(name="convergence_angle", unit="mrad", low=15, high=25)
    assert given.quantity_of("other") is None
    with pytest.raises(BadInput, match="LOW < HIGH"):
        request(tmp_path, quantities=("angle=a:3:1",)).quantity_of("angle")


def test_code_within_a_keras_description_is_found():
    layer = {"class_name": "Conv2D", "module": "keras.layers", "config": {"activation": "relu"}}
    assert hidden_code({"config": {"layers": [layer]}}) == ""
    assert "Lambda" in hidden_code({"config": {"layers": [layer, {"class_name": "Lambda", "config": {}}]}})
    nested = {"class_name": "Wrapper", "config": {"layer": {"class_name": "Net", "module": "os.path"}}}
    assert "os.path.Net" in hidden_code({"config": {"layers": [nested]}})


def test_kinds_are_told_by_their_bytes(tmp_path):
    source = tmp_path / "model.onnx"
    source.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(20))
    assert detect(source).kind is Kind.KERAS2
    source.write_bytes(b"\x1c\x00\x00\x00TFL3" + bytes(20))
    assert detect(source).kind is Kind.TFLITE
    with pytest.raises(UnreadableModel, match="without saved_model.pb"):
        detect(tmp_path)


# -- precision -----------------------------------------------------------------------------------------------------


def test_operators_whose_numbers_are_too_large_stay_in_fp32():
    """image * 1e6 / 1e6: in half precision the middle would be infinite."""
    model = small_model(
        helper.make_node("Mul", ["image", "large"], ["huge"], name="up"),
        helper.make_node("Div", ["huge", "large"], ["again"], name="down"),
        helper.make_node("Conv", ["again", "kernel"], ["logits"], name="conv"),
        large=1e6,
        kernel=np.ones((1, 1, 3, 3)),
        answer=["batch", 1, "h", "w"],
    )
    feed = {"image": np.random.default_rng(0).random((1, 1, 16, 16), dtype=np.float32)}
    assert overflowing(model, [feed]) == ["up", "down"]
    ((words, half),) = reductions(model, "float16", [feed])
    assert "2 of 3 operators stay in fp32" in words
    np.testing.assert_allclose(runner(half)(feed)[0], runner(model)(feed)[0], rtol=3e-3)
    assert TensorProto.FLOAT16 in {tensor.data_type for tensor in half.graph.initializer}


def test_half_precision_leaves_out_what_an_operator_leaves_out():
    """A Resize to given sizes has no scales."""
    model = small_model(
        helper.make_node("Shape", ["image"], ["sizes"]),
        helper.make_node("Conv", ["image", "kernel"], ["smaller"]),
        helper.make_node("Resize", ["smaller", "", "", "sizes"], ["logits"], mode="linear"),
        kernel=np.ones((1, 1, 3, 3)) / 9,
    )
    feed = {"image": np.random.default_rng(0).random((1, 1, 16, 16), dtype=np.float32)}
    ((_, half),) = reductions(model, "float16", [feed])
    np.testing.assert_allclose(runner(half)(feed)[0], runner(model)(feed)[0], atol=2e-3)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_smaller_precision_is_gated_and_measured(tmp_path, precision):
    out, pictures = tmp_path / precision, tmp_path / "pictures"
    graticule("simulate", "tiles", "--out", pictures, "--count", "8", "--rate", "0", "--size", "128:160")
    graticule(
        "export", "onnx", TILES / "model.onnx", "--manifest-from", TILES / "manifest.yaml", "--name", "tiles",
        "--out", out, "--precision", precision, "--size", "128x128",
        "--pictures", pictures,
    )  # fmt: skip
    manifest = exported(out)
    assert manifest.precision == {"fp16": "float16", "int8": "int8"}[precision]
    assert manifest.inputs[0].type == "float32"
    size = (out / "model.onnx").stat().st_size
    assert size < 0.62 * (TILES / "model.onnx").stat().st_size
    assert manifest.provenance.parity["bytes"] == size
    assert set(manifest.provenance.parity["milliseconds"]) == {"float32", manifest.precision}
    report = json.loads((out / "parity.json").read_text())
    assert report["limits"]["mask_iou"] == LIMITS[manifest.precision].mask_iou
