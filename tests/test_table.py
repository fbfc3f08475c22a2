"""make table: what it reports is what the logs say, recomputed by hand."""

from __future__ import annotations

import dataclasses
import json
import re
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from helpers import Arrays
from test_pretrained import make_dann

from benchmarks import figures, models, records, runner, table
from benchmarks import report as reported
from benchmarks.figures import curve, draw_curves
from benchmarks.records import Record, facts_now, names_kept, write_facts, write_record
from benchmarks.report import CRITERIA, fill_preset, fill_readme, report
from benchmarks.rows import PAIRS, ROWS, grid, training
from benchmarks.runner import Training
from benchmarks.search import SEARCH, ensv, mixval
from benchmarks.table import Arguments, runs_kept
from config.config import Config
from config.scripts import SCRIPTS
from predict import SHIPPED
from utils.data.pickles import write_pickle
from utils.errors import Terminated, UserError
from utils.run.flags import make_settings, read_flags

ACCURACIES = {  # of epochs; the criterion likes the middle one
    ("mnist_m", "recipe", 0): (0.5, 0.8, 0.92),
    ("mnist_m", "recipe", 1): (0.5, 0.7, 0.6),
    ("mnist_m", "source_only", 0): (0.3, 0.2, 0.4),
    ("usps", "adda", 0): (0.4, 0.6, 0.7),
    ("mnist_m", "mean_teacher", 0): (0.6, 0.7, 0.9),
}
FIRST_STAGE = {("mnist_m", "mean_teacher", 0): (0.5, 0.76)}


def keep(key: tuple[str, str, int], *stages: list[dict[str, Any]]) -> None:
    """Writes the record of a training, as if it had ended."""
    one = training(*key)
    write_record(one.name, facts_now(one.command, one.flags), stages)


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Made-up records of some runs."""
    monkeypatch.setattr(records, "FOLDER", tmp_path / "docs" / "runs")
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    monkeypatch.setattr(reported, "ROOT", tmp_path)
    monkeypatch.setattr(reported, "EPOCHS", tmp_path / "docs" / "epochs.json")
    for key, last in ACCURACIES.items():
        stages = [
            [{"epoch": epoch, "val_image_cls_acc": accuracy, "labelled_image_cls_acc": 0.98,
              **dict.fromkeys(CRITERIA, 0.5 + (epoch == 2))}
             for epoch, accuracy in enumerate(accuracies, 1)]
            for accuracies in (FIRST_STAGE.get(key), last) if accuracies
        ]  # fmt: skip
        keep(key, *stages)
    data = tmp_path / "model_data" / "dataset"
    data.mkdir(parents=True)
    told = {"seed": 42, "digits": "MNIST", "photos": "BSDS500 training"}
    digests = {"digits_sha256": "a" * 64, "photos_sha256": "b" * 64}
    (data / "mnist_m.json").write_text(json.dumps(told | digests))
    times = {"recipe": [30.0], "cdan": [9.0], "mean_teacher": [6.0, 30.0]}
    (tmp_path / "docs" / "epochs.json").write_text(json.dumps(times))
    return tmp_path


def finished() -> dict[tuple[str, str, int], Record]:
    return {key: record for key, run in grid((0, 1)).items() if (record := run.keep())}


def cells_of(text: str, title: str, heading: str = "# ") -> list[str]:
    after = text[text.index(heading) :].splitlines()
    line = next(line for line in after if line.startswith(f"| {title} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_report_says_what_the_records_say(recorded: Path) -> None:
    text = report(finished())
    recipe = cells_of(text, "recipe")
    assert recipe[1] == f"0.7600 ± {np.std([0.92, 0.6], ddof=1):.4f}"
    assert recipe[2] == ".9200 .6000"
    assert recipe[3] == f"0.7500 ± {np.std([0.8, 0.7], ddof=1):.4f}"
    assert recipe[4] == f"*0.8100 ± {np.std([0.92, 0.7], ddof=1):.4f}*"
    assert cells_of(text, "source only")[1] == "0.4000 (one seed)"
    assert cells_of(text, "ADDA", "## MNIST → USPS")[1] == "0.7000 (one seed)"
    # What the pick loses: .12, 0, .2 and .2 on MNIST-M, .1 on USPS.
    assert cells_of(text, "information_maximisation")[1:] == ["13.0", "10.0", "12.4", "20.0"]
    assert cells_of(text, "last epoch")[-1] == "10.0"
    assert ".5749 / .8149 / .9891" in text
    assert "seed 42" in text
    assert "PyTorch" not in text
    # .75 is reached by one of two seeds: epoch 2; the other never. The median is infinite.
    assert cells_of(text, "recipe", "## Time to")[1:] == ["30.0", "–", "–", "–", "–"]
    # .75 after 2 epochs of 6 s in the first stage, .9 after 3 more of 30 s: 102 s.
    reached = cells_of(text, "second stage", "## Time to")
    assert reached[1:] == ["6.0, 30.0", "2: 0.2 min", "5: 1.7 min", "–", "–"]
    assert cells_of(text, "second stage")[-1] == "2 + 3"


def test_a_curve_goes_through_all_stages(recorded: Path) -> None:
    record = training("mnist_m", "mean_teacher", 0).keep()
    assert record is not None
    assert curve(record) == [(1, 0.5), (2, 0.76), (3, 0.6), (4, 0.7), (5, 0.9)]


def test_the_picture_shows_the_presets_in_the_order_in_which_they_end(
    recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(("mnist_m", "recipe_15", 0), [{"epoch": 1, "val_image_cls_acc": 0.99}])  # no preset
    drawn: list[Any] = []
    monkeypatch.setattr(figures, "save_figure", lambda place, figure: drawn.append(figure))
    draw_curves(finished(), recorded / "results.png")
    (legend,) = (axis.get_legend() for axis in drawn[0].axes)
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["mean_teacher", "original repository's run", "recipe", "source_only"]


def test_a_record_depends_on_the_presets_that_its_flags_use() -> None:
    assert records.presets_used("--preset wide").keys() == {"wide", "normalised"}
    other = records.presets_used("--preset wide --first_stage searched")
    assert other.keys() == {"wide", "searched"}


def test_the_pytorch_run_has_its_own_minutes(recorded: Path) -> None:
    rows = [{"epoch": str(epoch), "val_image_cls_acc": str(accuracy), "minutes": str(1.5 * epoch)}
            for epoch, accuracy in enumerate((0.7, 0.76, 0.91), 1)]  # fmt: skip
    write_record(f"{reported.PYTORCH}-0", facts_now("python x.py", ""), [rows])
    cells = cells_of(report(finished()), "a DANN in PyTorch, 3 epochs: `python x.py`")
    assert cells[1:] == ["90.0", "2: 3.0 min", "3: 4.5 min", "–", "–"]


def test_the_readme_is_filled_from_the_records(recorded: Path) -> None:
    text = (
        "The preset `recipe` takes 1 minutes. The target accuracy is ?.\n"
        "| `recipe` | x | ? | 50 | ? |\n| `cdan` | y | ? | 40 | ? |\n"
    )
    assert fill_readme(text, finished(), " (one seed)") == (
        "The preset `recipe` takes 30 minutes. The target accuracy is 0.760 ± 0.226.\n"
        "| `recipe` | x | 0.760 ± 0.226 | 60 | 30 |\n| `cdan` | y | not yet run | 60 | 9 |\n"
    )


def test_presets_tell_what_to_expect(recorded: Path) -> None:
    text = '{"about": "x", "script": "y", "settings": {"epoch": 3}, "accuracy": ".1"}'
    filled = json.loads(fill_preset("recipe", text, finished()))
    told = {"accuracy": ".760", "minutes": "30"}
    assert filled == json.loads(text) | told
    untrained = json.loads(fill_preset("homework", text, finished()))
    assert "accuracy" not in untrained
    assert "minutes" not in untrained


def test_captchas_are_reported_with_their_control(recorded: Path) -> None:
    """The second character is .1 above the first, the third .2."""

    def rows(*accuracies: float) -> list[dict[str, Any]]:
        return [
            {"epoch": epoch, "val_position1_acc": value, "val_position2_acc": value + 0.1,
             "val_position3_acc": value + 0.2, "val_image_cls_acc": value + 0.1,
             "val_whole_string_acc": value**3, "train_domain_cls_acc": 0.9,
             "labelled_image_cls_acc": 0.99, "information_maximisation": -epoch}
            for epoch, value in enumerate(accuracies, 1)
        ]  # fmt: skip

    for seed, first, second in ((0, 0.3, (0.7, 0.6)), (1, 0.5, (0.5, 0.4))):
        keep(("captcha", "captcha", seed), rows(0.1, first), rows(*second))
    keep(("captcha", "captcha_statistics", 0), rows(0.55))
    text = report(finished())
    deviation = np.std([0.3, 0.5], ddof=1)
    cells = cells_of(text, "source only: the first stage")
    assert cells[1:3] == [f"0.4000 ± {deviation:.4f}", f"0.5000 ± {deviation:.4f}"]
    assert cells[5] == f"{(0.3**3 + 0.5**3) / 2:.4f} ± {np.std([0.3**3, 0.5**3], ddof=1):.4f}"
    assert cells_of(text, ROWS["captcha_statistics"].title)[3] == "0.7500 (one seed)"
    assert cells_of(text, "ADDA, last epoch")[1] == f"0.5000 ± {np.std([0.6, 0.4], ddof=1):.4f}"
    assert cells_of(text, "ADDA, pick")[1].startswith("0.6000")
    assert "ended below source only: 1 of 2." in text


def all_trainings() -> dict[str, Training]:
    searched = {training.name: training for group in SEARCH.values() for training in group.values()}
    return {training.name: training for training in grid((0,)).values()} | searched


@pytest.mark.parametrize("name", all_trainings())
def test_each_command_is_one_that_its_script_takes(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = all_trainings()[name]
    flags = one.flags.format(start="model.keras").split()
    monkeypatch.setattr("sys.argv", [one.script, *flags])
    config = SCRIPTS[one.script]
    start, values = read_flags(config, None)
    make_settings(config, start, values)


def test_every_row_and_pair_is_named_once() -> None:
    names = [run.name for run in grid((0, 1, 2)).values()]
    assert len(names) == len(set(names))
    assert {row for pair in PAIRS.values() for row in pair.rows} == set(ROWS)
    for pair in PAIRS.values():
        assert all(ROWS[row].after in ("", *pair.rows) for row in pair.rows)


@pytest.fixture
def ended(recorded: Path) -> Training:
    """A training that ended here and has no record yet."""
    one = training("mnist_m", "mean_teacher", 1)
    place = recorded / "logs/table/somewhere" / one.name
    (place / "first").mkdir(parents=True)
    columns = ["epoch", "val_image_cls_acc", *CRITERIA]
    for folder, epochs in (
        ("first", [("001", 0.5, 1.0)]), (".", [("000", 0.5, 1.0), ("001", 0.75, 1.5)]),
    ):  # fmt: skip
        rows = [[epoch, accuracy, *[score] * len(CRITERIA)] for epoch, accuracy, score in epochs]
        lines = [",".join(map(str, row)) + "\n" for row in (columns, *rows)]
        (place / folder / "log.csv").write_text("".join(lines))
    (place / "data.json").write_text('{"source": "a", "target": "b"}')
    models_of_it = recorded / "checkpoints/table/somewhere" / one.name
    models_of_it.mkdir(parents=True)
    (models_of_it / "trained_dann.keras").touch()
    write_facts(one.facts_file, facts_now(one.command, one.flags))
    return one


def test_a_training_that_ended_is_kept_as_a_record(ended: Training) -> None:
    record = ended.keep()
    assert record is not None
    assert [len(stage) for stage in record.stages] == [1, 2]
    assert record.rows[-1]["val_image_cls_acc"] == 0.75
    assert record.pick("information_maximisation")["epoch"] == 1
    assert record.facts.data["target"] == "b"
    assert set(record.facts.presets) == {"mean_teacher", "normalised"}  # with its first stage's
    with (records.FOLDER / f"{ended.name}.csv").open() as file:
        assert [line.split(",")[:2] for line in file][2:] == [["1", "001"], ["2", "000"],
                                                              ["2", "001"]]  # fmt: skip


def test_a_record_of_other_settings_does_not_count(
    ended: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a preset is edited: the old figures are not its own."""
    assert ended.keep()
    assert dataclasses.replace(ended, flags=f"{ended.flags} --epoch 3").keep() is None
    edited = {"normalised": {"epoch": 40}, "mean_teacher": {"first_stage": "normalised"}}
    monkeypatch.setattr(records, "presets_used", lambda flags: edited)
    assert ended.keep() is None
    with pytest.raises(UserError, match="was begun with other settings"):
        ended.train(1)


def test_a_training_without_its_facts_is_named(ended: Training, recorded: Path) -> None:
    ended.facts_file.write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"mean_teacher-1.json: cannot be loaded"):
        ended.check()
    ended.facts_file.unlink()
    with pytest.raises(UserError, match="was begun with unknown settings"):
        ended.check()
    next((recorded / "checkpoints").rglob("trained_*.keras")).unlink()  # stopped on its way
    (next((recorded / "logs").rglob("data.json")).parent / "config.json").touch()
    with pytest.raises(UserError, match="was begun with unknown settings"):
        ended.check()
    assert ended.ended() is None


def test_what_is_finished_is_not_trained_again(ended: Training, monkeypatch: Any) -> None:
    monkeypatch.setattr(runner.subprocess, "Popen", lambda *_, **__: pytest.fail("trained again"))
    ended.train(1)


def test_a_training_that_goes_on_keeps_the_commit_of_its_beginning(recorded: Path) -> None:
    one = training("mnist_m", "recipe", 5)
    began = dataclasses.replace(facts_now(one.command, one.flags), commit="abc1234")
    write_facts(one.facts_file, began)
    place = recorded / "logs/table/somewhere" / one.name
    place.mkdir(parents=True)
    (place / "config.json").touch()
    with pytest.raises(UserError, match="ended with code"):
        one.train(1)  # there is no such script here
    assert one.facts() == began


def test_records_of_different_data_are_named(recorded: Path) -> None:
    key = ("mnist_m", "recipe", 0)
    one = training(*key)
    made = finished()[key]
    facts = dataclasses.replace(made.facts, data={"source": "a", "target 1": "b"})
    write_record(one.name, facts, [[{"epoch": "1", "val_image_cls_acc": "0.5"}]])
    other = training("mnist_m", "source_only", 0)
    trainings = {key: one, ("mnist_m", "source_only", 0): other}
    assert set(runs_kept(trainings)) == set(trainings)
    facts = dataclasses.replace(finished()["mnist_m", "source_only", 0].facts,
                                data={"source": "a", "target 1": "c"})  # fmt: skip
    write_record(other.name, facts, [[{"epoch": "1", "val_image_cls_acc": "0.5"}]])
    with pytest.raises(UserError, match="recipe-0 and mnist_m-source_only-0: were trained on diff"):
        runs_kept(trainings)


def test_a_benchmark_tells_why_a_training_failed() -> None:
    with pytest.raises(UserError, match=r"--epoch zero: ended with code 2; error: --epoch"):
        runner.completed("train_MNIST2MNIST_M.py", "--epoch", "zero")


def test_a_failed_training_is_named(recorded: Path, monkeypatch: Any) -> None:
    bad = Training("bad", "train_MNIST2MNIST_M.py", "--epoch zero")
    with pytest.raises(UserError, match=r"bad: ended with code 2; see .*bad\.txt: .*No such file"):
        bad.train(1)  # there is no such script here
    assert bad.facts() is None  # it never began


def test_what_a_training_starts_from_is_trained_first(recorded: Path, monkeypatch: Any) -> None:
    begun = []

    def trained(self: Training, threads: int) -> None:
        begun.append(self.name)

    monkeypatch.setattr(Training, "train", trained)
    wanted = [training("mnist_m", "student", 7), training("mnist_m", "adda", 7)]
    runner.train_all(wanted, list(grid((7,)).values()), 2)
    assert set(begun) == {"mnist_m-mean_teacher-7", "mnist_m-student-7", "mnist_m-adda-7"}
    assert begun.index("mnist_m-mean_teacher-7") < begun.index("mnist_m-student-7")


def test_ctrl_c_ends_what_waits(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []

    def trained(self: Training, threads: int) -> None:
        begun.append(self.name)
        time.sleep(0.2)

    def pressed(*_: Any, **__: Any) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(Training, "train", trained)
    monkeypatch.setattr(runner, "tqdm", pressed)
    with pytest.raises(KeyboardInterrupt):
        runner.train_all([training("mnist_m", "adda", seed) for seed in range(50)], [], 1)
    assert len(begun) < 5


def test_sigterm_ends_the_training_that_runs(
    recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process hears of it, and is waited for."""
    (recorded / "asleep.py").write_text("import time\ntime.sleep(60)\n")
    one = Training("asleep", "asleep.py", "")

    def told(*_: Any, **__: Any) -> NoReturn:
        while not runner.CHILDREN:
            time.sleep(0.01)
        raise Terminated

    monkeypatch.setattr(runner, "tqdm", told)
    monkeypatch.setattr(runner, "facts_now", lambda *_: facts_now("python x.py", ""))
    began = time.monotonic()
    with pytest.raises(Terminated):
        runner.train_all([one], [], 1)
    assert time.monotonic() - began < 30
    assert not runner.CHILDREN


def test_nothing_is_trained_if_one_was_begun_with_other_settings(
    ended: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Training, "train", lambda *_: pytest.fail("trained"))
    changed = dataclasses.replace(ended, flags=f"{ended.flags} --epoch 3")
    with pytest.raises(UserError, match="was begun with other settings"):
        runner.train_all([training("mnist_m", "adda", 7), changed], [], 1)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[:40],
        lambda text: text.split("\n")[0],
        lambda text: text[: text.rindex(",")],
        lambda text: text.replace("0.92", "0.93"),
        lambda text: text[: text.rindex("\n", 0, -1) + 1],  # the last row is lost
        lambda text: text.replace('"flags"', '"flag"'),
        lambda text: text.replace("stage", "state"),
    ],
)
def test_a_damaged_record_is_named(recorded: Path, damage: Callable[[str], str]) -> None:
    path = records.FOLDER / "mnist_m-recipe-0.csv"
    assert damage(path.read_text()) != path.read_text()
    path.write_text(damage(path.read_text()))
    told = r"mnist_m-recipe-0.csv: cannot be loaded \(.*git restore it"
    with pytest.raises(UserError, match=told):
        training("mnist_m", "recipe", 0).keep()


def test_the_page_of_results_is_what_the_records_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """python benchmarks/table.py --no_train makes it so."""
    page = (records.FOLDER.parent / "results.md").read_text()
    told = re.search(r"MNIST-M was drawn with .*", page)
    assert told is not None
    monkeypatch.setattr(reported, "data_line", lambda: told[0])
    known = grid(sorted({int(name.rsplit("-", 1)[1]) for name in names_kept()}))
    assert report(runs_kept(known)) == page


def test_a_setting_that_there_is_no_more_does_not_count(recorded: Path) -> None:
    path = records.FOLDER / "mnist_m-recipe-0.csv"
    path.write_text(path.read_text().replace('"clip_norm"', '"clip_norms"'))
    assert training("mnist_m", "recipe", 0).keep() is None


def test_without_its_start_nothing_is_trained(recorded: Path) -> None:
    missing = r"starts from mnist_m-mean_teacher-7, which has no best\.keras"
    with pytest.raises(UserError, match=missing):
        training("mnist_m", "student", 7).train(1)


def test_the_best_model_of_a_row_ships_with_a_page(
    recorded: Path, monkeypatch: pytest.MonkeyPatch, domains: Arrays
) -> None:
    """Which run: the one whose criterion is highest; its accuracy is measured anew."""
    shipped = recorded / "shipped"
    shipped.mkdir()
    monkeypatch.setattr(models, "SHIPPED", shipped / "mnist2mnist_m.keras")
    monkeypatch.chdir(recorded)
    names = ("MNIST/mnist_data", "MNIST_M/mnist_m_data", "seed7/MNIST_M/mnist_m_data")
    for name, arrays in zip(names, (*domains, domains[0]), strict=True):
        path = recorded / "model_data/dataset" / f"{name}.pkl"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_pickle(path, arrays)
    model = make_dann(0)
    for seed in (0, 1):
        name = f"mnist_m-recipe-{seed}"
        checkpoints, logs = (
            recorded / folder / "table" / name for folder in ("checkpoints", "logs")
        )
        checkpoints.mkdir(parents=True)
        logs.mkdir(parents=True)
        model.save(checkpoints / "best.keras")
        (logs / "config.json").write_text(json.dumps({"run_name": name, "seed": seed}))
        one = training("mnist_m", "recipe", seed)
        write_facts(one.facts_file, facts_now(one.command, one.flags))
        kept = finished()["mnist_m", "recipe", seed]
        better: list[dict[str, Any]] = [dict(row) for row in kept.rows]
        for row in better:
            row["information_maximisation"] += seed
        write_record(name, kept.facts, [better])
    models.ship(finished(), grid((0, 1)))
    assert not list(shipped.iterdir())  # it is still in training
    (recorded / "checkpoints/table/mnist_m-recipe-1/trained_dann.keras").touch()
    models.ship(finished(), grid((0, 1)))
    assert json.loads((shipped / "recipe.json").read_text())["seed"] == 1
    text = models.describe(finished())
    cells = cells_of(text, "`recipe.keras`")
    predicted = model.predict(domains[1]["val"], verbose=0).argmax(axis=1)
    right = predicted == domains[1]["val_label"]
    again = model.predict(domains[0]["val"], verbose=0).argmax(axis=1) == domains[0]["val_label"]
    assert cells[2:5] == ["1, 2", f"{right.mean():.4f}", f"{again.mean():.4f}"]
    shares = [right[domains[1]["val_label"] == digit].mean() for digit in range(10)]
    assert cells_of(text, "recipe")[1:] == [f"{share:.3f}" for share in shares]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rows": ["recip"]}, r"rows: recip must be of source_only, "),
        ({"seeds": [0, -1]}, r"seeds: 0 -1 must be in 0"),
        ({"jobs": 0}, "jobs: 0 must be 1 or more"),
    ],
)
def test_what_does_not_exist_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Arguments.of(given)


def test_the_pages_tell_of_all_seeds(
    recorded: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where no MNIST-M is: the page of models stays then."""
    monkeypatch.chdir(recorded)
    for module in (table, models, reported):
        monkeypatch.setattr(module, "ROOT", recorded, raising=False)
    monkeypatch.setattr(table, "PRESETS", recorded)
    for name in ("README.md", "README.zh-CN.md"):
        (recorded / name).write_text("| `recipe` | x | ? | 50 | ? |\n")
    (recorded / "image").mkdir()
    changed = records.FOLDER / "usps-adda-0.csv"
    changed.write_text(changed.read_text().replace('"k_g": 1', '"k_g": 7'))
    monkeypatch.setattr("sys.argv", ["table.py", "--no_train", "--seeds", "1"])
    table.main()
    assert ".9200 .6000" in (recorded / "docs" / "results.md").read_text()
    assert "0.760 ± 0.226" in (recorded / "README.md").read_text()
    told = capsys.readouterr().out
    assert "models.md stays" in told
    assert "not counted, because their settings are others now: usps-adda-0" in told
    assert (recorded / "image" / "results.png").exists()
    monkeypatch.setattr("sys.argv", ["table.py", "--pairs", "drawings", "--rows", "vada"])
    with pytest.raises(UserError, match="none of them is trained on these pairs"):
        table.main()
    monkeypatch.setattr("sys.argv", ["table.py", "--pairs", "usps"])  # none trains without its data
    with pytest.raises(UserError, match=r"mnist_data\.pkl: no such file; check the path, or"):
        table.main()
    for place in (Config.source_dataset_path, Config.target_dataset_path):
        (recorded / place).parent.mkdir(parents=True)
        (recorded / place).touch()
    with pytest.raises(UserError, match=r"pairs: .*usps_data\.pkl: no such file; docs/data\.md"):
        table.main()


@pytest.mark.parametrize("file", sorted(SHIPPED.parent.glob("*.keras")), ids=lambda file: file.stem)
def test_models_that_ship_load_on_the_oldest_python(file: Path) -> None:
    """Its last Keras is 3.12, which knows none of these arguments."""
    with zipfile.ZipFile(file) as archive:
        config = archive.read("config.json").decode()
    for name in ("input_axes", "output_axes", "quantization_config"):
        assert name not in config


class Bright:
    """A model that takes images of a mean above 150 for class 1."""

    def predict(self, images: np.ndarray, **_: Any) -> np.ndarray:
        return np.eye(2)[(images.mean(axis=(1, 2, 3)) > 150).astype(int)]


def test_mixval_is_how_often_a_mixture_keeps_the_class() -> None:
    """0.55 · 250 + 0.45 · 0 is below 150, and 0.55 · 0 + 0.45 · 250 as well."""
    images = np.zeros((40, 2, 2, 3), np.uint8)
    images[20:] = 250
    found = mixval(Bright(), images, np.repeat([0, 1], 20))
    # As many dark images get a bright one as the other way round.
    assert found == {"intra": 1.0, "inter": 0.5}


def test_ensv_is_how_often_a_model_says_what_the_mean_says() -> None:
    sure, right, wrong = ([[0.9, 0.1], [0.1, 0.9]], [[0.6, 0.4]] * 2, [[0.4, 0.6], [0.7, 0.3]])
    assert ensv([np.array(one) for one in (sure, right, wrong)]) == [1.0, 0.5, 0.0]


def test_a_small_spread_does_not_read_as_none() -> None:
    assert reported.spread([0.9750, 0.9746, 0.9747], 3) == "0.975 ± 0.0002"
    assert reported.spread([0.94, 0.95], 3) == "0.945 ± 0.007"
    assert reported.spread([0.94, 0.94], 3) == "0.940 ± 0.000"
    assert reported.spread([0.94], 3, "") == "0.940"
