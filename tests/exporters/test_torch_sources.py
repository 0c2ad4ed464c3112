"""PyTorch networks with seeded random weights: converted by the command line, published, served by a real worker."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graticule_exporters import frameworks
from tests.exporters.exporting import assert_served, exported, graticule, picture, refusal, worker

torch: Any = pytest.importorskip("torch", reason="run by make test-exporters: pip install 'graticule[export-torch]'")
pytest.importorskip("transformers", reason="run by make test-exporters: pip install 'graticule[export-torch]'")
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(900)]

RECIPE = Path(__file__).parents[2] / "recipes" / "tile-defects"
Answer = Callable[[np.ndarray], np.ndarray]
"""Foreground logit of each pixel, height x width, for the network's input, channels x height x width."""


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def lively(module: Any) -> Any:
    """Random weights answer nearly the same everywhere: statistics of norms as after a training make them lively."""
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(part.running_var, 0.5, 1.5)
    return module.eval()


def foreground(module: Any) -> Answer:
    """Of two channels the lead of the second over the first, of one channel itself."""

    def answer(planes: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            logits = module(torch.from_numpy(planes[np.newaxis].astype(np.float32)))[0].numpy()
        return logits[1] - logits[0] if len(logits) == 2 else logits[0]

    return answer


def planes_of(pixels: np.ndarray) -> np.ndarray:
    """As the manifest's 'scale' feeds a picture: 0..1, channels first."""
    scaled = pixels.astype(np.float32) / 255
    return scaled[np.newaxis] if scaled.ndim == 2 else scaled.transpose(2, 0, 1)


def threshold_of(logits: np.ndarray) -> float:
    """The probability that divides the pixels in halves, so that masks of random networks say something."""
    return float(1 / (1 + np.exp(-np.median(logits))))


def convert_and_serve(
    settings,
    tmp_path: Path,
    kind: str,
    source: Path,
    answer: Answer,
    *options: object,
    size=(128, 160),
    channels=3,
    feed=planes_of,
):
    """Convert, publish and serve; the worker's mask has to be the framework's. Returns the manifest."""
    pixels = picture(size, channels)
    logits = answer(feed(pixels))
    threshold = threshold_of(logits)
    out = tmp_path / "out"
    graticule(
        "export", kind, source, "--name", "network", "--out", out, "--threshold", threshold, "--push", *options,
        settings=settings,
    )  # fmt: skip
    with worker(settings, tmp_path / "worker.log") as client:
        assert_served(client, "network", pixels, 1 / (1 + np.exp(-logits)) > threshold)
    return exported(out)


@pytest.mark.parametrize(
    ("architecture", "encoder", "policy"),
    [("unet", "resnet18", "multiple-of"), ("DeepLabV3+", "resnet18", "multiple-of"), ("pspnet", "resnet18", "fixed")],
)
def test_segmentation_models(settings, tmp_path, architecture, encoder, policy):
    smp = frameworks.segmentation_models()
    plain = architecture.lower().replace("+", "plus")
    module = lively(smp.create_model(plain, encoder_name=encoder, encoder_weights=None, classes=2))
    source = tmp_path / "weights.pth"
    torch.save(module.state_dict(), source)
    manifest = convert_and_serve(
        settings, tmp_path, "smp", source, foreground(module), "--architecture", architecture, "--encoder", encoder,
        size=(256, 256) if policy == "fixed" else (128, 160),
    )  # fmt: skip
    assert manifest.preprocessing.size.policy == policy
    assert bool(manifest.preprocessing.size.reason) == (policy == "fixed")
    assert manifest.provenance.versions["segmentation_models_pytorch"]
    assert manifest.provenance.framework_version == str(torch.__version__)
    assert not manifest.provenance.trusted_source


@pytest.mark.parametrize("encoder", ["se_resnext50_32x4d", "efficientnet-b3"])
def test_other_encoders_convert(tmp_path, encoder):
    smp = frameworks.segmentation_models()
    module = lively(smp.create_model("unet", encoder_name=encoder, encoder_weights=None, classes=1))
    source = tmp_path / "weights.pth"
    torch.save({"state_dict": {f"model.{name}": tensor for name, tensor in module.state_dict().items()}}, source)
    (tmp_path / "train_config.json").write_text(
        json.dumps({"model": "smp", "smp_arch": "Unet", "smp_encoder": encoder})
    )
    graticule("export", "smp", source, "--name", "n", "--out", tmp_path / "out", "--size", "64x64")
    assert exported(tmp_path / "out").preprocessing.size.policy == "multiple-of"


def segformer(labels: int = 1) -> Any:
    transformers = frameworks.transformers()
    return lively(transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(num_labels=labels)))


def enlarged(model: Any) -> Answer:
    """As people use it: the logits are enlarged bilinearly to the picture's size."""

    def module(pixels: Any) -> Any:
        logits = model(pixel_values=pixels).logits
        return torch.nn.functional.interpolate(logits, size=pixels.shape[-2:], mode="bilinear", align_corners=False)

    return foreground(module)


def test_a_hugging_face_folder(settings, tmp_path):
    model = segformer()
    folder = tmp_path / "segformer"
    model.save_pretrained(folder)
    processor = {"do_rescale": True, "do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.3]}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))

    def feed(pixels: np.ndarray) -> np.ndarray:
        mean, deviation = (np.array(processor[name])[:, None, None] for name in ("image_mean", "image_std"))
        return (planes_of(pixels) - mean) / deviation

    manifest = convert_and_serve(settings, tmp_path, "segformer", folder, enlarged(model), "--class", "leak", feed=feed)
    assert manifest.preprocessing.normalisation.kind == "standardise"
    assert manifest.preprocessing.normalisation.mean == (0.5, 0.4, 0.3)
    assert manifest.preprocessing.size.multiple == 32
    assert manifest.postprocessing.classes[0].name == "leak"


def test_a_lightning_checkpoint_with_its_train_config(settings, tmp_path):
    """Written by an older release of transformers, whose weights have other names; mean and std are in grey levels."""
    safetensors = pytest.importorskip("safetensors.torch")
    model = segformer()
    model.save_pretrained(tmp_path / "hf")
    state = safetensors.load_file(tmp_path / "hf" / "model.safetensors")
    assert any("segformer.encoder." in name for name in state)
    mean, deviation = [120.0, 121.0, 119.0], [60.0, 61.0, 62.0]
    source = tmp_path / "epoch=60.ckpt"
    checkpoint = {
        "state_dict": {f"model.{name}": tensor for name, tensor in state.items()},
        "hyper_parameters": {"mean": np.array(mean), "std": torch.tensor(deviation), "lr": 6e-5},
        "pytorch-lightning_version": "2.5.0",
    }
    torch.save(checkpoint, source)
    (tmp_path / "train_config.json").write_text(
        json.dumps({"model": "segformer", "config_name": "nvidia/mit-b0", "loss_fn": "tversky"})
    )

    def feed(pixels: np.ndarray) -> np.ndarray:
        planes = pixels.astype(np.float32).transpose(2, 0, 1)
        return (planes - np.array(mean)[:, None, None]) / np.array(deviation)[:, None, None]

    told = graticule("export", "inspect", source)
    assert "Lightning checkpoint of segformer" in told
    assert "graticule export segformer" in told
    manifest = convert_and_serve(settings, tmp_path, "segformer", source, enlarged(model), feed=feed)
    assert manifest.preprocessing.normalisation.kind == "physical"
    assert manifest.preprocessing.normalisation.mean == tuple(mean)
    assert manifest.preprocessing.normalisation.std == tuple(deviation)
    assert manifest.provenance.metrics["train_config"]["loss_fn"] == "tversky"


def test_the_tile_network_by_its_class(settings, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(RECIPE)
    network = __import__("network")
    module = lively(network.TileNet(2, [8, 12, 16, 24, 32]))
    source = tmp_path / "checkpoint.pt"
    torch.save({"average": module.state_dict(), "step": 3}, source)
    manifest = convert_and_serve(
        settings, tmp_path, "torch", source, foreground(module),
        "--network", f"{RECIPE / 'network.py'}:TileNet",
        "--network-options", json.dumps({"classes": 2, "widths": [8, 12, 16, 24, 32]}),
        channels=1,
    )  # fmt: skip
    assert manifest.preprocessing.colour == "grey"
    assert manifest.preprocessing.size.multiple == 32


def small_net() -> Any:
    return lively(
        torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 1, 3, padding=1))
    )


def test_torchscript_and_exported_programs_need_no_class(tmp_path):
    module = small_net()
    torch.jit.script(module).save(str(tmp_path / "script.pt"))
    free = torch.export.Dim.DYNAMIC
    program = torch.export.export(module, (torch.zeros(2, 1, 64, 64),), dynamic_shapes=({0: free, 2: free, 3: free},))
    torch.export.save(program, tmp_path / "program.pt2")
    for name in ("script.pt", "program.pt2"):
        out = tmp_path / name.partition(".")[0]
        graticule("export", "torch", tmp_path / name, "--name", "n", "--out", out, "--size", "64x64", "--channels", 1)
        assert exported(out).preprocessing.colour == "grey"


def test_the_same_weights_give_the_same_bytes(tmp_path):
    torch.jit.script(small_net()).save(str(tmp_path / "script.pt"))
    for name in ("a", "b"):
        graticule("export", "torch", tmp_path / "script.pt", "--name", "n", "--out", tmp_path / name)
    assert (tmp_path / "a" / "model.onnx").read_bytes() == (tmp_path / "b" / "model.onnx").read_bytes()


class Bomb:
    """What a pickle can do to whoever loads it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_a_pickle_bomb_does_not_go_off(tmp_path):
    mark, out = tmp_path / "it-went-off", tmp_path / "out"
    modern, old = tmp_path / "bomb.pth", tmp_path / "old.pth"
    torch.save({"state_dict": Bomb(mark)}, modern)
    old.write_bytes(pickle.dumps(Bomb(mark), protocol=2))
    for source in (modern, old):
        for kind in ("smp", "segformer", "torch"):
            told = refusal(kind, source, out)
            assert "was not loaded, because that could run code that lies in it" in told
            assert "--trust-source" in told
        assert "could run code" in graticule("export", "inspect", source)
    assert not mark.exists()


def test_a_whole_module_is_loaded_only_when_trusted(tmp_path):
    """A pickled module names its classes, which loading imports."""
    source = tmp_path / "module.pt"
    torch.save(small_net(), source)
    assert "--trust-source" in refusal("torch", source, tmp_path / "out")
    graticule("export", "torch", source, "--name", "n", "--out", tmp_path / "out", "--trust-source", "--channels", 1)
    assert exported(tmp_path / "out").provenance.trusted_source is True


def test_bad_sources_are_one_sentence_each(tmp_path):
    out = tmp_path / "out"
    good = tmp_path / "good.pth"
    torch.save(small_net().state_dict(), good)
    assert "--network network.py:MyNet" in refusal("torch", good, out)
    assert "does not say which network it is" in refusal("smp", good, out)
    named = ("--architecture", "unet", "--encoder", "resnet18")
    assert "they have no segmentation_head" in refusal("smp", good, out, *named)
    assert "no architecture 'vnet'" in refusal("smp", good, out, "--architecture", "vnet", "--encoder", "resnet18")
    assert "its weights have no part 'segformer'" in refusal("segformer", good, out)
    cut = tmp_path / "cut.pth"
    cut.write_bytes(good.read_bytes()[:500])
    assert "cannot be read as" in refusal("torch", cut, out)
    empty = tmp_path / "empty.ckpt"
    empty.touch()
    assert "is empty" in refusal("segformer", empty, out)
    code = tmp_path / "net.py"
    code.write_text("import torch\nclass Net(torch.nn.Conv2d):\n    def __init__(self): super().__init__(3, 1, 1)\n")
    assert "The weights do not fit" in refusal("torch", good, out, "--network", f"{code}:Net")
    assert "there is no file" in refusal("torch", good, out, "--network", "nowhere.py:Net")
