"""What a benchmark gives: figures with a value for each round, so that their spread can be seen."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One measured quantity."""

    group: str
    """What was measured, e.g. a model or a number of clients."""
    name: str
    unit: str
    """Empty for a ratio."""
    rounds: tuple[float, ...]
    """The value of each round; one value for what was measured once."""
    goal: str = ""
    """What it should reach, for people; nothing fails by it."""

    @property
    def median(self) -> float:
        """The middle one of the rounds."""
        return statistics.median(self.rounds)

    @property
    def lowest(self) -> float:
        """The smallest of the rounds."""
        return min(self.rounds)

    @property
    def highest(self) -> float:
        """The largest of the rounds."""
        return max(self.rounds)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "group": self.group,
            "name": self.name,
            "unit": self.unit,
            "median": self.median,
            "lowest": self.lowest,
            "highest": self.highest,
            "rounds": list(self.rounds),
            "goal": self.goal,
        }


def figure(group: str, name: str, unit: str, rounds: Iterable[float], goal: str = "") -> Figure:
    """A figure from its rounds. Raises ValueError without any."""
    values = tuple(float(value) for value in rounds)
    if not values:
        raise ValueError(f"{group}, {name}: there is no round")
    return Figure(group, name, unit, values, goal)


def ratio(group: str, name: str, above: Sequence[float], below: Sequence[float], goal: str = "") -> Figure:
    """The ratio of each round: what slows the machine down for a while slows both sides of a round."""
    return figure(group, name, "", (a / b for a, b in zip(above, below, strict=True)), goal)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of the values that at least `percent` % of them do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]
