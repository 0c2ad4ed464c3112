"""Reads the files of trained models with errors that people understand."""

from __future__ import annotations

from pathlib import Path

from graticule.errors import UnreadableModel

ADVICE = "Copy it again from where it was trained; graticule export inspect tells what a file is."


def read_file(path: Path) -> bytes:
    """The bytes of a file. Raises UnreadableModel, also when there are none."""
    try:
        data = path.read_bytes()
    except IsADirectoryError as error:
        raise UnreadableModel(f"{str(path)!r} is a folder, expected a file.", data="No model was written.") from error
    except OSError as error:
        raise UnreadableModel(f"Cannot read {str(path)!r}: {error.strerror}.", data="No model was written.") from error
    if not data:
        raise empty(path)
    return data


def check_file(path: Path) -> None:
    """Raise UnreadableModel unless there is a file with at least one byte."""
    try:
        size = path.stat().st_size if path.is_file() else None
        with path.open("rb"):
            pass
    except OSError as error:
        raise UnreadableModel(f"Cannot read {str(path)!r}: {error.strerror}.", data="No model was written.") from error
    if size == 0:
        raise empty(path)


def empty(path: Path) -> UnreadableModel:
    """The error for a file of 0 bytes."""
    return UnreadableModel(
        f"{path.name!r} is empty: expected a trained model, found 0 bytes.", data="No model was written.", advice=ADVICE
    )


def damaged(path: Path, expected: str, reason: str) -> UnreadableModel:
    """The error for a file that is not what its kind should be."""
    return UnreadableModel(
        f"{path.name!r} cannot be read as {expected}: {reason}.", data="No model was written.", advice=ADVICE
    )


def untrusted(path: Path, reason: str) -> UnreadableModel:
    """The error for a file that could run code of its own."""
    return UnreadableModel(
        f"{path.name!r} was not loaded, because that could run code that lies in it: {reason}.",
        data="Nothing of it was run, no model was written.",
        advice="If you trust whoever made the file, say so with --trust-source; the manifest will tell.",
    )
