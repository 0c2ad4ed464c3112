"""The trained network, as the later stages load it."""

from __future__ import annotations

from pathlib import Path

import torch

import params
from network import TileNet


def load_network(path: Path) -> TileNet:
    """The averaged network of a checkpoint, in evaluation mode."""
    state = torch.load(path, weights_only=True)
    network = TileNet(len(params.CLASSES), state["settings"]["train"]["widths"])
    network.load_state_dict(state["average"])
    return network.eval()
