"""Stage `refit`: go on training, for the model that ships, with nearly everything that there is.

Only 66 defective tiles exist, and a fifth of them was kept for the test: too many to go without. The figures by tile
(`metrics.json`, `test`) belong to the network before this stage. Half of the exposures of every test tile still stay
away, so that the weights that ship are measured, too: on pictures that they have not seen, of tiles that they know
under other exposures or, where there is only one, do not know.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

import torch

import params
from data import Sampler, hold_out, load_part
from train import Trainer


def refit_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters of training with those of the refit in their place."""
    changed = copy.deepcopy(parameters)
    changed["train"] |= parameters["refit"]
    return changed


class Refit(Trainer):
    """A trainer that begins where another one ended."""

    def begin(self, checkpoint: Path) -> None:
        """Go on with an interrupted refit, else begin from the trained network."""
        if self.checkpoint.exists():
            self.resume()
        if self.epoch:
            return
        state = torch.load(checkpoint, weights_only=True)
        self.network.load_state_dict(state["average"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])


def main() -> None:
    """Refit, or go on with it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index", type=Path, default=params.RECIPE / "work/index.json")
    parser.add_argument("--split", type=Path, default=params.RECIPE / "split.json")
    parser.add_argument("--checkpoint", type=Path, default=params.RECIPE / "work/train/checkpoint.pt")
    parser.add_argument("--output", type=Path, default=params.RECIPE / "work/refit")
    options = parser.parse_args()
    parameters = params.load()
    folder = params.data_folder(parameters)
    options.output.mkdir(parents=True, exist_ok=True)
    trainer = Refit(refit_parameters(parameters), options.output)
    trainer.begin(options.checkpoint)
    parts = {part: load_part(folder, options.index, options.split, part) for part in ("train", "validation", "test")}
    learn, held = hold_out(parts["test"])
    examples = [*parts["train"], *parts["validation"], *learn]
    try:
        trainer.fit(Sampler(examples, trainer.train, parameters["augment"]), held)
    except KeyboardInterrupt:
        raise SystemExit(f"stopped; {trainer.epoch} epochs are kept and the next run goes on from there") from None


if __name__ == "__main__":
    main()
