"""Trains every row of RESULTS.md on every seed and writes it, with its figures: make table.

What is finished is not trained again, what was interrupted goes on. First: python create_mnistm.py.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import tyro
from tqdm import tqdm

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from config.config import Config
from utils.atomic import whole_file
from utils.errors import UserError, run_script

DIGITS, DRAWINGS = "train_MNIST2MNIST_M.py", "train_real2drawing.py"
CAPTCHAS = "train_captcha.py"
FINAL = "trained_*.keras"
CRITERIA = (
    "entropy",
    "information_maximisation",
    "soft_neighbourhood_density",
    "nuclear_norm",
    "deep_embedded_validation",
)
RECIPE = (
    "--batch_size 64 --clip_norm 1 --dropout 0.5 --augmentation affine_colour --average_decay 0.999"
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table: a training that is run with several seeds."""

    title: str
    flags: str
    """Of the script; {start} stands for the model that `after` picked."""
    after: str = ""
    """The row whose model this one starts from."""
    start: str = "best.keras"
    """Which of its models: the one that was picked, or that of its first stage."""
    script: str = DIGITS
    """What trains it."""


ROWS = {
    "source_only": Row("source only", "--method source_only --epoch 10"),
    "paper": Row("DANN, as in the paper", "--epoch 30"),
    "recipe": Row(
        "DANN, our recipe", f"{RECIPE} --init_learning_rate 0.05 --grl_lambda 2 --epoch 40"
    ),
    "mean_teacher": Row(
        "second stage: mean teacher",
        f"--method mean_teacher --pre_model_path {{start}} {RECIPE} --init_learning_rate 0.05 "
        "--grl_lambda 2 --gamma 1000 --epoch 24",
        after="recipe",
    ),
    "adda": Row(
        "ADDA from source only",
        "--method adda --pre_model_path {start} --epoch 10",
        after="source_only",
    ),
    "target_only": Row("trained on target labels", "--method target_only --epoch 10"),
}
LOSS_ROWS = {
    f"adda_{loss}": dataclasses.replace(
        ROWS["adda"], title=f"`{loss}`", flags=f"{ROWS['adda'].flags} --adversarial_loss {loss}"
    )
    for loss in ("minimax", "confusion")
}
DRAWING_ROWS = {
    "drawings_grey": Row(
        "source only, grey photos", "--embedded --method source_only --no_canny --epoch 10",
        script=DRAWINGS,
    ),
    "drawings_source": Row(
        "source only, Canny edges", "--embedded --method source_only --epoch 10", script=DRAWINGS
    ),
    "drawings_dann": Row("DANN, Canny edges", "--embedded --epoch 10", script=DRAWINGS),
}  # fmt: skip
CAPTCHA_ROWS = {
    "captcha": Row("ADDA", "", script=CAPTCHAS),
    "captcha_statistics": Row(
        "target's batch statistics alone (λ = 0)",
        "--pre_model_path {start} --grl_lambda 0 --epoch 1",
        after="captcha",
        start="source_model.keras",
        script=CAPTCHAS,
    ),
}
ALL_ROWS = ROWS | LOSS_ROWS | DRAWING_ROWS | CAPTCHA_ROWS
# From the paper's settings to the recipe, one change at a time; on a part of the training set.
CLIPPED = "--clip_norm 1"
SMALL = f"--init_learning_rate 0.05 --batch_size 64 {CLIPPED} --average_decay 0.999"
DROPPED = f"{SMALL} --dropout 0.5"
TRIES = {
    "as in the paper": "",
    "averaged weights": "--average_decay 0.999",
    "rate 0.1, clipped at 1": f"--init_learning_rate 0.1 {CLIPPED} --average_decay 0.999",
    "rate 0.05, clipped at 1, batches of 64": SMALL,
    "… and dropout": DROPPED,
    "… and turned and shifted": f"{DROPPED} --augmentation affine",
    "… and colours changed": f"{DROPPED} --augmentation affine_colour",
    "… and λ up to 2: the recipe": f"{DROPPED} --augmentation affine_colour --grl_lambda 2",
    "… λ up to 4 instead": f"{DROPPED} --augmentation affine_colour --grl_lambda 4",
}


@dataclasses.dataclass
class Arguments:
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of each row."""
    jobs: int = 1
    """Trainings at a time; the cores are shared out among them."""
    only: tuple[str, ...] = ()
    """Train these rows alone: recipe, paper, source_only, mean_teacher, adda, target_only,
    adda_minimax, adda_confusion, drawings_grey, drawings_source, drawings_dann, captcha,
    captcha_statistics, tries."""


@dataclasses.dataclass(frozen=True)
class Training:
    """A run of the grid: where it is, and how it is repeated."""

    name: str
    flags: str
    script: str = DIGITS

    @property
    def command(self) -> str:
        return f"python {self.script} --mixed_precision {self.flags}"

    def find(self, root: str, file: str) -> Path | None:
        """Returns a file of the run below logs/ or checkpoints/, if it is there."""
        return next(iter(sorted((ROOT / root / "table").rglob(f"{self.name}/{file}"))), None)

    def train(self, threads: int) -> None:
        """Trains to the end, from where it stopped if it was begun."""
        if self.find("checkpoints", FINAL):
            return
        folders = [text for name in ("logs", "checkpoints", "config")
                   for text in (f"--{name}_dir", f"{name}/table")]  # fmt: skip
        begun = self.find("logs", "config.json")
        flags = ["--resume", str(begun.parent)] if begun else [
            "--mixed_precision", *self.flags.split(), "--run_name", self.name, *folders,
        ]  # fmt: skip
        environment = os.environ | {
            "TF_NUM_INTRAOP_THREADS": str(threads),
            "TF_NUM_INTEROP_THREADS": str(threads),
            "OMP_NUM_THREADS": str(threads),
        }
        output = ROOT / "logs" / "table" / f"{self.name}.txt"
        output.parent.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        with output.open("a") as file:
            done = subprocess.run(
                [sys.executable, self.script, *flags],
                cwd=ROOT, env=environment, stdout=file, stderr=file, check=False,
            )  # fmt: skip
        minutes = self.minutes() + (time.monotonic() - began) / 60
        output.with_suffix(".minutes").write_text(f"{minutes:.2f}\n")
        if done.returncode:
            raise UserError(f"{self.name}: ended with code {done.returncode}; see {output}")

    def minutes(self) -> float:
        """Returns how long it has been trained so far."""
        file = ROOT / "logs" / "table" / f"{self.name}.minutes"
        return float(file.read_text()) if file.exists() else 0.0

    def rows(self, file: str = "log.csv") -> list[dict[str, float]]:
        """Returns its log.csv, or that of its first stage; empty if it has none."""
        table = self.find("logs", file)
        if table is None:
            return []
        with table.open(newline="") as lines:
            return [
                {key: float(value) for key, value in row.items()} for row in csv.DictReader(lines)
            ]

    def at_pick(self, criterion: str) -> float:
        """Returns the target accuracy of the epoch that a criterion picks."""
        return max(self.rows(), key=lambda row: row[criterion])["val_image_cls_acc"]


def grid(seeds: Sequence[int]) -> dict[tuple[str, int], Training]:
    """Returns the trainings of all rows and seeds; a start that is not there yet stays {start}."""
    trainings: dict[tuple[str, int], Training] = {}
    for seed in seeds:
        for key, row in ALL_ROWS.items():
            flags = row.flags
            if row.after:
                start = trainings[row.after, seed].find("checkpoints", f"**/{row.start}")
                if start:
                    flags = flags.format(start=start.relative_to(ROOT))
            trainings[key, seed] = Training(
                f"{key}-seed{seed}", f"{flags} --seed {seed}".strip(), row.script
            )
    return trainings


def tries() -> dict[str, Training]:
    """Returns the trainings of the search, by their titles."""
    return {
        title: Training(f"try{number}", f"--held_out 5000 --epoch 3 {flags}".strip())
        for number, (title, flags) in enumerate(TRIES.items())
    }


def train_all(args: Arguments) -> None:
    """Trains what is not finished, `args.jobs` at a time, rows that others start from first."""
    threads = max(1, (os.cpu_count() or 1) // args.jobs)
    rows = [key for key in ALL_ROWS if not args.only or key in args.only]
    with ThreadPoolExecutor(args.jobs) as pool:
        running: dict[tuple[str, int], Future[None]] = {}

        def train(key: str, seed: int) -> None:
            before = running.get((ALL_ROWS[key].after, seed))
            if before:
                before.result()
            grid(args.seeds)[key, seed].train(threads)

        for key in rows:
            for seed in args.seeds:
                running[key, seed] = pool.submit(train, key, seed)
        futures = list(running.values())
        if not args.only or "tries" in args.only:
            futures += [pool.submit(training.train, threads) for training in tries().values()]
        for future in tqdm(futures, desc="trainings", unit="run"):
            future.result()


def main() -> None:
    args = tyro.cli(Arguments, description=__doc__, use_underscores=True)
    train_all(args)
    ship([training for (key, _), training in grid(args.seeds).items() if key == "mean_teacher"])
    with whole_file(ROOT / "RESULTS.md") as path:
        path.write_text(report(args))
    print("RESULTS.md, image/results.png and image/embedding.png are written")


def ship(trainings: Sequence[Training]) -> None:
    """Copies the model that the label-free criterion likes best to where predict.py looks.

    Loaded and saved anew it leaves its optimizer behind, half of the file.
    """
    import keras

    import model.mean_teacher  # noqa: F401  registers itself for loading
    from predict import SHIPPED

    criterion = Config().select_by
    finished = [training for training in trainings if training.find("checkpoints", FINAL)]
    if not finished:
        return
    best = max(finished, key=lambda training: max(row[criterion] for row in training.rows()))
    keras.mixed_precision.set_global_policy("float32")
    with whole_file(SHIPPED) as path:
        keras.saving.load_model(best.find("checkpoints", "best.keras"), compile=False).save(path)
    config = best.find("logs", "config.json")
    if config:
        with whole_file(SHIPPED.with_suffix(".json")) as path:
            path.write_bytes(config.read_bytes())
    print(f"{SHIPPED}: {best.name}")


def report(args: Arguments) -> str:
    """Returns RESULTS.md from what was trained."""
    default = Config().select_by
    trainings = grid(args.seeds)
    done = {name: training for name, training in trainings.items() if training.rows()}
    lines = [
        "# Results",
        "",
        f"Made by `make table` on {date.today()}, commit `{commit()}`, on {os.cpu_count()} cores "
        f"(--jobs {args.jobs}), Python {platform.python_version()}, TensorFlow "
        f"{version('tensorflow')}, Keras {version('keras')}, bfloat16. {data_line()} All 10,000 "
        f"test images; mean ± standard deviation over seeds {', '.join(map(str, args.seeds))}.",
        "",
        "| | last epoch | label-free pick | *oracle: uses target labels, not a result* | source "
        "| epochs | minutes a run |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    digits = {name: run for name, run in done.items() if name[0] in ROWS}
    for key, row in ROWS.items():
        runs = runs_of(done, key)
        if runs:
            oracle = spread([max(r["val_image_cls_acc"] for r in run.rows()) for run in runs])
            last, pick, source, *rest = cells(runs, default)
            source = "–" if key == "target_only" else source
            lines.append(
                "| " + " | ".join([row.title, last, pick, f"*{oracle}*", source, *rest]) + " |"
            )
    lines += [
        "| *published: ICML 2015, source only / DANN / on target labels* | .5749 / .8149 / .9891 "
        "| | | | | |",
        "| *published: JMLR 2016, the same* | .5225 / .7666 / .9596 | | | | | |",
        "| *published: the original repository's one run* | .871 | | *.929 (epoch 1,444)* | "
        "| 5,000 | |",
        "",
        "source: accuracy on 2,000 held-out MNIST images. The second stage starts from the model "
        "that the recipe's label-free pick kept, ADDA from that of source only; their epochs and "
        "minutes come on top. Minutes are wall time with other trainings on the same cores.",
        "",
        "![target accuracy per epoch](image/results.png)",
        "![t-SNE of the features](image/embedding.png)",
        "",
        "## The command of each line",
        "",
        "With each `--seed`; run inside `make table`, they log below `logs/table`.",
        "",
        *(f"- {ROWS[key].title}: `{training.command}`"
          for (key, seed), training in trainings.items()
          if seed == args.seeds[0] and key in ROWS),
        "",
        "## Picking a model without target labels",
        "",
        "How much target accuracy each criterion's pick loses against the best epoch, in points, "
        f"over all {len(digits)} runs (mean, and worst). `--select_by` is `{default}` by default.",
        "",
        "| criterion | " + " | ".join(row.title for row in ROWS.values()) + " | all | worst |",
        "| --- |" + " --- |" * (len(ROWS) + 2),
    ]  # fmt: skip
    for criterion in (*CRITERIA, "epoch"):
        lost = {name: 100 * (max(row["val_image_cls_acc"] for row in run.rows())
                             - run.at_pick(criterion)) for name, run in digits.items()}  # fmt: skip
        groups = [[value for (key, _), value in lost.items() if key == wanted] for wanted in ROWS]
        lines.append(
            f"| {'last epoch' if criterion == 'epoch' else criterion} | "
            + " | ".join(f"{np.mean(group):.1f}" if group else "–" for group in groups)
            + f" | {np.mean(list(lost.values())):.2f} | {max(lost.values()):.1f} |"
        )
    tried = {title: run for title, run in tries().items() if run.rows()}
    lines += [
        "",
        "## What was tried",
        "",
        "Three epochs, seed 0, measured on 5,000 MNIST-M *training* images that were held out; the "
        "test set was not looked at. The recipe itself was chosen by longer runs of this kind, 8 "
        "to 15 epochs: three show the first price of augmentation and λ, not the gain.",
        "",
        "| | held-out accuracy, last epoch | flags beside `--held_out 5000 --epoch 3` |",
        "| --- | --- | --- |",
        *(f"| {title} | {run.rows()[-1]['val_image_cls_acc']:.3f} | `{TRIES[title]}` |"
          for title, run in tried.items()),
        "",
    ]  # fmt: skip
    lines += [
        "## ADDA's three losses, on the digits",
        "",
        "As in the first table, with its rates, which were chosen for `gan`.",
        "",
        *section({"adda": dataclasses.replace(ROWS["adda"], title="`gan`"), **LOSS_ROWS}, done),
        "",
    ]
    lines += [
        "## Photos → drawings, on the stand-in",
        "",
        "Accuracy on 2,000 drawings (outlines of digits that are in no photo), which have no "
        "labels in training; mean ± standard deviation over the seeds. The stand-in is made with "
        "seed 42.",
        "",
        *section(DRAWING_ROWS, done),
    ]
    captchas, statistics = (runs_of(done, key) for key in CAPTCHA_ROWS)
    lines += ["", *captcha_lines(captchas, statistics, default)]
    draw_curves(done)
    draw_embedding(done, args.seeds[0])
    return "\n".join(lines)


def runs_of(done: Mapping[tuple[str, int], Training], key: str) -> list[Training]:
    """Returns the runs of a row that are done, in the order of the seeds."""
    return [run for (name, _), run in done.items() if name == key]


def section(rows: Mapping[str, Row], done: Mapping[tuple[str, int], Training]) -> list[str]:
    """Returns the lines of a table with the command of each row."""
    lines = [
        "| | last epoch | label-free pick | source | epochs | minutes a run | command |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for key, row in rows.items():
        runs = runs_of(done, key)
        if runs:
            parts = [row.title, *cells(runs, Config().select_by), f"`{runs[0].command}`"]
            lines.append(f"| {' | '.join(parts)} |")
    return lines


def cells(runs: Sequence[Training], criterion: str) -> list[str]:
    """Returns a row's cells: last epoch, pick, source, epochs, minutes."""
    last = [run.rows()[-1] for run in runs]
    return [
        spread([row["val_image_cls_acc"] for row in last]),
        spread([run.at_pick(criterion) for run in runs]),
        spread([row["labelled_image_cls_acc"] for row in last]),
        f"{len(runs[0].rows())}",
        f"{np.mean([run.minutes() for run in runs]):.0f}",
    ]


def captcha_lines(
    runs: Sequence[Training], statistics: Sequence[Training], criterion: str
) -> list[str]:
    """Returns the section on captchas; empty without runs.

    Args:
        runs: ADDA, both stages.
        statistics: the control from the same first stages.
        criterion: what picks an epoch.
    """
    if not runs:
        return []
    names = [f"val_position{n}_acc" for n in (1, 2, 3)] + ["val_image_cls_acc",
                                                           "val_whole_string_acc"]  # fmt: skip
    stages = {
        "source only: the first stage": [run.rows("source/log.csv")[-1] for run in runs],
        CAPTCHA_ROWS["captcha_statistics"].title: [run.rows()[-1] for run in statistics],
        "ADDA, last epoch": [run.rows()[-1] for run in runs],
        "ADDA, label-free pick": [max(run.rows(), key=lambda row: row[criterion]) for run in runs],
    }
    before, _, after, _ = stages.values()
    worse = sum(one["val_image_cls_acc"] > two["val_image_cls_acc"]
                for one, two in zip(before, after, strict=True))  # fmt: skip
    lines = [
        "## Captchas, from one style to the other",
        "",
        "Accuracy on 2,000 captchas of the target style, which has no labels in training: of each "
        "of the three characters, of all of them, and of whole strings; mean ± standard deviation "
        "over the seeds. Captchas of seed 42.",
        "",
        "| | first | second | third | characters | whole strings |",
        "| --- | --- | --- | --- | --- | --- |",
        *(
            f"| {title} | "
            + " | ".join(spread([row[name] for row in rows]) for name in names)
            + " |"
            for title, rows in stages.items()
            if rows
        ),
    ]
    domain = spread([row["train_domain_cls_acc"] for row in after])
    source = spread([row["labelled_image_cls_acc"] for row in before])
    minutes = np.mean([run.minutes() for run in runs])
    return [
        *lines,
        "",
        f"Source captchas that were held out: {source}. The discriminator's accuracy in the last "
        f"epoch: {domain}. Runs that ended below source only: {worse} of {len(runs)}. "
        f"{len(runs[0].rows('source/log.csv'))} + {len(runs[0].rows())} epochs, {minutes:.0f} "
        f"minutes a run beside another on two cores: `{runs[0].command}`.",
        "",
    ]


def spread(values: Sequence[float]) -> str:
    """Returns mean ± sample standard deviation."""
    deviation = np.std(values, ddof=1) if len(values) > 1 else float("nan")
    return f"{np.mean(values):.4f} ± {deviation:.4f}"


def commit() -> str:
    """Returns the commit that the tree stands at."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True,
                          text=True, check=False)  # fmt: skip
    return done.stdout.strip() or "unknown"


def data_line() -> str:
    """Returns which MNIST-M this is."""
    record = json.loads((ROOT / Path(Config().target_dataset_path).parts[0] / "dataset" /
                         "mnist_m.json").read_text())  # fmt: skip
    return (
        f"MNIST-M regenerated with seed {record['seed']} from {record['digits']} "
        f"(`{record['digits_sha256'][:12]}`) and {record['photos']} "
        f"(`{record['photos_sha256'][:12]}`)."
    )


def draw_curves(done: Mapping[tuple[str, int], Training]) -> None:
    """Draws image/results.png: target accuracy of every epoch, beside the original's run."""
    import matplotlib.pyplot as plt

    # Read off the one run that https://github.com/Daipuwei/DANN-MNIST publishes.
    original = {50: 0.627, 100: 0.678, 500: 0.803, 1444: 0.929, 5000: 0.871}
    figure, axis = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for key, row in ROWS.items():
        runs = [run.rows() for run in runs_of(done, key)]
        if not runs:
            continue
        values = np.array([[r["val_image_cls_acc"] for r in run] for run in runs])
        epochs = np.arange(1, values.shape[1] + 1)
        line = axis.plot(epochs, values.mean(axis=0), label=row.title)[0]
        axis.fill_between(epochs, values.min(axis=0), values.max(axis=0), alpha=0.2,
                          color=line.get_color())  # fmt: skip
    axis.plot(*zip(*original.items(), strict=True), "k--o", label="original repository's run")
    axis.set(xscale="log", xlabel="epoch", ylabel="accuracy on the MNIST-M test set")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(ROOT / "image" / "results.png", dpi=110)
    plt.close(figure)


def draw_embedding(done: dict[tuple[str, int], Training], seed: int) -> None:
    """Draws image/embedding.png: features without adaptation, with DANN, after the second stage."""
    from utils.record.embeddings import LAST, load_pair, save_embedding

    panels = []
    for key in ("source_only", "recipe", "mean_teacher"):
        file = done[key, seed].find("logs", LAST) if (key, seed) in done else None
        if file:
            panels.append((ROWS[key].title, load_pair(file)))
    if panels:
        save_embedding(ROOT / "image" / "embedding.png", panels)


if __name__ == "__main__":
    run_script(main)
