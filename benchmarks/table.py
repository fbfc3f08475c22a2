"""Trains every row of the results on every seed and writes the pages of results and models.

A training with a record in docs/runs is not repeated. An interrupted one goes on. First: python
create_mnistm.py with seed 42 and with seed 7 (docs/data.md), python create_usps.py and, on an idle
machine, python benchmarks/epochs.py for the minutes.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks.figures import draw_curves, draw_embedding
from benchmarks.models import describe, ship
from benchmarks.records import Record, names_kept
from benchmarks.report import ONE_SEED, Runs, fill_preset, fill_readme, report
from benchmarks.rows import DIGITS, MNIST_M_7, PAIRS, ROWS, grid
from benchmarks.runner import Training, train_all
from config.config import Config
from config.presets import FOLDER as PRESETS
from config.settings import SEEDS, Settings, at_least, some_of
from utils.atomic import write_text
from utils.errors import UserError, existing_file, run_script
from utils.run.command_line import parse


@dataclasses.dataclass(frozen=True)
class Arguments(Settings):
    seeds: Annotated[tuple[int, ...], SEEDS] = (0, 1, 2)
    """Seeds to train; the pages tell of all that were trained."""
    jobs: Annotated[int, at_least(1)] = 1
    """Trainings at a time; the cores are shared out among them."""
    pairs: Annotated[tuple[str, ...], some_of(PAIRS)] = tuple(PAIRS)
    """Train on these pairs alone."""
    rows: Annotated[tuple[str, ...], some_of(ROWS)] = tuple(ROWS)
    """Train these rows alone."""
    train: bool = True
    """Train what is missing before the pages are written."""


def main() -> None:
    args = Arguments.of(parse([Arguments], __doc__))
    os.chdir(ROOT)  # where the trainings run
    wanted = grid(args.seeds, args.pairs, args.rows)
    if not wanted:
        raise UserError("rows: none of them is trained on these pairs")
    kept = names_kept()
    seeds = {int(seed) for name in kept if (seed := name.rsplit("-", 1)[-1]).isdecimal()}
    known = grid(sorted(seeds | {*args.seeds}))
    runs = runs_kept(known)
    if args.train:
        missing = [training for key, training in wanted.items() if key not in runs]
        pickles = {word for training in missing for word in training.flags.split()
                   if word.endswith(".pkl")}  # fmt: skip
        if any(training.script == DIGITS for training in missing):
            Config().check_paths()  # once, before each training misses its data
        for place in sorted(pickles):
            existing_file(place, "pairs", "docs/data.md tells how it is made; or name other pairs")
        train_all(missing, list(known.values()), args.jobs)
        runs = runs_kept(known)
    if all(Path(place).exists() for place in (Config().target_dataset_path, MNIST_M_7)):
        ship(runs, known)
        write_text(ROOT / "docs" / "models.md", describe(runs))
    else:
        print("docs/models.md stays, because MNIST-M, or that of seed 7, is not here; "
              "docs/data.md#mnist-m tells how they are made")  # fmt: skip
    write_text(ROOT / "docs" / "results.md", report(runs))
    for name, one_seed in (("README.md", ONE_SEED), ("README.zh-CN.md", "（一个随机种子）")):
        write_text(ROOT / name, fill_readme((ROOT / name).read_text("utf-8"), runs, one_seed))
    for preset in sorted(PRESETS.glob("*.json")):
        write_text(preset, fill_preset(preset.stem, preset.read_text("utf-8"), runs))
    draw_curves(runs, ROOT / "image" / "results.png")
    draw_embedding(known, ROOT / "image" / "embedding.png", args.seeds[0])
    used = {run.name for run in runs.values()}
    if left := [one.name for one in known.values() if one.name in kept and one.name not in used]:
        print(f"not counted, because their settings are others now: {', '.join(left)}")
    print("docs/*.md, both READMEs, the presets and image/*.png are written")


def runs_kept(trainings: Mapping[tuple[str, str, int], Training]) -> Runs:
    """Returns the records of the trainings that have one.

    Raises:
        UserError: digits of one pair and seed were not the same in all of them.
    """
    runs = {key: record for key, one in trainings.items() if (record := one.keep())}
    first: dict[tuple[str, int], Record] = {}
    for (pair, _, seed), run in runs.items():
        if PAIRS[pair].script != DIGITS:
            continue
        other = first.setdefault((pair, seed), run)
        names = run.facts.data.keys() & other.facts.data.keys()
        if any(run.facts.data[name] != other.facts.data[name] for name in names):
            raise UserError(
                f"{other.name} and {run.name}: were trained on different data; remove the record "
                "of one from docs/runs, make its data again (docs/data.md) and train it anew"
            )
    return runs


if __name__ == "__main__":
    run_script(main)
