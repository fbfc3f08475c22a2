"""Trains every row of the results on every seed and writes docs/results.md: make table.

What is finished is not trained again, what was interrupted goes on. First: python create_mnistm.py,
python create_usps.py and, on an idle machine, python benchmarks/epochs.py for the minutes.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks.figures import draw_curves, draw_embedding
from benchmarks.report import Runs, fill_preset, fill_readme, report
from benchmarks.rows import PAIRS, ROWS, grid
from benchmarks.runner import Training, train_all
from config.config import Config
from config.presets import FOLDER as PRESETS
from config.settings import Settings
from utils.atomic import whole_file
from utils.errors import run_script
from utils.run.command_line import parse

TAKEN = {  # row → model in model_data/model_weight
    "recipe": "recipe", "normalised": "normalised", "mean_teacher": "mnist2mnist_m",
    "wide": "wide",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Arguments(Settings):
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of each row."""
    jobs: int = 1
    """Trainings at a time; the cores are shared out among them."""
    pairs: tuple[str, ...] = tuple(PAIRS)
    """Train on these pairs alone."""
    rows: tuple[str, ...] = tuple(ROWS)
    """Train these rows alone."""
    train: bool = True
    """Train what is missing. --no_train: only write what the runs that are there say."""


def main() -> None:
    args = Arguments.of(parse([Arguments], __doc__))
    wanted = grid(args.seeds, args.pairs, args.rows)
    if args.train:
        train_all(list(wanted.values()), list(grid(args.seeds).values()), args.jobs)
    runs = {name: training for name, training in grid(args.seeds).items() if training.finished}
    ship(runs)
    with whole_file(ROOT / "docs" / "results.md") as path:
        path.write_text(report(runs, args.seeds))
    for readme in (ROOT / "README.md", ROOT / "README.zh-CN.md"):
        text = fill_readme(readme.read_text(), runs)
        with whole_file(readme) as path:
            path.write_text(text)
    for preset in sorted(PRESETS.glob("*.json")):
        text = fill_preset(preset.stem, preset.read_text(), runs)
        with whole_file(preset) as path:
            path.write_text(text)
    draw_curves(runs, ROOT / "image" / "results.png")
    draw_embedding(runs, ROOT / "image" / "embedding.png", args.seeds)
    print("docs/results.md, both READMEs, the presets and image/*.png are written")


def ship(runs: Runs) -> None:
    """Copies the model of each row that the label-free criterion likes best.

    Loaded and saved anew it leaves its optimizer behind, half of the file.
    """
    import keras

    from model.pretrained import load_model
    from predict import SHIPPED

    for row, name in TAKEN.items():
        trained = [run for (pair, key, _), run in runs.items() if (pair, key) == ("mnist_m", row)]
        if not trained:
            continue
        best = best_of(trained, Config().select_by)
        model_file, config = (
            best.find("checkpoints", "best.keras"),
            best.find("logs", "config.json"),
        )
        if model_file is None or config is None:
            continue
        place = SHIPPED.with_stem(name)
        keras.mixed_precision.set_global_policy("float32")
        with whole_file(place) as path:
            load_model(model_file).save(path)
        with whole_file(place.with_suffix(".json")) as path:
            path.write_bytes(config.read_bytes())
        print(f"{place}: {best.name}")


def best_of(runs: Sequence[Training], criterion: str) -> Training:
    """Returns the run that ever reached the highest value of a criterion."""
    return max(runs, key=lambda run: run.pick(criterion)[criterion])


if __name__ == "__main__":
    run_script(main)
