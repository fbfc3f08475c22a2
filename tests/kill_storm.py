"""Kills a training run at random moments, again and again, and compares its end with a calm run's.

python tests/kill_storm.py --kills 50

Weights, log.csv, log.txt and every TensorBoard event must be the same to the last bit. Then kills
create_mnistm.py likewise: after each kill its pickles must be whole.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent)]
from helpers import ROOT, events, final_weights, run
from tqdm import tqdm

from benchmarks.runner import folder_flags
from utils.data.pickles import read_pickle

TRAIN, CREATE = str(ROOT / "train_MNIST2MNIST_M.py"), str(ROOT / "create_mnistm.py")


def killed(command: list[str], seconds: float) -> bool:
    """Starts a command and kills it after some time; False if it had ended by itself by then."""
    with subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return True
    if code:
        sys.exit(f"failed: {command} ended with exit code {code}")
    return False


def timed(command: list[str], name: str) -> float:
    """Returns the seconds that a command takes, so that kills come early enough on any machine."""
    began = time.monotonic()
    for _ in tqdm(range(1), desc=name, disable=None):
        subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def storm_of_training(folder: Path, kills: int, epochs: int, chance: random.Random) -> int:
    """Returns the number of kills that one run survived; ends the program if it did not."""
    data = folder / "data"
    run("create_mnistm.py", "--embedded", "--output_dir", data, "--picture", folder / "p.png")
    flags = [
        *("--source_dataset_path", str(data / "MNIST/mnist_data.pkl")),
        *("--target_dataset_path", str(data / "MNIST_M/mnist_m_data.pkl")),
        *("--epoch", str(epochs), "--batch_size", "64", "--checkpoint_steps", "10"),
        *("--run_name", "storm"),
    ]
    calm, stormy = folder / "calm", folder / "stormy"
    seconds = timed([TRAIN, *flags, *folder_flags(calm)], "calm run")
    survived = 0
    ended = False
    for _ in tqdm(range(kills), desc="kills", disable=None):
        logs = next((stormy / "logs").rglob("storm"), None)
        command = ["--resume", str(logs)] if logs else [*flags, *folder_flags(stormy)]
        ended = not killed([TRAIN, *command], chance.uniform(0, seconds / 5))
        if ended:
            break
        survived += 1
    logs = next((stormy / "logs").rglob("storm"))
    run("train_MNIST2MNIST_M.py", "--resume", logs)
    calm_logs = next((calm / "logs").rglob("storm"))
    for name in ("log.csv", "log.txt"):
        if (logs / name).read_bytes() != (calm_logs / name).read_bytes():
            sys.exit(f"failed: {name} differs")
    if events(logs) != events(calm_logs):
        sys.exit("failed: the events differ")
    for one, other in zip(
        final_weights(calm, "storm"), final_weights(stormy, "storm"), strict=True
    ):
        if (one != other).any():
            sys.exit("failed: the weights differ")
    return survived


def storm_of_creation(folder: Path, kills: int, chance: random.Random) -> int:
    """Returns the number of kills after each of which the pickles were whole."""
    out = folder / "out"
    flags = ["--embedded", "--output_dir", str(out), "--picture", str(folder / "q.png")]
    seconds = timed([CREATE, *flags], "create_mnistm.py")
    survived = 0
    for seed in tqdm(range(kills), desc="kills of create_mnistm.py", disable=None):
        survived += killed([CREATE, *flags, "--seed", str(seed)], chance.uniform(0, seconds))
        for path in ("MNIST/mnist_data.pkl", "MNIST_M/mnist_m_data.pkl"):
            read_pickle(out / path)
    return survived


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="of training (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=60, help="long enough (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default %(default)s)")
    args = parser.parse_args()
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        trained = storm_of_training(Path(folder), args.kills, args.epochs, chance)
        created = storm_of_creation(Path(folder), max(1, args.kills // 2), chance)
    print(f"training: {trained} kills survived, the end is the same to the last bit")
    print(f"create_mnistm.py: {created} kills, pickles whole after each")


if __name__ == "__main__":
    main()
