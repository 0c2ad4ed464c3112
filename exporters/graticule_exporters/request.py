"""What the person who exports a model asked for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError

from graticule.errors import BadInput
from graticule.jobs import Message
from graticule.manifest import LabelTable, Quantity
from graticule_exporters.labels import read_table
from graticule_exporters.network import Size
from graticule_exporters.parity import Precision

_PRECISIONS = {"fp32": "float32", "fp16": "float16", "int8": "int8"}
_SIZE = re.compile(r"(\d+)\s*[x×]\s*(\d+)")


def _size(text: object) -> object:
    if not isinstance(text, str):
        return text
    match = _SIZE.fullmatch(text.strip())
    if match is None or not (int(match[1]) and int(match[2])):
        raise ValueError(f"expected HEIGHTxWIDTH in pixels, e.g. 256x256, found {text!r}")
    return int(match[1]), int(match[2])


def _numbers(text: object) -> object:
    return tuple(float(part) for part in text.split(",")) if isinstance(text, str) and text else text or ()


def _options(text: object) -> object:
    found = json.loads(text) if isinstance(text, str) and text else text or {}
    if not isinstance(found, dict):
        raise ValueError(f"expected a JSON object, found {text!r}")
    return found


def _precision(text: object) -> object:
    if text not in _PRECISIONS:
        raise ValueError(f"expected one of {', '.join(_PRECISIONS)}, found {text!r}")
    return _PRECISIONS[str(text)]


class Request(Message):
    """One conversion. What is empty or None is left to the source, and after that to the defaults."""

    source: Path
    out: Path
    name: str
    version: str = "1.0.0"
    title: str = ""
    description: str = ""
    license: str = ""
    training_data: str = ""
    manifest_from: Path | None = None
    task: str | None = None
    classes: tuple[str, ...] = Field(default=(), description="`name` or `name=#rrggbb`, background first.")
    activation: str | None = None
    threshold: float | None = None
    colour: str | None = None
    normalisation: str | None = None
    mean: Annotated[tuple[float, ...], BeforeValidator(_numbers)] = ()
    std: Annotated[tuple[float, ...], BeforeValidator(_numbers)] = ()
    labels: tuple[str, ...] = Field(default=(), description="`FILE.csv`, or `OUTPUT=FILE.csv` where there are several.")
    quantities: tuple[str, ...] = Field(default=(), description="`INPUT=NAME:LOW:HIGH[:UNIT]`.")
    size: Annotated[Size | None, BeforeValidator(_size)] = None
    channels: int | None = Field(default=None, gt=0)
    pictures: Path | None = None
    tolerance: float | None = Field(default=None, gt=0)
    precision: Annotated[Precision, BeforeValidator(_precision)] = "float32"
    trust_source: bool = False
    network: str = ""
    network_options: Annotated[dict[str, Any], BeforeValidator(_options)] = Field(default_factory=dict)
    state: str = ""
    architecture: str = ""
    encoder: str = ""

    def label_tables(self, outputs: tuple[str, ...]) -> tuple[LabelTable, ...]:
        """The tables of the CSV files. Raises BadInput."""
        tables = []
        for place, text in enumerate(self.labels):
            output, equals, path = text.rpartition("=")
            if not equals and place >= len(outputs):
                raise BadInput(
                    f"There are more --labels than outputs ({', '.join(outputs)}).", data="Nothing was done."
                )
            tables.append(read_table(Path(path), output if equals else outputs[place]))
        return tuple(tables)

    def quantity_of(self, name: str) -> Quantity | None:
        """What fills the input of that name, if the request says so. Raises BadInput."""
        for text in self.quantities:
            found, equals, rest = text.partition("=")
            if found == name and equals:
                return _quantity(text, rest)
        return None


def make_request(given: dict[str, Any]) -> Request:
    """The command line's options, checked. Raises BadInput that names every mistake."""
    try:
        return Request.model_validate(given)
    except ValidationError as error:
        mistakes = (
            f"--{'-'.join(map(str, e['loc'][:1])).replace('_', '-')}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors(include_url=False)
        )
        raise BadInput(f"{'; '.join(mistakes)}.", data="Nothing was done.") from error


def _quantity(text: str, rest: str) -> Quantity:
    name, *numbers = rest.split(":")
    try:
        low, high, *unit = numbers
        return Quantity(name=name, low=float(low), high=float(high), unit=unit[0] if unit else "")
    except (ValueError, ValidationError) as error:
        raise BadInput(
            f"--quantity: expected INPUT=NAME:LOW:HIGH[:UNIT] with LOW < HIGH, found {text!r}.",
            data="Nothing was done.",
        ) from error
