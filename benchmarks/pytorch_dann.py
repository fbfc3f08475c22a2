"""DANN as PyTorch users know it, on our pickles: batch normalisation, Adam, no augmentation.

For the table of minutes in docs/results.md. It needs PyTorch, which is no requirement of this
project: pip install torch. First: python create_mnistm.py. Nothing else should run meanwhile.

Network and settings are those of https://github.com/fungtion/DANN: two convolutions of 64 and 50
filters, batch normalisation in all parts, Dropout2d, Adam at 0.001, 100 epochs, λ_p with γ = 10;
batches of 128 source and 128 target images.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks.records import facts_now, write_record
from benchmarks.report import PYTORCH
from config.config import Config
from config.settings import SEED, Settings, at_least
from utils.data.pickles import pixel_mean, read_pickle
from utils.errors import run_script
from utils.record.log_csv import Row
from utils.run.command_line import parse

try:
    import torch
    from torch import nn
except ImportError as error:
    raise SystemExit("error: PyTorch is missing; pip install torch") from error

BLOCK = 128  # images of each domain in a batch


@dataclasses.dataclass(frozen=True)
class Arguments(Settings):
    epoch: Annotated[int, at_least(1)] = 100
    """Epochs; one is a pass over the source images."""
    seed: Annotated[int, SEED] = 0
    """Seed of the initial weights and of the order of the images."""


class Reversal(torch.autograd.Function):
    """The identity, whose gradient is reversed and scaled."""

    @staticmethod
    def forward(context: Any, values: torch.Tensor, scale: float) -> torch.Tensor:
        context.scale = scale
        return values.view_as(values)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return -context.scale * gradient, None


def dense(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]


class Network(nn.Module):
    """Feature extractor, label predictor and domain classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 5), nn.BatchNorm2d(64), nn.MaxPool2d(2), nn.ReLU(),
            nn.Conv2d(64, 50, 5), nn.BatchNorm2d(50), nn.Dropout2d(), nn.MaxPool2d(2), nn.ReLU(),
            nn.Flatten(),
        )  # fmt: skip
        self.labels = nn.Sequential(
            *dense(800, 100), nn.Dropout(), *dense(100, 100), nn.Linear(100, 10)
        )
        self.domains = nn.Sequential(*dense(800, 100), nn.Linear(100, 2))

    def forward(self, images: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.features(images)
        return self.labels(features), self.domains(Reversal.apply(features, scale))


def main() -> None:
    args = Arguments.of(parse([Arguments], __doc__))
    config = Config()
    source, target = (
        read_pickle(path, config.image_input_shape)
        for path in (config.source_dataset_path, config.target_dataset_path)
    )
    mean = np.asarray(pixel_mean(source["train"], target["train"]), np.float32)

    def shown(images: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(((images - mean) / 255).transpose(0, 3, 1, 2).astype(np.float32))

    torch.manual_seed(args.seed)
    order = np.random.default_rng(args.seed)
    network = Network()
    optimizer = torch.optim.Adam(network.parameters(), 0.001)
    steps = len(source["train"]) // BLOCK
    sides = torch.arange(2).repeat_interleave(BLOCK)
    loss_of = nn.CrossEntropyLoss()
    rows: list[Row] = []
    began = time.monotonic()
    for epoch in range(1, args.epoch + 1):
        network.train()
        picks = [order.permutation(len(domain["train"])) for domain in (source, target)]
        for step in range(steps):
            some = slice(step * BLOCK, (step + 1) * BLOCK)
            progress = (step + (epoch - 1) * steps) / (args.epoch * steps)
            scale = 2 / (1 + math.exp(-10 * progress)) - 1
            loss = torch.tensor(0.0)
            for side, (domain, pick) in enumerate(zip((source, target), picks, strict=True)):
                labels, domains = network(shown(domain["train"][pick[some]]), scale)
                loss = loss + loss_of(domains, sides[side * BLOCK : (side + 1) * BLOCK])
                if side == 0:
                    truth = torch.from_numpy(domain["train_label"][pick[some]]).long()
                    loss = loss + loss_of(labels, truth)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        accuracy = measure(network, [shown(target["val"][i : i + 500])
                                     for i in range(0, len(target["val"]), 500)],
                           target["val_label"])  # fmt: skip
        minutes = (time.monotonic() - began) / 60
        rows.append({"epoch": str(epoch), "val_image_cls_acc": f"{accuracy:.4f}",
                     "minutes": f"{minutes:.3f}"})  # fmt: skip
        print(f"epoch {epoch}/{args.epoch}: target accuracy {accuracy:.4f}, {minutes:.1f} minutes")
    command = f"python benchmarks/pytorch_dann.py --epoch {args.epoch} --seed {args.seed}"
    write_record(f"{PYTORCH}-{args.seed}", facts_now(command, ""), [rows])


@torch.no_grad()
def measure(network: Network, batches: list[torch.Tensor], labels: np.ndarray) -> float:
    """Returns the accuracy on some batches of images."""
    network.eval()
    predicted = torch.cat([network(images, 0.0)[0].argmax(1) for images in batches])
    return float((predicted.numpy() == labels).mean())


if __name__ == "__main__":
    run_script(main)
