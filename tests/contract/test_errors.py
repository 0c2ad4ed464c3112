"""The error tree is what its drawing says."""

from __future__ import annotations

import inspect
import re

from graticule import errors


def test_the_drawing_shows_every_error_under_its_parent():
    drawing = errors.__doc__ or ""
    stack: list[tuple[int, str]] = []
    drawn = {}
    for line in drawing.splitlines():
        match = re.match(r"^(?P<lead>[ │├└─]*)(?P<name>[A-Z][A-Za-z]+)\b", line)
        if match is None or not hasattr(errors, match["name"]):
            continue
        depth = len(match["lead"])
        while stack and stack[-1][0] >= depth:
            stack.pop()
        drawn[match["name"]] = stack[-1][1] if stack else "Exception"
        stack.append((depth, match["name"]))
    real = {
        name: kind.__base__.__name__
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.GraticuleError)
    }
    assert drawn == real


def test_an_error_without_words_says_what_its_class_means():
    assert str(errors.UnknownModel()) == "There is no such model."
    told = errors.StoreUnavailable("It is away.", data="Nothing is lost.", advice="Wait.")
    assert str(told) == "It is away. Nothing is lost. Wait."
    assert told.kind == "StoreUnavailable"
