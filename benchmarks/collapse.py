"""Counts false alarms and misses of the collapse check, on the embedded digits.

Each training goes on whatever happens. Afterwards it counts as collapsed if its accuracy on
held-out source images ended at chance, which the check does not look at. First: make demo.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from pathlib import Path

from tqdm import tqdm

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks.rows import DIGITS, SETS
from benchmarks.runner import completed, folder_flags
from utils.errors import COLLAPSED, run_script
from utils.record.log_csv import LOG_FILE, read_rows
from utils.run.collapse import IMAGES, CollapseError, check_alive
from utils.run.command_line import parse

DATA = ["--source_dataset_path", f"{SETS}/embedded/MNIST/mnist_data.pkl",
        "--target_dataset_path", f"{SETS}/embedded/MNIST_M/mnist_m_data.pkl"]  # fmt: skip
SMALL = "--source_images 120 --target_images 120 --epoch 60 --batch_size 32 --init_learning_rate"
TRAININGS = [
    *(f"--epoch 4 --batch_size 64 --init_learning_rate {rate} --clip_norm {clip} --seed {seed}"
      for rate, clip, seed in itertools.product((0.01, 0.03, 0.1), (0, 1), range(3))),
    *(f"{SMALL} {rate} --seed {seed}" for rate, seed in itertools.product((0.0001, 0.01),
                                                                         range(3))),
]  # fmt: skip
CHANCE = 0.2


def main() -> None:
    parse([], __doc__)
    alarms: list[str] = []
    misses: list[str] = []
    collapsed = 0
    for flags in tqdm(TRAININGS, unit="training"):
        epochs, accuracy = train(flags.split())
        alarm = first_alarm(epochs)
        sick = accuracy < CHANCE and "0.0001" not in flags  # so low a rate stays at chance
        collapsed += sick
        if alarm and not sick:
            alarms.append(flags)
        if sick and not alarm:
            misses.append(flags)
        tqdm.write(f"source {accuracy:.3f}  alarm in epoch {alarm or '-':<3}  {flags}")
    print(f"{len(TRAININGS)} trainings, {collapsed} collapsed: {len(alarms)} false alarms, "
          f"{len(misses)} misses")  # fmt: skip
    for kind, some in (("false alarm", alarms), ("miss", misses)):
        for flags in some:
            print(f"{kind}: {flags}")


def train(flags: list[str]) -> tuple[list[tuple[float, int]], float]:
    """Returns what predictions told after each epoch, its steps, and the last source accuracy."""
    with tempfile.TemporaryDirectory() as folder:
        flags = [*DATA, *flags, "--allow_collapse", *folder_flags(folder)]
        done = completed(DIGITS, *flags, allowed=COLLAPSED)
        if done.returncode == COLLAPSED:  # a loss that is no number: seen at once
            return [(0.0, 10**6)] * 2, 0.0
        rows = read_rows(next(Path(folder).rglob(LOG_FILE)))
    steps = int(done.stdout.split(" an epoch")[0].rsplit(" ", 1)[1])
    told = [(float(row["information_maximisation"]), steps * int(row["epoch"])) for row in rows]
    return told, float(rows[-1]["labelled_image_cls_acc"])


def first_alarm(epochs: list[tuple[float, int]]) -> int | None:
    """Returns the epoch in which the check would have ended the run."""
    for count in range(1, len(epochs) + 1):
        try:
            check_alive(
                [told for told, _ in epochs[:count]], IMAGES, 10, count, epochs[count - 1][1]
            )
        except CollapseError:
            return count
    return None


if __name__ == "__main__":
    run_script(main)
