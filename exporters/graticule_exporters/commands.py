"""`graticule export`: a trained model becomes a model folder with a proof, or a sentence that says why not."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.filesize import decimal

from graticule.errors import ParityFailed
from graticule.registry import Registry
from graticule.settings import load_settings
from graticule.store import Store
from graticule_exporters import folder, frameworks, report
from graticule_exporters.checking import check_model
from graticule_exporters.conversion import Conversion, convert
from graticule_exporters.inspection import inspect_source
from graticule_exporters.network import Network
from graticule_exporters.request import Request, make_request


def run_inspect(source: Path, *, as_json: bool) -> int:
    """Print what a file is. Raises UnreadableModel."""
    with frameworks.quiet():
        findings = inspect_source(source)
    if as_json:
        print(json.dumps(findings.model_dump(mode="json"), indent=2, ensure_ascii=False))  # noqa: T201
    else:
        for line in findings.lines():
            _say(line)
    return 0


def run_export(kind: str, given: dict[str, Any], *, push: bool, promote: bool) -> int:
    """Convert, prove, write, and publish if asked.

    Raises BadInput and its kinds when the source or the request is at fault, MissingPart, and ParityFailed.
    """
    request = make_request(given)
    folder.claim(request.out)
    _say(f"Reading {request.source.name} ...")
    with frameworks.quiet():
        network = open_network(kind, request)
    _say("Converting it, and comparing the answers ...")
    with frameworks.quiet():
        conversion = convert(network, request)
    if not conversion.report.passed:
        folder.write_refusal(request, network, conversion)
        raise ParityFailed(
            f"The converted model does not answer as the trained one. {report.failure(conversion.report)}",
            data=f"No model was written; the worst case and the report are in {str(request.out)!r}.",
            advice=_advice(request),
        )
    manifest = folder.write_model(request, network, conversion)
    _tell(request, conversion)
    if push:
        Registry(Store(load_settings())).publish(request.out, promote=promote, check=check_model)
        _say(f"{manifest.reference} is published{' and in production' if promote else ''}.")
    else:
        _say(f"Next: graticule models push {request.out}")
    return 0


def open_network(kind: str, request: Request) -> Network:
    """The network within a source. Raises UnreadableModel, MissingPart."""
    module = importlib.import_module(f"graticule_exporters.sources.{kind}")
    return module.open_network(request)


def _tell(request: Request, conversion: Conversion) -> None:
    size = (request.out / folder.MODEL_FILE).stat().st_size
    _say(f"{request.out}: {request.name}@{request.version}, {decimal(size)}. {report.success(conversion.report)}")
    _say(_fed(conversion))
    if conversion.policy.reason:
        _say(conversion.policy.reason)
    if conversion.speed:
        times = ", ".join(f"{name} {value:.1f} ms" for name, value in conversion.speed.items())
        _say(f"One picture of {conversion.policy.size[0]} x {conversion.policy.size[1]} px here: {times}.")


def _fed(conversion: Conversion) -> str:
    """What cannot be seen in a network and makes a model useless when it is wrong."""
    spec = conversion.draft.normalisation
    words = {
        "scale": "as 0..1",
        "minmax": "stretched to 0..1, each by its own range",
        "standardise": f"as (x - {_list(spec.mean)}) / {_list(spec.std)}, x in 0..1",
        "physical": f"as (x - {_list(spec.mean)}) / {_list(spec.std)}, x in their own units",
    }
    return f"Pictures will be fed {words[spec.kind]}. If it was trained otherwise: --normalisation, --mean, --std."


def _list(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _advice(request: Request) -> str:
    if request.precision != "float32":
        return "Export it in fp32, or give pictures like those that it will see with --pictures."
    return "Report the network if it is of a common kind; --tolerance sets another limit where you know better."


def _say(sentence: str) -> None:
    Console(markup=False, highlight=False).print(sentence, soft_wrap=True)
