"""Stage `train`: fit the network; interrupted runs go on where the last epoch ended."""

from __future__ import annotations

import argparse
import copy
import ctypes
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

import params
from data import Example, Sampler, load_part
from loss import supervised_loss
from metrics import Counts, count
from network import TileNet, parameter_count
from predict import Logits, probabilities


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks: handing every activation back to the system cost a seventh of the time."""
    try:
        tune = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return  # another C library
    trim_threshold, top_pad, mmap_max = -1, -2, -4
    tune(trim_threshold, 2**31 - 1)
    tune(top_pad, 2**28)
    tune(mmap_max, 0)


def learning_rate_factor(step: int, steps: int, warm_up: float) -> float:
    """Share of the peak learning rate: linear warm-up, then half a cosine down to one percent."""
    rising = max(1, round(steps * warm_up))
    if step < rising:
        return (step + 1) / rising
    progress = (step - rising) / max(1, steps - rising)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the averaged weights (and norms' statistics) towards the network's."""
    for kept, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if kept.dtype.is_floating_point:
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)


def as_logits(network: nn.Module) -> Logits:
    """The network as a function of arrays, for `predict`."""
    network.eval()

    def logits(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network(torch.from_numpy(pixels)).numpy()

    return logits


def validate(network: nn.Module, examples: list[Example]) -> dict[str, float]:
    """Pooled dice of the defective pictures at native size, and the share of free ones with any defect pixel."""
    logits = as_logits(network)
    pooled: dict[str, Counts] = {}
    alarms = []
    for example in examples:
        mask = probabilities(logits, example.pixels)[0] < 0.5
        kind = example.picture.kind
        if example.defective:
            pooled[kind] = pooled.get(kind, Counts()) + count(example.labels, mask)
        else:
            alarms.append(bool(mask.any()))
    figures = {kind: counts.dice for kind, counts in pooled.items()}
    figures["dice"] = sum(pooled.values(), Counts()).dice
    figures["alarms"] = float(np.mean(alarms)) if alarms else 0.0
    return {name: round(value, 4) for name, value in figures.items()}


class Trainer:
    """The network, its averaged copy and the optimiser, with their checkpoint."""

    def __init__(self, parameters: dict[str, Any], folder: Path) -> None:
        self.parameters = parameters
        self.train = parameters["train"]
        self.checkpoint = folder / "checkpoint.pt"
        self.history = folder / "history.jsonl"
        keep_freed_memory()
        torch.manual_seed(self.train["seed"])
        torch.set_num_threads(self.train["threads"])
        self.network = TileNet(len(params.CLASSES), self.train["widths"], self.train["dropout"])
        self.network = self.network.to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=self.train["learning_rate"], weight_decay=self.train["weight_decay"]
        )
        self.epoch = 0
        self.seconds = 0.0

    @property
    def settings(self) -> dict[str, Any]:
        """What a checkpoint must have been made with to be continued; a run may be made longer or shorter."""
        train = {name: value for name, value in self.train.items() if name not in ("epochs", "threads")}
        return {"train": train, "augment": self.parameters["augment"]}

    def resume(self) -> None:
        """Load the checkpoint, if there is one made with the same parameters."""
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, weights_only=True)
        if state["settings"] != self.settings:
            print("checkpoint was made with other parameters: starting afresh")
            return
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.epoch, self.seconds = state["epoch"], state["seconds"]
        print(f"going on after epoch {self.epoch}")

    def save(self) -> None:
        """Write the checkpoint; a kill leaves the old or the new one, never a half."""
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "epoch": self.epoch,
            "seconds": self.seconds,
            "settings": self.settings,
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.checkpoint)

    def step(self, pixels: np.ndarray, labels: np.ndarray, step: int) -> float:
        """One update from one batch; the loss."""
        steps = self.train["epochs"] * self.train["batches"]
        for group in self.optimiser.param_groups:
            group["lr"] = self.train["learning_rate"] * learning_rate_factor(step, steps, self.train["warm_up"])
        images = torch.from_numpy(pixels).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.train["bfloat16"]):
            outputs = self.network(images)
        loss = supervised_loss(outputs, torch.from_numpy(labels))
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 2.0)
        self.optimiser.step()
        # Early on the average would else consist of the random start.
        update_average(self.average, self.network, min(self.train["ema_decay"], (step + 1) / (step + 10)))
        return loss.item()

    def run_epoch(self, sampler: Sampler) -> float:
        """All batches of one epoch; the mean loss."""
        self.network.train()
        batches = sampler.epoch(self.train["seed"], self.epoch)
        title = f"epoch {self.epoch + 1}/{self.train['epochs']}"
        losses = []
        with tqdm(batches, total=self.train["batches"], desc=title, mininterval=5) as bar:
            for number, (pixels, labels) in enumerate(bar):
                losses.append(self.step(pixels, labels, self.epoch * self.train["batches"] + number))
                bar.set_postfix(loss=f"{np.mean(losses):.3f}", refresh=False)
        return float(np.mean(losses))

    def fit(self, sampler: Sampler, validation: list[Example]) -> None:
        """Train up to the last epoch."""
        while self.epoch < self.train["epochs"]:
            begin = time.perf_counter()
            figures = {"loss": round(self.run_epoch(sampler), 4)}
            self.epoch += 1
            if self.epoch % self.train["validate_every"] == 0 or self.epoch == self.train["epochs"]:
                figures |= validate(self.average, validation)
            self.seconds += time.perf_counter() - begin
            self.save()
            line = json.dumps({"epoch": self.epoch, "seconds": round(self.seconds), **figures})
            with self.history.open("a") as history:
                history.write(line + "\n")
            tqdm.write(line)


def main() -> None:
    """Train, or go on training."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index", type=Path, default=params.RECIPE / "work/index.json")
    parser.add_argument("--split", type=Path, default=params.RECIPE / "split.json")
    parser.add_argument("--output", type=Path, default=params.RECIPE / "work/train")
    options = parser.parse_args()
    parameters = params.load()
    folder = params.data_folder(parameters)
    options.output.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(parameters, options.output)
    print(f"{parameter_count(trainer.network):,} trainable values")
    trainer.resume()
    examples = load_part(folder, options.index, options.split, "train")
    validation = load_part(folder, options.index, options.split, "validation")
    try:
        trainer.fit(Sampler(examples, trainer.train, parameters["augment"]), validation)
    except KeyboardInterrupt:
        raise SystemExit(f"stopped; {trainer.epoch} epochs are kept and the next run goes on from there") from None


if __name__ == "__main__":
    main()
