"""Keras and TensorFlow Lite networks with seeded random weights: converted by the command line, published, served."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from graticule.registry import Registry
from graticule.store import Store
from tests.exporters.exporting import assert_served, exported, graticule, picture, refusal, worker

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(900)]

STEPS = 20


@pytest.fixture(scope="module")
def tensorflow() -> Any:
    pytest.importorskip("tensorflow", reason="run by make test-exporters: pip install 'graticule[export-keras]'")
    from graticule_exporters import frameworks

    return frameworks.tensorflow()


@pytest.fixture(scope="module", params=["tf_keras", "keras"])
def any_keras(request, tensorflow) -> Any:
    return _keras(request.param)


@pytest.fixture(scope="module")
def keras2(tensorflow) -> Any:
    return _keras("tf_keras")


@pytest.fixture(scope="module")
def keras3(tensorflow) -> Any:
    return _keras("keras")


def _keras(name: str) -> Any:
    module = pytest.importorskip(name)
    module.utils.set_random_seed(0)
    return module


def unet(keras: Any, side: int | None = None) -> Any:
    """Three levels, transposed convolution, batch norms, bilinear enlargement, a sigmoid at the end."""
    layers = keras.layers
    image = layers.Input((side, side, 1), name="image")
    first = layers.Conv2D(8, 3, padding="same", activation="relu")(image)
    second = layers.Conv2D(16, 3, padding="same")(layers.MaxPooling2D()(first))
    second = layers.ReLU()(layers.BatchNormalization()(second))
    third = layers.Conv2D(32, 3, padding="same", activation="relu")(layers.MaxPooling2D()(second))
    up = layers.Conv2DTranspose(16, 2, strides=2, padding="same")(third)
    up = layers.Conv2D(16, 3, padding="same", activation="relu")(layers.Concatenate()([up, second]))
    up = layers.Concatenate()([layers.UpSampling2D(interpolation="bilinear")(up), first])
    mask = layers.Conv2D(1, 1, activation="sigmoid", name="mask", kernel_initializer="random_normal")(up)
    return keras.Model(image, mask)


def classifier(keras: Any) -> Any:
    """Two inputs, as networks for PACBED patterns have them: a pattern, and the convergence angle as 0..1."""
    layers = keras.layers
    pattern = layers.Input((64, 64, 3), name="pattern")
    angle = layers.Input((1,), name="angle")
    x = layers.Conv2D(8, 3, strides=2, activation="relu")(pattern)
    x = layers.SeparableConv2D(16, 3, strides=2, activation="relu")(x)
    x = layers.Dropout(0.3)(layers.Dense(32, activation="relu")(layers.GlobalAveragePooling2D()(x)))
    x = layers.Concatenate()([x, angle])
    return keras.Model([pattern, angle], layers.Dense(STEPS, activation="softmax", name="thickness")(x))


def probabilities(model: Any, pixels: np.ndarray) -> np.ndarray:
    """The model's own answer to a grey picture, height x width."""
    return np.asarray(model((pixels.astype(np.float32) / 255)[np.newaxis, ..., np.newaxis], training=False))[0, ..., 0]


def serve(settings, tmp_path: Path, kind: str, source: Path, model: Any, size=(96, 160)):
    pixels = picture(size, 1)
    expected = probabilities(model, pixels)
    threshold = float(np.median(expected))
    out = tmp_path / "out"
    graticule(
        "export", kind, source, "--name", "voids", "--out", out, "--class", "void", "--threshold", threshold, "--push",
        settings=settings,
    )  # fmt: skip
    with worker(settings, tmp_path / "worker.log") as client:
        assert_served(client, "voids", pixels, expected > threshold)
    return exported(out)


def table(path: Path) -> Path:
    rows = "\n".join(f"{10 * number};{number}" for number in range(STEPS))
    path.write_text(f"Thickness / A;Index\n{rows}\n")
    return path


def export_classifier(kind: str, source: Path, folder: Path, out: Path, *options: object, settings=None):
    graticule(
        "export", kind, source, "--name", "thickness", "--out", out, "--labels", table(folder / "thickness.csv"),
        "--quantity", "angle=convergence_angle:15:25:mrad", "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5", *options,
        settings=settings,
    )  # fmt: skip
    return exported(out)


def test_a_keras_2_unet(settings, tmp_path, keras2):
    model = unet(keras2)
    model.save(tmp_path / "unet.h5")
    manifest = serve(settings, tmp_path, "keras", tmp_path / "unet.h5", model)
    assert (manifest.preprocessing.size.policy, manifest.preprocessing.size.multiple) == ("multiple-of", 4)
    assert manifest.inputs[0].shape == ("batch", 1, "height", "width")
    assert manifest.postprocessing.activation == "none"
    assert manifest.provenance.framework == "keras"
    assert manifest.provenance.framework_version.startswith("2.")


def test_a_keras_3_unet(settings, tmp_path, keras3):
    """Its enlargement cannot be traced for a free size: the policy is fixed and says why."""
    model = unet(keras3)
    model.save(tmp_path / "unet.keras")
    manifest = serve(settings, tmp_path, "keras", tmp_path / "unet.keras", model, size=(256, 256))
    assert manifest.preprocessing.size.policy == "fixed"
    assert "agrees at 256 x 256 px only" in manifest.preprocessing.size.reason


def test_a_saved_model(settings, tmp_path, keras2):
    model = unet(keras2)
    model.save(tmp_path / "unet", save_format="tf")
    manifest = serve(settings, tmp_path, "keras", tmp_path / "unet", model)
    assert manifest.preprocessing.size.multiple == 4


def test_a_tflite_unet(settings, tmp_path, tensorflow, keras3):
    model = unet(keras3, 64)
    (tmp_path / "unet.tflite").write_bytes(tensorflow.lite.TFLiteConverter.from_keras_model(model).convert())
    manifest = serve(settings, tmp_path, "tflite", tmp_path / "unet.tflite", model, size=(64, 64))
    assert manifest.preprocessing.size.tile == (64, 64)


def test_a_classifier_with_two_inputs(settings, tmp_path, tensorflow, any_keras):
    """As .h5 or .keras, and as TensorFlow Lite: published, and what was published answers as the network does."""
    model = classifier(any_keras)
    source = tmp_path / ("net.h5" if any_keras.__name__ == "tf_keras" else "net.keras")
    model.save(source)
    lite = tmp_path / "net.tflite"
    lite.write_bytes(tensorflow.lite.TFLiteConverter.from_keras_model(model).convert())
    chance = np.random.default_rng(3)
    pattern = chance.random((4, 3, 64, 64), dtype=np.float32) * 2 - 1
    angle = chance.random((4, 1), dtype=np.float32)
    expected = np.asarray(model([pattern.transpose(0, 2, 3, 1), angle], training=False))
    for kind, path in (("keras", source), ("tflite", lite)):
        version = {"keras": "1.0.0", "tflite": "1.0.1"}[kind]
        out = tmp_path / kind
        manifest = export_classifier(kind, path, tmp_path, out, "--push", "--version", version, settings=settings)
        assert manifest.task == "label-distribution"
        assert [tensor.name for tensor in manifest.inputs] == ["pattern", "angle"]
        quantity = manifest.inputs[1].quantity
        assert quantity is not None
        assert (quantity.name, quantity.low, quantity.high, quantity.unit) == ("convergence_angle", 15, 25, "mrad")
        (labels,) = manifest.postprocessing.labels
        assert (labels.quantity, labels.unit, len(labels.values), labels.values[3]) == ("thickness", "A", STEPS, 30)
        published = Registry(Store(settings)).resolve(f"thickness@{version}")
        model_bytes = Registry(Store(settings)).download(published)["model.onnx"]
        (found,) = onnxruntime.InferenceSession(model_bytes).run(None, {"pattern": pattern, "angle": angle})
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_same_file_gives_the_same_bytes(tmp_path, keras2):
    unet(keras2).save(tmp_path / "unet.h5")
    for name in ("a", "b"):
        graticule("export", "keras", tmp_path / "unet.h5", "--name", "m", "--out", tmp_path / name)
    assert (tmp_path / "a" / "model.onnx").read_bytes() == (tmp_path / "b" / "model.onnx").read_bytes()


def test_bad_keras_files_are_one_sentence_each(tmp_path, keras2):
    out = tmp_path / "out"
    whole = tmp_path / "unet.h5"
    unet(keras2).save(whole)
    cut = tmp_path / "cut.h5"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert "cannot be read as a Keras .h5 file" in refusal("keras", cut, out)
    empty = tmp_path / "empty.h5"
    empty.touch()
    assert "is empty: expected a trained model, found 0 bytes" in refusal("keras", empty, out)
    weights = tmp_path / "only.weights.h5"
    unet(keras2).save_weights(weights)
    assert "holds weights only" in refusal("keras", weights, out)
    table = tmp_path / "bad.csv"
    table.write_text("Index;Thickness / A\n0;1\n")
    assert "graticule export inspect" in refusal("tflite", whole, out)


def test_a_layer_that_keras_does_not_have_is_named(tmp_path, keras2, keras3):
    for keras, name in ((keras2, "own.h5"), (keras3, "own.keras")):

        class Sharpen(keras.layers.Layer):
            def call(self, x):
                return x * 2

        image = keras.layers.Input((32, 32, 1))
        keras.Model(image, Sharpen()(image)).save(tmp_path / name)
        told = refusal("keras", tmp_path / name, tmp_path / "out")
        assert "Sharpen" in told


def test_a_lambda_is_not_run_unless_it_is_trusted(tmp_path, keras2, keras3):
    out = tmp_path / "out"
    for keras, name in ((keras2, "code.h5"), (keras3, "code.keras")):
        image = keras.layers.Input((32, 32, 1))
        keras.Model(image, keras.layers.Lambda(lambda x: x * 2)(image)).save(tmp_path / name)
        told = refusal("keras", tmp_path / name, out)
        assert "a Lambda layer" in told
        assert "--trust-source" in told
        assert "--trust-source" in graticule("export", "inspect", tmp_path / name)
    trusted = tmp_path / "trusted"
    graticule("export", "keras", tmp_path / "code.h5", "--name", "m", "--out", trusted, "--trust-source")
    assert exported(trusted).provenance.trusted_source is True


def test_a_saved_model_that_reaches_out_is_not_loaded(tmp_path, tensorflow):
    class Leak(tensorflow.Module):
        @tensorflow.function(input_signature=[tensorflow.TensorSpec([None, 8, 8, 1], tensorflow.float32)])
        def __call__(self, image):
            tensorflow.io.write_file(str(tmp_path / "leaked"), "x")
            return image

    module = Leak()
    tensorflow.saved_model.save(module, str(tmp_path / "leak"), signatures=module.__call__)
    told = refusal("keras", tmp_path / "leak", tmp_path / "out")
    assert "reach out of the network (WriteFile)" in told
    assert not (tmp_path / "leaked").exists()


def test_tflite_with_operators_that_are_not_its_own(tmp_path, tensorflow, keras3):
    """TensorFlow's own Erfinv has no counterpart; the converter leaves it to an extension that nobody has."""

    @tensorflow.function(input_signature=[tensorflow.TensorSpec([1, 8, 8, 1], tensorflow.float32)])
    def network(image):
        return tensorflow.math.erfinv(image)

    converter = tensorflow.lite.TFLiteConverter.from_concrete_functions([network.get_concrete_function()])
    converter.target_spec.supported_ops = [tensorflow.lite.OpsSet.TFLITE_BUILTINS]
    converter.allow_custom_ops = True
    (tmp_path / "own.tflite").write_bytes(converter.convert())
    told = refusal("tflite", tmp_path / "own.tflite", tmp_path / "out")
    assert "Erfinv" in told
    cut = tmp_path / "cut.tflite"
    cut.write_bytes((tmp_path / "own.tflite").read_bytes()[:40])
    assert "cannot be read as a TensorFlow Lite file" in refusal("tflite", cut, tmp_path / "out")


def test_inspect_tells_inputs_without_running_anything(tmp_path, keras3):
    classifier(keras3).save(tmp_path / "net.keras")
    found = json.loads(graticule("export", "inspect", tmp_path / "net.keras", "--json"))
    assert found["inputs"] == ["pattern: ? x 64 x 64 x 3", "angle: ? x 1"]
    assert found["command"].startswith("graticule export keras")
