"""Label tables: CSV files that say which value each output of a network stands for."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

from graticule.errors import BadInput
from graticule.manifest import LabelTable

INDEX = "index"
_HEADING = re.compile(r"(?P<quantity>[^/\[(]+)([/\[(](?P<unit>.*))?")


def read_table(path: Path, output: str) -> LabelTable:
    """Read a table with a column `Index` and a column `Quantity / unit`; `[]` stands for no unit.

    Fields are separated by `;`, `,` or tabs; with `;`, a decimal comma is understood. Rows may come in any order.
    Raises BadInput.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise _refusal(path, f"it cannot be read as text: {error}") from error
    separator = next((sign for sign in ";\t," if sign in text.partition("\n")[0]), ";")
    rows = [row for row in csv.reader(io.StringIO(text), delimiter=separator) if any(map(str.strip, row))]
    if not rows:
        raise _refusal(path, "it is empty")
    heading = [cell.strip() for cell in rows[0]]
    values = [place for place, cell in enumerate(heading) if cell and cell.lower() != INDEX]
    if len(values) != 1 or len(heading) < 2:
        raise _refusal(path, f"expected the columns 'Index' and one quantity, found {heading}")
    column = values[0]
    indices = [place for place, cell in enumerate(heading) if cell.lower() == INDEX]
    quantity, unit = split_heading(heading[column])
    found = _values(path, rows[1:], indices[0] if indices else None, column)
    return LabelTable(output=output, quantity=quantity, unit=unit, values=found)


def split_heading(heading: str) -> tuple[str, str]:
    """`Thickness / A` -> ('thickness', 'A'); `Scale / []` -> ('scale', '')."""
    match = _HEADING.fullmatch(heading)
    quantity, unit = (match["quantity"], match["unit"] or "") if match else (heading, "")
    return re.sub(r"\W+", "_", quantity.strip().lower()).strip("_"), unit.strip("[]() ")


def _values(path: Path, rows: list[list[str]], index: int | None, column: int) -> tuple[float, ...]:
    numbers: dict[int, float] = {}
    for line, row in enumerate(rows):
        try:
            place = line if index is None else int(float(row[index]))
            numbers[place] = float(row[column].strip().replace(",", "."))
        except (ValueError, IndexError) as error:
            raise _refusal(path, f"line {line + 2} is not an index and a number: {row}") from error
    if sorted(numbers) != list(range(len(rows))) or not rows:
        raise _refusal(path, f"expected each index from 0 to {max(len(rows) - 1, 0)} once")
    return tuple(numbers[place] for place in range(len(rows)))


def _refusal(path: Path, reason: str) -> BadInput:
    return BadInput(f"{path.name!r} is not a label table: {reason}.", data="No model was written.")
