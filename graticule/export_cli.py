"""The options of `graticule export`. The work is done by the exporters, which are loaded when they are asked for."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from graticule.parts import load_part

export_app = typer.Typer(
    help="Turn trained models into model folders, with a proof that they still give the same answers.",
    no_args_is_help=True,
)

KINDS = {
    "keras": "Convert a Keras model (.h5 of Keras 2, .keras of Keras 3) or a TensorFlow SavedModel.",
    "tflite": "Convert a TensorFlow Lite file.",
    "torch": "Convert TorchScript, a PyTorch exported program, or weights (.pth) with the class of their network.",
    "segformer": "Convert a SegFormer: a Hugging Face folder, or a Lightning checkpoint with its train_config.json.",
    "smp": "Convert a network of segmentation_models_pytorch: weights, a Lightning checkpoint, or a folder.",
    "onnx": "Take an ONNX file that was exported elsewhere, check and tidy it.",
}
EXAMPLES = {
    "keras": "graticule export keras unet.h5 --name voids --out models/voids --class void",
    "tflite": "graticule export tflite thickness.tflite --name thickness --out models/thickness --labels thickness.csv",
    "torch": "graticule export torch weights.pth --network network.py:UNet --name voids --out models/voids",
    "segformer": "graticule export segformer epoch=60.ckpt --name leaks --out models/leaks --class leak",
    "smp": "graticule export smp weights.pth --architecture unet --encoder resnet34 --name voids --out models/voids",
    "onnx": "graticule export onnx model.onnx --name voids --out models/voids --class background --class void",
}
FOR_TORCH = ("torch", "segformer", "smp")
ONLY_FOR = {
    "network": ("torch",),
    "network_options": ("torch", "smp"),
    "channels": ("torch",),
    "state": FOR_TORCH,
    "architecture": ("smp",),
    "encoder": ("smp", "segformer"),
}
"""Options that mean nothing elsewhere, and the kinds of source where they do."""


@export_app.command("inspect")
def _inspect(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="File or folder of a trained model.")],
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Tell what a file is, what it takes and gives, and which command converts it. Nothing in it is run.

    Example: `graticule export inspect model.h5`
    """
    raise typer.Exit(_commands().run_inspect(source, as_json=as_json))


def _export(
    kind: str,
    source: Annotated[Path, typer.Argument(help="File or folder of the trained model.")],
    name: Annotated[str, typer.Option("--name", help="Name of the model: small letters, digits, hyphens.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Model folder to write.")],
    version: Annotated[str, typer.Option("--version", help="Version of the model.")] = "1.0.0",
    manifest_from: Annotated[
        Path | None, typer.Option(help="A manifest, or part of one, to take the rest from. Options go before it.")
    ] = None,
    title: Annotated[str, typer.Option(help="One line for people.")] = "",
    description: Annotated[str, typer.Option(help="What it finds.")] = "",
    licence: Annotated[str, typer.Option("--license", help="SPDX identifier of the weights.")] = "",
    training_data: Annotated[str, typer.Option(help="What it was trained on, with the source.")] = "",
    task: Annotated[str | None, typer.Option(help="What its output means. Default: by the output's shape.")] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", help="NAME or NAME=#rrggbb of an output channel, in their order; repeatable."),
    ] = None,
    activation: Annotated[
        str | None, typer.Option(help="softmax, sigmoid, or none: probabilities already. Default: by the network.")
    ] = None,
    threshold: Annotated[float | None, typer.Option(min=0, max=1, help="Least probability of an object.")] = None,
    colour: Annotated[str | None, typer.Option(help="grey or rgb. Default: by the network.")] = None,
    normalisation: Annotated[
        str | None, typer.Option(help="scale, minmax, standardise or physical (see docs/models.md). Default: scale.")
    ] = None,
    mean: Annotated[str, typer.Option(help="Mean of each channel, e.g. 0.485,0.456,0.406.")] = "",
    std: Annotated[str, typer.Option(help="Standard deviation of each channel.")] = "",
    labels: Annotated[
        list[str] | None,
        typer.Option("--labels", help="[OUTPUT=]FILE.csv: the value that each output channel stands for; repeatable."),
    ] = None,
    quantities: Annotated[
        list[str] | None,
        typer.Option(
            "--quantity", help="INPUT=NAME:LOW:HIGH[:UNIT]: the number that fills a second input; repeatable."
        ),
    ] = None,
    size: Annotated[str | None, typer.Option(help="HEIGHTxWIDTH to export at, in px. Default: 256x256.")] = None,
    channels: Annotated[
        int | None, typer.Option(min=1, help="Channels of the picture. Default: 1 or 3, as it fits.")
    ] = None,
    network: Annotated[str, typer.Option(help="FILE.py:CLASS or MODULE:CLASS that makes the network; it is run.")] = "",
    network_options: Annotated[str, typer.Option(help="Arguments of the network's class, as JSON.")] = "",
    state: Annotated[str, typer.Option(help="Where the weights lie in the checkpoint, e.g. state_dict.")] = "",
    architecture: Annotated[
        str, typer.Option(help="e.g. unet, deeplabv3plus, pspnet. Default: train_config.json.")
    ] = "",
    encoder: Annotated[str, typer.Option(help="e.g. resnet34; of a SegFormer b0 ... b5. Default: as above.")] = "",
    pictures: Annotated[
        Path | None, typer.Option(help="Folder of pictures like those that it will see, for comparing and calibrating.")
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(min=0, help="Largest difference of a number. Default: 0.0001 in fp32.")
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32, fp16 or int8.")] = "fp32",
    trust_source: Annotated[
        bool, typer.Option("--trust-source", help="Let code within the file run; the manifest will tell.")
    ] = False,
    push: Annotated[bool, typer.Option("--push", help="Publish it.")] = False,
    promote: Annotated[bool, typer.Option(help="With --push: put it into production.")] = True,
) -> None:
    given = {
        "source": source,
        "out": out,
        "name": name,
        "version": version,
        "manifest_from": manifest_from,
        "title": title,
        "description": description,
        "license": licence,
        "training_data": training_data,
        "task": task,
        "classes": classes or [],
        "activation": activation,
        "threshold": threshold,
        "colour": colour,
        "normalisation": normalisation,
        "mean": mean,
        "std": std,
        "labels": labels or [],
        "quantities": quantities or [],
        "size": size,
        "channels": channels,
        "network": network,
        "network_options": network_options,
        "state": state,
        "architecture": architecture,
        "encoder": encoder,
        "pictures": pictures,
        "tolerance": tolerance,
        "precision": precision,
        "trust_source": trust_source,
    }
    raise typer.Exit(_commands().run_export(kind, given, push=push, promote=promote))


def _command(kind: str) -> Callable[..., None]:
    """The command of one kind of source: only the options that mean something there are shown."""

    def command(**options: Any) -> None:  # noqa: ANN401 (whatever the options are)
        _export(kind, **options)

    signature = inspect.signature(_export, eval_str=True)
    shown = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in signature.parameters.values()
        if parameter.name != "kind" and kind in ONLY_FOR.get(parameter.name, (kind,))
    ]
    command.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in shown} | {"return": None}
    command.__doc__ = (
        f"{KINDS[kind]}\n\nExit code: 0 written, 1 its answers are not those of the trained network, 2 refused."
        f"\n\nExample: `{EXAMPLES[kind]}`"
    )
    return command


for _kind in KINDS:
    export_app.command(_kind)(_command(_kind))


def _commands() -> Any:  # noqa: ANN401 (a module)
    return load_part("graticule_exporters.commands", "Exporting a model", "export")
