"""What may be published: one file, known operators, and the inputs and outputs that the manifest promises."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from graticule.errors import InvalidManifest
from graticule.manifest import MANIFEST_FILE, Manifest, read_model_folder
from graticule.registry import shipped_models_dir
from graticule_exporters.checking import NEWEST_IR_VERSION, NEWEST_OPSETS, OLDEST_OPSET, check_model
from tests.models import brightness_manifest, write_brightness_model

Change = Callable[[onnx.ModelProto], object]
FREE = ["batch", 1, "height", "width"]


@pytest.fixture
def model(tmp_path) -> onnx.ModelProto:
    """The graph of the brightness model: one input `image`, one output `logits`."""
    write_brightness_model(tmp_path)
    return onnx.load_model_from_string((tmp_path / "model.onnx").read_bytes())


def check(model: onnx.ModelProto, **changes: object) -> None:
    check_model(changed_manifest(**changes), model.SerializeToString())


def changed_manifest(**changes: object) -> Manifest:
    return Manifest.model_validate(brightness_manifest().model_dump(mode="json") | changes)


def refusal(model: onnx.ModelProto, **changes: object) -> str:
    with pytest.raises(InvalidManifest) as caught:
        check(model, **changes)
    sentence = str(caught.value)
    assert sentence.startswith("model.onnx of brightness@1.0.0 cannot be published. ")
    assert sentence.endswith(" Nothing was uploaded.")
    return sentence


def outside(name: str = "weights") -> TensorProto:
    """A tensor whose values are said to lie in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def test_good_models_pass(model):
    check(model)
    for path in shipped_models_dir().glob(f"*/{MANIFEST_FILE}"):
        check_model(*read_model_folder(path.parent))


# -- external data ------------------------------------------------------------------------------------------------


def in_an_initializer(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(outside())


def in_a_sparse_initializer(model: onnx.ModelProto) -> None:
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(outside(), indices, [1]))


def in_a_constant(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=outside()))


def in_a_branch(model: onnx.ModelProto) -> None:
    branch = helper.make_graph([], "branch", [], [], [outside()])
    model.graph.node.append(helper.make_node("If", ["c"], ["x"], then_branch=branch, else_branch=branch))


def in_a_function(model: onnx.ModelProto) -> None:
    constant = helper.make_node("Constant", [], ["y"], value=outside())
    model.functions.append(helper.make_function("own", "F", [], ["y"], [constant], [helper.make_opsetid("", 18)]))


def in_the_training_part(model: onnx.ModelProto) -> None:
    model.training_info.add().algorithm.initializer.append(outside())


@pytest.mark.parametrize(
    "hide",
    [in_an_initializer, in_a_sparse_initializer, in_a_constant, in_a_branch, in_a_function, in_the_training_part],
)
def test_values_in_another_file_are_refused_wherever_they_hide(model, hide: Change):
    hide(model)
    assert "lies in another file, '/etc/passwd'; a model must be one file" in refusal(model)


def test_of_many_tensors_elsewhere_the_first_is_named(model):
    model.graph.initializer.extend([outside("a"), outside("b"), outside("c")])
    assert "Its tensor 'a' (and 2 more) lies in another file" in refusal(model)


def test_a_location_alone_is_enough(model):
    tensor = outside()
    tensor.data_location = TensorProto.DEFAULT
    model.graph.initializer.append(tensor)
    assert "'/etc/passwd'" in refusal(model)


# -- operators ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("domain", "version", "sentence"),
    [
        ("", 99, f"opset 99 of ai.onnx; workers know {OLDEST_OPSET} to {NEWEST_OPSETS['ai.onnx']}"),
        ("ai.onnx", 99, "opset 99 of ai.onnx"),
        ("", 6, "opset 6 of ai.onnx"),
        ("ai.onnx.ml", 99, "opset 99 of ai.onnx.ml; workers know 1 to"),
        ("com.microsoft", 99, "opset 99 of com.microsoft; workers know 1 to 1"),
    ],
)
def test_unknown_opsets_are_refused(model, domain, version, sentence):
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid(domain, version))
    assert sentence in refusal(model)


def test_the_opset_of_a_function_counts(model):
    add = helper.make_node("Add", ["x", "x"], ["y"])
    model.functions.append(helper.make_function("own", "F", ["x"], ["y"], [add], [helper.make_opsetid("", 99)]))
    assert "opset 99 of ai.onnx" in refusal(model)


def test_an_unknown_file_format_is_refused(model):
    model.ir_version = 99
    assert f"IR version 99; workers know those up to {NEWEST_IR_VERSION}" in refusal(model)


def test_operators_of_unknown_domains_are_refused(model):
    for name in ("Sharpen", "Blur"):
        model.graph.node.append(helper.make_node(name, ["image"], [name], domain="com.example"))
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    assert "operators of the domain 'com.example' (Blur, Sharpen), which workers do not have" in refusal(model)


def test_operators_that_the_model_defines_itself_are_welcome(model):
    double = helper.make_function(
        "own", "Double", ["x"], ["y"], [helper.make_node("Add", ["x", "x"], ["y"])], [helper.make_opsetid("", 18)]
    )
    model.functions.append(double)
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node.append(helper.make_node("Double", ["logits"], ["twice"], domain="own"))
    check(model)


def test_operators_of_onnxruntime_are_welcome(model):
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model.graph.node.append(helper.make_node("Gelu", ["logits"], ["smooth"], domain="com.microsoft"))
    check(model)


def test_an_operator_that_onnx_does_not_have_breaks_its_rules(model):
    model.graph.node[0].op_type = "Frobnicate"
    assert "breaks the rules of ONNX: " in refusal(model)
    assert "Frobnicate" in refusal(model)


def test_shapes_that_cannot_be_computed_break_the_rules(model):
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((7, 5), np.float32), "odd"))
    model.graph.node.append(helper.make_node("MatMul", ["odd", "odd"], ["impossible"]))
    assert "breaks the rules of ONNX: " in refusal(model)


@pytest.mark.parametrize("data", [b"MZ\x90\x00 not a graph", b"<html>", b""])
def test_other_files_are_refused(data):
    with pytest.raises(InvalidManifest, match="It is not an ONNX file|It breaks the rules of ONNX"):
        check_model(brightness_manifest(), data)


@pytest.mark.parametrize("opset", [OLDEST_OPSET, NEWEST_OPSETS["ai.onnx"]])
def test_what_is_said_to_be_known_is_known_to_onnxruntime(model, opset):
    model.opset_import[0].version = opset
    model.ir_version = NEWEST_IR_VERSION
    for domain in ("ai.onnx.ml", "com.microsoft"):
        model.opset_import.append(helper.make_opsetid(domain, NEWEST_OPSETS[domain]))
    check(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    bright = np.full((1, 1, 2, 2), 0.75, np.float32)
    assert session.run(["logits"], {"image": bright})[0].tolist() == [[[[25.0, 25.0], [25.0, 25.0]]]]


# -- inputs and outputs -------------------------------------------------------------------------------------------


def tensors(name: str, shape: list[object], kind: str = "float32") -> list[dict[str, object]]:
    """A manifest's list of one input or output."""
    return [{"name": name, "shape": shape, "type": kind}]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"inputs": tensors("picture", FREE)}, "names the input 'picture'; the graph has 'image'."),
        ({"outputs": tensors("mask", FREE)}, "names the output 'mask'; the graph has 'logits'."),
        (
            {"inputs": tensors("image", ["batch", "height", "width"])},
            "'image' has the shape (batch, height, width) in the manifest, (batch, 1, height, width) in the graph.",
        ),
        (
            {"inputs": tensors("image", ["batch", 3, "height", "width"])},
            "'image' has the shape (batch, 3, height, width) in the manifest, (batch, 1, height, width) in the graph.",
        ),
        ({"outputs": tensors("logits", ["batch", 6, "height", "width"])}, "'logits' has the shape (batch, 6,"),
        ({"inputs": tensors("image", FREE, "uint8")}, "'image' is uint8 in the manifest, float32 in the graph."),
        ({"outputs": tensors("logits", FREE, "int64")}, "'logits' is int64 in the manifest, float32 in the graph."),
    ],
)
def test_a_manifest_that_promises_something_else_is_refused(model, changes, sentence):
    assert sentence in refusal(model, **changes)


def test_every_difference_is_named(model):
    sentence = refusal(
        model, inputs=tensors("image", [1, 3, 8], "uint8"), outputs=tensors("mask", ["batch", 1, "height", "width"])
    )
    for part in ("'image' is uint8", "'image' has the shape (1, 3, 8)", "the output 'mask'"):
        assert part in sentence


def test_a_graph_of_whole_numbers_is_no_graph_of_floats():
    values = [helper.make_tensor_value_info(name, TensorProto.INT32, FREE) for name in ("image", "logits")]
    node = helper.make_node("Identity", ["image"], ["logits"])
    graph = helper.make_graph([node], "whole", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    sentence = refusal(model)
    assert "The input 'image' is float32 in the manifest, int32 in the graph." in sentence
    assert "The output 'logits' is float32 in the manifest, int32 in the graph." in sentence


def test_a_sequence_is_no_tensor(model):
    model.graph.input[0].CopyFrom(helper.make_tensor_sequence_value_info("image", TensorProto.FLOAT, FREE))
    del model.graph.node[:]
    model.graph.node.append(helper.make_node("SequenceAt", ["image", "first"], ["logits"]))
    model.graph.initializer.append(numpy_helper.from_array(np.int64(0), "first"))
    assert "'image' is float32 in the manifest, no tensor in the graph." in refusal(model)


def test_a_dimension_that_the_manifest_calls_free_must_be_free(model):
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    assert "(batch, 1, height, width) in the manifest, (1, 1, height, width) in the graph" in refusal(model)


def test_a_dimension_that_the_manifest_fixes_may_be_free(model):
    check(model, inputs=tensors("image", ["batch", 1, 256, 256]), outputs=tensors("logits", ["batch", 1, 256, 256]))


def test_an_unknown_number_of_dimensions_is_refused(model):
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert "breaks the rules of ONNX: Field 'shape' of 'type' is required" in refusal(model)


def test_an_input_that_nobody_would_fill_is_refused(model):
    model.graph.input.append(helper.make_tensor_value_info("temperature", TensorProto.FLOAT, [1]))
    assert "The graph needs the input 'temperature', which the manifest does not name." in refusal(model)


def test_weights_may_be_listed_among_the_inputs(model):
    model.graph.input.append(helper.make_tensor_value_info("half", TensorProto.FLOAT, []))
    check(model)


def test_more_outputs_than_promised_do_no_harm(model):
    model.graph.output.append(helper.make_tensor_value_info("steep", TensorProto.FLOAT, FREE))
    check(model)
