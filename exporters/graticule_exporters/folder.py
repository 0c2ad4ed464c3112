"""Writes the model folder; what did not pass the gate is written so that nobody can take it for a model."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from graticule.errors import BadInput, UnreadableModel
from graticule.manifest import MANIFEST_FILE, Manifest
from graticule.outputs import clear_write_errors, write_atomically
from graticule.registry import CARD_FILE, PARITY_FILE
from graticule_exporters import graph, report
from graticule_exporters.checking import check_model
from graticule_exporters.conversion import Conversion
from graticule_exporters.draft import make_manifest
from graticule_exporters.network import Network
from graticule_exporters.request import Request
from graticule_exporters.running import runner

MODEL_FILE = "model.onnx"
PAGE_FILE = "parity.md"
WORST_FILE = "worst-case.npz"
OURS = (MODEL_FILE, MANIFEST_FILE, PARITY_FILE, PAGE_FILE, WORST_FILE)
"""What an export writes, and may replace."""
_CHUNK = 2**20


def claim(out: Path) -> None:
    """Refuse a folder that holds anything but an earlier export, before the work begins. Raises BadInput."""
    try:
        others = sorted(path.name for path in out.iterdir() if path.name not in (*OURS, CARD_FILE))
    except FileNotFoundError:
        return
    except OSError as error:
        raise BadInput(f"--out {str(out)!r} is no folder: {error.strerror}.", data="Nothing was done.") from error
    if others:
        raise BadInput(
            f"--out {str(out)!r} holds other files already: {', '.join(others[:5])}.",
            data="Nothing was written.",
            advice="Choose another folder.",
        )


def write_model(request: Request, network: Network, conversion: Conversion) -> Manifest:
    """Write model, manifest and reports. Raises InvalidManifest, GraticuleError."""
    data = graph.serialised(conversion.model)
    manifest = make_manifest(
        request,
        network,
        conversion.draft,
        conversion.model,
        size=conversion.policy.fields(),
        warm_up=conversion.policy.size,
        sha256=hashlib.sha256(data).hexdigest(),
        precision=request.precision,
        source_sha256=source_sha256(request.source),
        parity=_summary(conversion, len(data)),
    )
    check_model(manifest, data)
    with clear_write_errors(request.out):
        _clear(request.out)
        write_atomically(request.out / MODEL_FILE, data)
        _write_reports(request, network, conversion)
        # The manifest is the last: without it the folder is no model folder.
        write_atomically(request.out / MANIFEST_FILE, manifest.to_yaml().encode())
    return manifest


def write_refusal(request: Request, network: Network, conversion: Conversion) -> None:
    """Write the reports and the worst case, and take an earlier model away. Raises GraticuleError."""
    with clear_write_errors(request.out):
        _clear(request.out)
        _write_reports(request, network, conversion)
        write_atomically(request.out / WORST_FILE, _worst_case(network, conversion))


def source_sha256(source: Path) -> str:
    """SHA-256 of a file; of a folder, that of the lines `SHA-256  name` of its files, by name."""
    if source.is_file():
        return _file_sha256(source)
    lines = "".join(f"{_file_sha256(path)}  {path.relative_to(source).as_posix()}\n" for path in _files(source))
    return hashlib.sha256(lines.encode()).hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    yield from sorted(path for path in folder.rglob("*") if path.is_file())


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise UnreadableModel(f"Cannot read {str(path)!r}: {error.strerror}.") from error
    return digest.hexdigest()


def _clear(out: Path) -> None:
    for name in (MANIFEST_FILE, *OURS):
        (out / name).unlink(missing_ok=True)


def _write_reports(request: Request, network: Network, conversion: Conversion) -> None:
    facts = {
        "source": f"{request.source.name}, SHA-256 {source_sha256(request.source)}",
        "framework": f"{network.origin.framework} {network.origin.framework_version}",
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(network.origin.versions.items())),
        "converted by": conversion.report.way,
        "size policy": conversion.policy.reason,
    }
    page = report.to_markdown(conversion.report, f"{request.name} {request.version}", facts, conversion.speed)
    write_atomically(request.out / PARITY_FILE, conversion.report.to_json().encode())
    write_atomically(request.out / PAGE_FILE, page.encode())


def _summary(conversion: Conversion, size: int) -> dict[str, Any]:
    """What of the report stands in the manifest."""
    found = conversion.report
    summary: dict[str, Any] = {
        "passed": found.passed,
        "way": found.way,
        "comparisons": len(found.cases),
        "sizes": [list(one) for one in dict.fromkeys(case.size for case in found.cases)],
        "batches": sorted({case.batch for case in found.cases}),
        "max_difference": found.max_difference,
        "mean_difference": found.mean_difference,
    }
    if found.lowest_mask_iou is not None:
        summary["lowest_mask_iou"] = found.lowest_mask_iou
    if found.largest_label_changes is not None:
        summary["largest_label_changes"] = found.largest_label_changes
    if conversion.speed:
        summary["milliseconds"] = conversion.speed
        summary["bytes"] = size
    return summary


def _worst_case(network: Network, conversion: Conversion) -> bytes:
    """Inputs and both answers of the worst case: `input.NAME`, `trained.NAME`, `converted.NAME`."""
    feed = conversion.worst.feed
    arrays = {f"input.{name}": array for name, array in feed.items()}
    arrays |= {f"trained.{name}": array for name, array in zip(network.outputs, network.run(feed), strict=True)}
    try:
        answers = runner(conversion.model)(feed)
        arrays |= {f"converted.{name}": array for name, array in zip(network.outputs, answers, strict=True)}
    except Exception as error:  # the converted network may not run at all, which is what the report says
        arrays["error"] = np.array(graph.one_line(error))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()
