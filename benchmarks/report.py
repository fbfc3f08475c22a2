"""docs/results.md, from the records in docs/runs alone."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import numpy as np

from benchmarks.records import Record, read_record
from benchmarks.rows import DIGITS, PAIRS, ROWS
from config.base import Criterion
from config.config import Config
from config.presets import read_preset

ROOT = Path(__file__).parent.parent
EPOCHS = ROOT / "docs" / "epochs.json"
CRITERIA = get_args(Criterion)
MARKS = (0.75, 0.90, 0.93, 0.95)
PYTORCH = "mnist_m-pytorch"  # the record of benchmarks/pytorch_dann.py, without its seed
Runs = Mapping[tuple[str, str, int], Record]  # by pair, row and seed
# Read off the one run that https://github.com/Daipuwei/DANN-MNIST publishes: accuracy by epoch.
ORIGINAL = {50: 0.627, 100: 0.678, 500: 0.803, 1444: 0.929, 5000: 0.871}
# Of each pair: what its papers report. Source only / the method / trained on target labels.
PUBLISHED = {
    "mnist_m": (
        ("ICML 2015: source only / DANN / on target labels", ".5749 / .8149 / .9891"),
        ("JMLR 2016: the same", ".5225 / .7666 / .9596"),
        ("the original repository's one run, 5,000 epochs", ".871; best epoch, 1,444: .929"),
    ),
    "usps_small": (("CVPR 2017: source only / ADDA", ".752 / .894"),),
    "mnist_small": (("CVPR 2017: source only / ADDA", ".571 / .901"),),
}


ONE_SEED = " (one seed)"
SENTENCES = (  # of README, in both languages: minutes and accuracy of a preset
    ("preset `{}` takes ", " minutes. The target accuracy is ", "."),
    ("预设 `{}` 需要 ", " 分钟，目标域准确率为 ", "。"),
)


def report(runs: Runs) -> str:
    """Returns the page of results."""
    lines = [
        "# Results",
        "",
        "`make table` wrote this page from the records in [runs](runs). The first line of a record "
        "tells its command, the settings of its presets, data, commit, date and machine. The "
        "machines were: "
        f"{'; '.join(sorted({run.facts.machine for run in runs.values()}))}. Each figure is a mean "
        "± standard deviation over the seeds that were run; the figures of the single seeds stand "
        "beside it. All target test images are measured. Epochs are picked without target "
        "labels; [choices](choices.md) and the searches below tell how the settings "
        "were chosen. Most of the runs had another "
        "[order of the images](choices.md#the-order-of-the-images) than their command gives now. "
        f"{data_line()}",
        "",
        "- last epoch: the target accuracy after the last epoch.",
        f"- pick: that of the epoch which `{Config().select_by}` picks without labels.",
        "- oracle: that of the best epoch. It uses target labels, so it is no result.",
        "- source: the accuracy on up to 2,000 source images that were held out.",
        "- epochs: those of each stage.",
        "",
        "![target accuracy per epoch](../image/results.png)",
        "![t-SNE of the features](../image/embedding.png)",
    ]
    for pair in PAIRS:
        if any(key[0] == pair for key in runs):
            lines += ["", *(captchas(runs) if pair == "captcha" else section(runs, pair))]
    for part in (time_to_accuracy(runs) if seconds_of_epochs() else [], criteria(runs), searches()):
        lines += ["", *part] if part else []
    return "\n".join(lines) + "\n"


def section(runs: Runs, pair: str) -> list[str]:
    """Returns the table of a pair, with the command of each row."""
    lines = [
        f"## {PAIRS[pair].title}",
        "",
        "| | last epoch | seeds | pick | *oracle* | source | epochs |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    commands = []
    for row in PAIRS[pair].rows:
        some = runs_of(runs, pair, row)
        if not some:
            continue
        last = [run.rows[-1] for run in some]
        cells = [
            ROWS[row].title,
            spread([one["val_image_cls_acc"] for one in last]),
            " ".join(short(one["val_image_cls_acc"]) for one in last),
            spread([run.pick(Config().select_by)["val_image_cls_acc"] for run in some]),
            f"*{spread([max(accuracies(run)) for run in some])}*",
            "–" if "target_only" in ROWS[row].flags
            else spread([one["labelled_image_cls_acc"] for one in last]),
            " + ".join(map(str, some[0].epochs)),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
        commands.append(f"- {ROWS[row].title}: `{some[0].facts.command}`")
    for title, figures in PUBLISHED.get(pair, ()):
        lines.append(f"| *published, {title}* | {figures} | | | | | |")
    return [*lines, "", "The command of each row, for its first seed:", "", *commands]


def captchas(runs: Runs) -> list[str]:
    """Returns the table of captchas: of each position, of characters, of whole strings."""
    names = [f"val_position{n}_acc" for n in (1, 2, 3)] + ["val_image_cls_acc",
                                                           "val_whole_string_acc"]  # fmt: skip
    adapted, statistics, tutorial = (runs_of(runs, "captcha", row)
                                     for row in ("captcha", "captcha_statistics",
                                                 "captcha_tutorial"))  # fmt: skip
    before = [run.stages[0][-1] for run in adapted]
    after = [run.rows[-1] for run in adapted]
    stages = {
        "source only: the first stage": before,
        ROWS["captcha_statistics"].title: [run.rows[-1] for run in statistics],
        "ADDA, last epoch": after,
        "ADDA, pick": [run.pick(Config().select_by) for run in adapted],
        "the tutorial's first stage": [run.stages[0][-1] for run in tutorial],
        ROWS["captcha_tutorial"].title: [run.rows[-1] for run in tutorial],
    }
    lines = [
        f"## {PAIRS['captcha'].title}",
        "",
        "| | first | second | third | characters | whole strings |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for title, rows in stages.items():
        if rows:
            cells = [spread([row[name] for row in rows]) for name in names]
            lines.append(f"| {' | '.join([title, *cells])} |")
    if not adapted:
        return lines
    worse = sum(one["val_image_cls_acc"] > two["val_image_cls_acc"]
                for one, two in zip(before, after, strict=True))  # fmt: skip
    discriminator = spread([row["train_domain_cls_acc"] for row in after])
    return [
        *lines,
        "",
        f"Runs that ended below source only: {worse} of {len(adapted)}. The discriminator's "
        f"accuracy in the last epoch: {discriminator}. The command: `{adapted[0].facts.command}`.",
    ]


def time_to_accuracy(runs: Runs) -> list[str]:
    """Returns the epochs and minutes that each row takes to some accuracies on MNIST-M."""
    lines = [
        "## Time to an accuracy, MNIST → MNIST-M",
        "",
        "The first epoch with at least this target accuracy, and the minutes until then on two "
        "idle cores: medians of the seeds. Epochs count through all stages. The minutes include "
        "the training of a teacher. Target labels tell when it is reached. "
        "`python benchmarks/epochs.py` measured the seconds of an epoch of each stage.",
        "",
        "| | seconds an epoch | " + " | ".join(f"{mark:.2f}" for mark in MARKS) + " |",
        "| --- | --- |" + " --- |" * len(MARKS),
    ]
    seconds = seconds_of_epochs()
    for row in PAIRS["mnist_m"].rows:
        some = runs_of(runs, "mnist_m", row)
        if not some or row not in seconds:
            continue
        taught = "--teacher" in ROWS[row].flags
        before = sum(times_of_stages(ROWS[row].after)) if taught else 0.0
        cells = [", ".join(f"{one:.1f}" for one in seconds[row])]
        for mark in MARKS:
            reached = [first_epoch(run, mark, seconds[row]) for run in some]
            epoch, spent = np.median(reached, axis=0)
            known = np.isfinite(epoch)
            cells.append(f"{epoch:.0f}: {(before + spent) / 60:.1f} min" if known else "–")
        lines.append(f"| {' | '.join([ROWS[row].title, *cells])} |")
    other = read_record(f"{PYTORCH}-0")
    if other:  # it ran alone, so its own minutes count
        end = other.rows[-1]
        cells = [f"{60 * end['minutes'] / end['epoch']:.1f}"]
        for mark in MARKS:
            first = next((row for row in other.rows if row["val_image_cls_acc"] >= mark), None)
            cells.append(f"{first['epoch']:.0f}: {first['minutes']:.1f} min" if first else "–")
        name = f"a DANN in PyTorch, {end['epoch']:.0f} epochs: `{other.facts.command}`"
        lines.append(f"| {' | '.join([name, *cells])} |")
    cells = [next((f"{epoch:,}" for epoch, accuracy in ORIGINAL.items() if accuracy >= mark), "–")
             for mark in MARKS]  # fmt: skip
    lines.append(f"| *the original repository's one run* | | {' | '.join(cells)} |")
    return lines


def seconds_of_epochs() -> dict[str, list[float]]:
    """Returns what benchmarks/epochs.py measured: seconds of an epoch of each stage, by preset."""
    found: dict[str, list[float]] = json.loads(EPOCHS.read_text("utf-8")) if EPOCHS.exists() else {}
    return found


def times_of_stages(preset: str) -> list[float]:
    """Returns the seconds of each stage of a preset of the digits; none if not measured."""
    seconds = seconds_of_epochs().get(preset)
    if seconds is None:
        return []
    return [count * one for count, one in zip(epochs_of(preset), seconds, strict=True)]


def fill_preset(name: str, text: str, runs: Runs) -> str:
    """Returns a preset's file with its accuracy and minutes."""
    pair = next((pair for pair in PAIRS if name in PAIRS[pair].rows), None)
    preset, last = json.loads(text), last_accuracies(runs, pair, name) if pair else []
    for told in ("accuracy", "minutes"):
        preset.pop(told, None)
    if last:
        preset["accuracy"] = f"{np.mean(last):.3f}".removeprefix("0")
    if minutes := minutes_of(name):
        preset["minutes"] = minutes
    return json.dumps(preset, indent=2, ensure_ascii=False) + "\n"


def fill_readme(text: str, runs: Runs, one_seed: str) -> str:
    """Returns a README with the accuracies and minutes of the presets on MNIST-M.

    Args:
        text: the README.
        runs: all runs.
        one_seed: what stands behind the accuracy of one run.
    """
    dash, kept = "–", r"\g<2>"  # where the minutes were not measured
    for row in PAIRS["mnist_m"].rows:
        last = last_accuracies(runs, "mnist_m", row)
        accuracy = spread(last, 3, one_seed) if last else "not yet run"
        minutes = minutes_of(row)
        cells = rf"(\| `{row}` \|[^|]*\|)[^|]*\|[^|]*\|[^|]*\|"
        if re.search(cells, text):
            epochs = " + ".join(map(str, epochs_of(row)))
            filled = rf"\1 {accuracy} | {epochs} | {minutes or dash} |"
            text = re.sub(cells, filled, text)
        for first, second, end in SENTENCES:
            text = re.sub(
                rf"({first.format(row)})(\S+)({second})[^\n]*",
                rf"\g<1>{minutes or kept}\g<3>{accuracy}{end}", text,
            )  # fmt: skip
    return text


def criteria(runs: Runs) -> list[str]:
    """Returns what each criterion's pick of an epoch loses against the best epoch."""
    digits = {key: run for key, run in runs.items() if PAIRS[key[0]].script == DIGITS}
    pairs = [pair for pair in PAIRS if any(key[0] == pair for key in digits)]
    lines = [
        "## The choice of an epoch without labels",
        "",
        "Points of target accuracy that the epoch of each criterion loses against the best epoch: "
        f"the mean over the runs of each pair, over all {len(digits)} runs, and the worst run.",
        "",
        "| | " + " | ".join(PAIRS[pair].title for pair in pairs) + " | all | worst |",
        "| --- |" + " --- |" * (len(pairs) + 2),
    ]
    for criterion in (*CRITERIA, "epoch"):
        lost = {key: 100 * (max(accuracies(run)) - run.pick(criterion)["val_image_cls_acc"])
                for key, run in digits.items()}  # fmt: skip
        if lost:
            groups = [np.mean([value for key, value in lost.items() if key[0] == pair])
                      for pair in pairs]  # fmt: skip
            cells = [f"{value:.1f}" for value in (*groups, np.mean(list(lost.values())),
                                                  max(lost.values()))]  # fmt: skip
            name = "last epoch" if criterion == "epoch" else criterion
            lines.append(f"| {' | '.join([name, *cells])} |")
    return lines


def searches() -> list[str]:
    """Returns what `make search` found, and what each choice would have cost."""
    lines = []
    for file in sorted((ROOT / "docs" / "search").glob("*.json")):
        scores = json.loads(file.read_text("utf-8"))
        names = list(next(iter(scores.values())))
        lines += [
            f"## The search for {file.stem}",
            "",
            "`make search` trains these candidates without a target label. Each column but the "
            "last ranks them without labels; ensv depends on which candidates there are. The last "
            "column is the accuracy on target training images that were held out. It "
            "serves only to compute what each choice loses against the best candidate.",
            "",
            f"| | {' | '.join(name.replace('_', ' ') for name in names)} |",
            "| --- |" + " --- |" * len(names),
        ]
        for name, values in sorted(scores.items(), key=lambda item: -item[1]["ensv"]):
            lines.append(f"| {name} | {' | '.join(f'{values[key]:.4f}' for key in names)} |")
        best = max(values["held_out"] for values in scores.values())
        for criterion in names[:-1]:
            choice = max(scores, key=lambda name, by=criterion: scores[name][by])
            cost = 100 * (best - scores[choice]["held_out"])
            lines.append(
                f"\n{criterion.replace('_', ' ')} chooses {choice}. It loses {cost:.1f} points."
            )
        lines.append("")
    return lines[:-1]


def epochs_of(preset: str) -> list[int]:
    """Returns the epochs of each stage of a preset of the digits."""
    config = Config.of(read_preset(preset).settings)
    return [config.source_epoch, config.epoch] if config.first_method else [config.epoch]


def minutes_of(preset: str) -> str:
    """Returns the minutes of all epochs of a preset; nothing if they were not measured."""
    seconds = sum(times_of_stages(preset))
    return f"{seconds / 60:.0f}" if seconds else ""


def last_accuracies(runs: Runs, pair: str, row: str) -> list[float]:
    """Returns the target accuracy of each run of a row after its last epoch."""
    return [run.rows[-1]["val_image_cls_acc"] for run in runs_of(runs, pair, row)]


def runs_of(runs: Runs, pair: str, row: str) -> list[Record]:
    """Returns the runs of a row, in the order of the seeds."""
    return [run for key, run in runs.items() if key[:2] == (pair, row)]


def accuracies(run: Record) -> list[float]:
    """Returns the target accuracy of each epoch."""
    return [row["val_image_cls_acc"] for row in run.rows]


def first_epoch(run: Record, mark: float, seconds: Sequence[float]) -> tuple[float, float]:
    """Returns the first epoch with at least this target accuracy, and the seconds up to there.

    Both of all stages together; infinity if there is none.

    Args:
        run: what was trained.
        mark: the accuracy.
        seconds: those of an epoch of each stage.
    """
    epochs = spent = 0.0
    for stage, one in zip(run.stages, seconds, strict=True):
        for row in stage:
            if row["val_image_cls_acc"] >= mark:
                return epochs + row["epoch"], spent + row["epoch"] * one
        epochs, spent = epochs + stage[-1]["epoch"], spent + stage[-1]["epoch"] * one
    return float("inf"), float("inf")


def spread(values: Sequence[float], digits: int = 4, one_seed: str = ONE_SEED) -> str:
    """Returns mean ± sample standard deviation, which has a digit more where it would read 0."""
    mean = f"{np.mean(values):.{digits}f}"
    if len(values) < 2:
        return mean + one_seed
    deviation = np.std(values, ddof=1)
    small = not round(deviation, digits) and round(deviation, digits + 1)
    return f"{mean} ± {deviation:.{digits + 1 if small else digits}f}"


def short(value: float) -> str:
    return f"{value:.4f}".removeprefix("0")


def data_line() -> str:
    """Returns which MNIST-M this is; nothing if there is none here."""
    place = ROOT / Path(Config.target_dataset_path).parents[1] / "mnist_m.json"
    if not place.exists():
        return ""
    record = json.loads(place.read_text("utf-8"))
    return (
        f"MNIST-M was drawn with seed {record['seed']} from {record['digits']} "
        f"(`{record['digits_sha256'][:12]}`) and {record['photos']} "
        f"(`{record['photos_sha256'][:12]}`)."
    )
