"""Which sizes of picture a network takes: found by asking it, not by reading it."""

from __future__ import annotations

import math

import numpy as np

from graticule.errors import ConversionFailed
from graticule_exporters.network import Feed, Network, Port, Size

USUAL = 256
"""Pixels: the side that a network of free size is exported at when nobody names another."""
MULTIPLES = (1, 2, 4, 8, 16, 32, 64, 128)
LEAST_SIDE = 64
"""Pixels: no network is asked about smaller pictures, which its deepest layers would reduce to nothing."""


def has_free_size(port: Port) -> bool:
    """Whether pictures of several sizes fit."""
    return port.shape[2] == "height" or port.shape[3] == "width"


def multiple_of(network: Network) -> int:
    """The least number of pixels that both sides must be multiples of, at least what the source hints at.

    Raises ConversionFailed when the network answers in another size than it is asked in.
    """
    for multiple in MULTIPLES:
        if takes(network, (_odd(LEAST_SIDE, multiple), _odd(1.5 * LEAST_SIDE, multiple))):
            return math.lcm(multiple, network.hints.multiple)
    raise ConversionFailed(
        f"The network answers no picture with one value for each of its pixels: tried sides that are multiples of"
        f" {', '.join(map(str, MULTIPLES))} px. A worker needs an answer as large as the picture.",
        data="No model was written.",
        advice="Let the network enlarge its answer as its last step, or name the fixed --size that it was made for.",
    )


def takes(network: Network, size: Size) -> bool:
    """Whether the network answers a picture of that size, with one value for each of its pixels if with a picture."""
    try:
        answers = network.run(example(network.inputs, size))
    except Exception:  # each framework has its own way to say that a size does not fit
        return False
    return answers[0].ndim != 4 or answers[0].shape[2:] == size


def gate_sizes(first: Size, multiple: int) -> tuple[Size, ...]:
    """The export size and two others, of another shape, at odd multiples: an accident of powers of two would show."""
    height, width = first
    others = ((0.75 * height, 1.3 * width), (0.6 * height, 0.4 * width))
    return (first, *((_odd(tall, multiple), _odd(wide, multiple)) for tall, wide in others))


def rounded(size: Size, multiple: int) -> Size:
    """The size, enlarged to multiples."""
    height, width = (-(-side // multiple) * multiple for side in size)
    return height, width


def example(inputs: tuple[Port, ...], size: Size, batch: int = 1) -> Feed:
    """Zeros for every input."""
    return {port.name: np.zeros(port.sized(batch, size), port.type) for port in inputs}


def _odd(side: float, multiple: int) -> int:
    """The odd multiple that comes nearest to a length."""
    return (2 * max(0, round((side / multiple - 1) / 2)) + 1) * multiple
