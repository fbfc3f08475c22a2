"""The scripts as a user runs them: separate processes, real signals, real exit codes."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pytest
from helpers import (
    ROOT,
    SHORT,
    assert_same_weights,
    command,
    events,
    final_weights,
    full_disk,
    logs_of,
    model_of,
    rows_of,
    run,
    run_process,
    stop,
    the_error,
    wait_for_checkpoint,
)

from benchmarks.runner import folder_flags
from model.dann import DANN
from utils.run import collapse
from utils.run.trainer import Trainer


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, data_flags: list[str]) -> Path:
    """A run from start to end, called "plain"."""
    folder = tmp_path_factory.mktemp("run")
    flags = [*data_flags, *SHORT, *folder_flags(folder), "--run_name", "plain"]
    done = run("train_MNIST2MNIST_M.py", *flags)
    assert "device:   CPU" in done.stdout
    assert "target accuracy: 0." in done.stdout
    return folder


@pytest.mark.parametrize("number", [
    signal.SIGKILL,
    pytest.param(signal.SIGTERM, marks=pytest.mark.long),
    pytest.param(signal.SIGINT, marks=pytest.mark.long),
])  # fmt: skip
def test_a_stopped_run_ends_bit_identical(
    undisturbed: Path, tmp_path: Path, data_flags: list[str], number: signal.Signals
) -> None:
    flags = [*data_flags, *SHORT, *folder_flags(tmp_path), "--run_name", "stopped"]
    done = stop(tmp_path, "train_MNIST2MNIST_M.py", *flags, number=number)
    logs = logs_of(tmp_path, "stopped")
    assert done.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 75, signal.SIGINT: 130}[number]
    if number != signal.SIGKILL:
        assert f"train_MNIST2MNIST_M.py --resume {logs}" in done.stdout
    assert not list(tmp_path.rglob("trained_*.keras"))  # it was stopped before its end
    run("train_MNIST2MNIST_M.py", "--resume", logs)
    assert_same_weights(final_weights(undisturbed, "plain"), final_weights(tmp_path, "stopped"))
    plain_log = logs_of(undisturbed, "plain")
    assert (plain_log / "log.csv").read_bytes() == (logs / "log.csv").read_bytes()
    assert events(plain_log) == events(logs)


def listening_sockets(pid: int) -> set[str]:
    """The sockets of a process on which it waits for connections, from the kernel's tables."""
    mine = {str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir() if path.exists()}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in mine:  # 0A = LISTEN
                found.add(fields[1])
    return found


def test_training_opens_no_network_listener(tmp_path: Path, data_flags: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)):
        assert listening_sockets(os.getpid()), "the control: a listener is seen"
    flags = [*data_flags, *SHORT, *folder_flags(tmp_path)]
    with subprocess.Popen(
        command("train_MNIST2MNIST_M.py", *flags),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        wait_for_checkpoint(tmp_path, process)
        assert listening_sockets(process.pid) == set()
        process.kill()


def test_a_folder_that_goes_between_the_stages_is_named(
    tmp_path: Path, data_flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = Trainer.finish

    def finish_and_lose(trainer: Trainer) -> None:
        shutil.rmtree(logs_of(tmp_path, "mine"))  # while the figures are drawn
        finish(trainer)

    monkeypatch.setattr(Trainer, "finish", finish_and_lose)
    done = run("train_MNIST2MNIST_M.py", *data_flags, *SHORT, *folder_flags(tmp_path), "--method",
               "mean_teacher", "--average_decay", 0.9, "--run_name", "mine", code=2)  # fmt: skip
    assert the_error(done).endswith(
        "mine: is not whole any more; put its folders back, or start anew"
    )


def test_a_config_repeats_its_run(undisturbed: Path, tmp_path: Path) -> None:
    config = logs_of(undisturbed, "plain") / "config.json"
    saved = json.loads(config.read_text())
    assert saved["batch_size"] == 16
    assert saved["pixel_mean"] is None  # of other data it would be another
    run(
        "train_MNIST2MNIST_M.py", "--config", config, *folder_flags(tmp_path), "--run_name", "again"
    )
    assert_same_weights(final_weights(undisturbed, "plain"), final_weights(tmp_path, "again"))


@pytest.mark.long
def test_xla_computes_the_same(undisturbed: Path, tmp_path: Path) -> None:
    config = logs_of(undisturbed, "plain") / "config.json"
    # At this rate rounding does not grow, as in test_distribution.py.
    flags = ["--config", config, *folder_flags(tmp_path), "--run_name", "xla",
             "--init_learning_rate", "0.001"]  # fmt: skip
    run_process("train_MNIST2MNIST_M.py", *flags, "--jit_compile", "--epoch", "1")
    run("train_MNIST2MNIST_M.py", *flags, "--run_name", "no", "--epoch", "1")
    for xla, plain in zip(
        final_weights(tmp_path, "xla"), final_weights(tmp_path, "no"), strict=True
    ):
        np.testing.assert_allclose(xla, plain, rtol=1e-2, atol=1e-4)


def test_target_labels_never_enter_training(
    undisturbed: Path, tmp_path: Path, domains: Any
) -> None:
    """Shuffled target training labels change nothing; only target_only may read them."""
    source, target = domains
    target = {**target, "train_label": target["train_label"][::-1].copy()}
    for name, arrays in (("source", source), ("target", target)):
        (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps(arrays))
    run(
        "train_MNIST2MNIST_M.py", *SHORT, *folder_flags(tmp_path), "--run_name", "shuffled",
        "--source_dataset_path", tmp_path / "source.pkl",
        "--target_dataset_path", tmp_path / "target.pkl",
    )  # fmt: skip
    assert_same_weights(final_weights(undisturbed, "plain"), final_weights(tmp_path, "shuffled"))


@pytest.mark.long
def test_both_stages_with_the_recipe_on_held_out_images(
    tmp_path: Path, data_flags: list[str], domains: Any
) -> None:
    recipe = ["--clip_norm", "1", "--dropout", "0.5", "--augmentation", "affine_colour",
              "--average_decay", "0.9", "--held_out", "20"]  # fmt: skip
    flags = [*data_flags, *SHORT, *folder_flags(tmp_path), *recipe, "--allow_collapse"]
    run("train_MNIST2MNIST_M.py", *flags, "--run_name", "first")
    start = next(tmp_path.rglob("first/best.keras"))
    run("train_MNIST2MNIST_M.py", *flags, "--run_name", "second", "--method", "mean_teacher",
        "--pre_model_path", start, "--confidence", "0.3")  # fmt: skip
    model = model_of(tmp_path, "second")
    # What was measured are the last 20 training images, by the model that was kept.
    probabilities = keras.saving.load_model(model).predict(domains[1]["train"][-20:], verbose=0)
    right = (probabilities.argmax(axis=1) == domains[1]["train_label"][-20:]).mean()
    rows = rows_of(logs_of(tmp_path, "second"))
    assert float(rows[-1]["val_image_cls_acc"]) == pytest.approx(right, abs=1e-6)
    assert (logs_of(tmp_path, "second") / "projector_config.pbtxt").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--method", "mean_teacher"],
            "average_decay: the average of the weights is what teaches; try 0.999",
        ),
        (["--k_d", "2"], "--k_d: is not used by dann; leave it out"),
        (["--lr", "0.1"], "--lr: no such flag; did you mean --init_learning_rate"),
        (["--no-ramp"], "--no-ramp: no such flag; did you mean --no_ramp"),
        (["--preset", "recipes"], "preset: no 'recipes'; did you mean recipe?"),
        (["--held_out", "320"], "held_out: 320 leaves no training images of 320"),
    ],
)
def test_impossible_recipes_are_named(
    tmp_path: Path, data_flags: list[str], flags: list[str], message: str
) -> None:
    done = run("train_MNIST2MNIST_M.py", *data_flags, *folder_flags(tmp_path), *flags, code=2)
    assert message in the_error(done)


def test_predict_classifies_pictures_of_any_kind(
    undisturbed: Path, tmp_path: Path, domains: Any
) -> None:
    model = model_of(undisturbed, "plain")
    pictures = tmp_path / "pictures" / "deeper"
    pictures.mkdir(parents=True)
    images = domains[1]["val"][:5]
    for index, image in enumerate(images):
        cv2.imwrite(str(pictures / f"{index}.png"), image[..., ::-1])
    cv2.imwrite(str(pictures / "grey.jpg"), np.zeros((50, 70), np.uint8))
    (pictures / "broken.png").write_bytes(b"no picture")
    done = run("predict.py", "--model", model, "--images", tmp_path / "pictures",
               "--output", tmp_path / "p.csv")  # fmt: skip
    assert "6 predictions, 1 pictures skipped" in done.stdout
    assert "each picture was seen as a whole, at 28x28 pixels, RGB" in done.stdout
    assert "broken.png: does not decode" in done.stderr
    with (tmp_path / "p.csv").open() as file:
        rows = {Path(row["file"]).name: row for row in csv.DictReader(file)}
    probabilities = keras.saving.load_model(model).predict(images, verbose=0)
    for index, row in enumerate(probabilities):
        assert int(rows[f"{index}.png"]["label"]) == row.argmax()
        assert float(rows[f"{index}.png"]["probability"]) == pytest.approx(row.max(), abs=1e-4)


def test_predict_tells_every_probability_on_standard_output(
    undisturbed: Path, tmp_path: Path, domains: Any
) -> None:
    """The table stands there alone; what else there is to say goes to standard error."""
    model, image = model_of(undisturbed, "plain"), domains[1]["val"][:1]
    cv2.imwrite(str(tmp_path / "p.png"), image[0][..., ::-1])
    done = run_process("predict.py", "--model", model, "--images", tmp_path / "p.png",
                       "--probabilities", "--output", "-")  # fmt: skip
    (row,) = csv.DictReader(done.stdout.splitlines())
    expected = keras.saving.load_model(model).predict(image, verbose=0)[0]
    told = [float(row[f"p({number})"]) for number in range(10)]
    np.testing.assert_allclose(told, expected, atol=1e-4)
    assert "1 predictions" in done.stderr


def test_predict_takes_models_of_pictures_alone_and_overwrites_none(
    undisturbed: Path, tmp_path: Path
) -> None:
    features = keras.Sequential([keras.Input((32, 2)), keras.layers.Flatten()])
    DANN(features, num_labels=3).save(tmp_path / "signals.keras")
    cv2.imwrite(str(tmp_path / "p.png"), np.zeros((28, 28), np.uint8))
    flags = ["--images", tmp_path / "p.png"]
    done = run("predict.py", *flags, "--model", tmp_path / "signals.keras", code=2)
    assert "takes inputs of shape [32, 2], which are no pictures" in the_error(done)
    model = model_of(undisturbed, "plain")
    notes = tmp_path / "notes.csv"
    notes.write_text("mine\n")
    for output, message in (
        (model, "is read by this command"),
        (tmp_path / "p.png", "is read by this command"),
        (notes, "is there already, and not from this script"),
    ):
        done = run("predict.py", *flags, "--model", model, "--output", output, code=2)
        assert f"{message}; choose another output" in the_error(done)
    assert notes.read_text() == "mine\n"


def test_predict_runs_no_code_from_a_model_file(tmp_path: Path) -> None:
    witness = str(tmp_path / "witness")
    trap = keras.Sequential(
        [keras.Input((2,)), keras.layers.Lambda(lambda x: [os.system(f"mkdir {witness}"), x][1])]
    )
    trap.save(tmp_path / "trap.keras")
    Path(witness).rmdir()  # Keras ran it once to learn the output's shape
    cv2.imwrite(str(tmp_path / "p.png"), np.zeros((28, 28), np.uint8))
    done = run(
        "predict.py", "--model", tmp_path / "trap.keras", "--images", tmp_path / "p.png", code=2
    )
    assert "trap.keras: cannot be loaded" in the_error(done)
    assert not Path(witness).exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "{data}", "--images", "nowhere"], "nowhere: no such file or folder"),
        (["--model", "nowhere.keras", "--images", "{data}"], "nowhere.keras: no such file"),
        (["--model", "{data}", "--images", "{data}"], "is no .keras, .weights.h5 or .h5 file"),
        (["--model", "{data}", "--images", "{empty}"], "no pictures in it"),
    ],
)
def test_predict_names_what_is_wrong(
    tmp_path: Path, data_flags: list[str], flags: list[str], message: str
) -> None:
    places = {"data": data_flags[1], "empty": tmp_path}
    done = run("predict.py", *(flag.format(**places) for flag in flags), code=2)
    assert message in the_error(done)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_create_is_repeatable_and_follows_the_rule(
    tmp_path: Path, mnist_folder: Path, bsds_archive: Path, digits: dict[str, np.ndarray]
) -> None:
    flags = ["--mnist", mnist_folder, "--bsds", bsds_archive, "--unverified"]
    for name, seed in (("a", 42), ("b", 42), ("c", 43)):
        done = run("create_mnistm.py", *flags, "--output_dir", tmp_path / name, "--seed", seed,
                   "--picture", tmp_path / f"{name}.png")  # fmt: skip
        paths = (
            tmp_path / name / "MNIST/mnist_data.pkl",
            tmp_path / name / "MNIST_M/mnist_m_data.pkl",
        )
        assert (
            "next:    python train_MNIST2MNIST_M.py --preset recipe --epoch 15 "
            f"--source_dataset_path {paths[0]} --target_dataset_path {paths[1]}" in done.stdout
        )
    names = ("MNIST/mnist_data.pkl", "MNIST_M/mnist_m_data.pkl")
    a, b, c = ([digest(tmp_path / run_ / name) for name in names] for run_ in "abc")
    assert a == b
    assert a[0] == c[0]  # MNIST itself has no chance in it
    assert a[1] != c[1]
    mnist, mnist_m = (pickle.loads((tmp_path / "a" / name).read_bytes()) for name in names)
    for split in ("train", "val"):
        np.testing.assert_array_equal(mnist[split], np.stack([digits[split]] * 3, axis=-1))
        np.testing.assert_array_equal(mnist_m[f"{split}_label"], digits[f"{split}_label"])
        assert mnist_m[f"{split}_label"].dtype == np.int32
    note = tmp_path / "a" / "mnist_m.json"
    provenance = json.loads(note.read_text())
    assert provenance["seed"] == 42
    note.write_text(json.dumps(provenance | {"seed": 1}))
    done = run("create_mnistm.py", *flags, "--output_dir", tmp_path / "a")
    assert "holds pickles of other data" in done.stdout
    note.unlink()
    foreign = the_error(run("create_mnistm.py", *flags, "--output_dir", tmp_path / "a", code=2))
    assert "mnist_data.pkl: is not as this script wrote it" in foreign
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_create_leaves_earlier_pickles_when_it_fails(
    tmp_path: Path, mnist_folder: Path, bsds_archive: Path
) -> None:
    flags = ["--bsds", bsds_archive, "--unverified", "--output_dir", tmp_path / "out",
             "--picture", tmp_path / "p.png"]  # fmt: skip
    run("create_mnistm.py", *flags, "--mnist", mnist_folder)
    for seed, told in ((42, False), (7, True)):
        done = run("create_mnistm.py", *flags, "--mnist", mnist_folder, "--seed", seed)
        assert ("of another seed, which are replaced" in done.stdout) is told
    before = {path: digest(path) for path in tmp_path.glob("out/**/*.*") if path.is_file()}
    labels = mnist_folder / "t10k-labels-idx1-ubyte.gz"
    labels.write_bytes(labels.read_bytes()[:-9])
    done = run("create_mnistm.py", *flags, "--mnist", mnist_folder, "--seed", 1, code=2)
    assert "t10k-labels-idx1-ubyte.gz: cannot be loaded" in the_error(done)
    assert {path: digest(path) for path in tmp_path.glob("out/**/*.*") if path.is_file()} == before


def test_create_without_network_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    done = run("create_mnistm.py", "--output_dir", tmp_path / "out", code=2)
    assert "mnist.npz: could not be downloaded" in the_error(done)
    assert "--embedded" in the_error(done)
    assert not list(tmp_path.rglob("*.*"))


def test_create_on_a_full_disk_leaves_nothing(
    tmp_path: Path, mnist_folder: Path, bsds_archive: Path
) -> None:
    done = run_process(
        "create_mnistm.py", "--mnist", mnist_folder, "--bsds", bsds_archive, "--unverified",
        "--output_dir", tmp_path / "out", "--picture", tmp_path / "p.png",
        code=2, preexec_fn=full_disk,
    )  # fmt: skip
    assert "cannot be written (File too large)" in the_error(done)
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch_size", "7"], "batch_size: 7 must be a multiple of 2, for the 2 domains; try 6"),
        (["--epoch", "0"], "epoch: 0 must be 1 or more"),
        (["--gamma", "-1"], "gamma: -1.0 must be 0 or more"),
        (
            ["--source_dataset_path", "nowhere.pkl"],
            "source_dataset_path: nowhere.pkl: no such file",
        ),
        (["--resume", "nowhere"], "nowhere: holds no config.json"),
        (["--resume", "nowhere", "--epoch", "3"], "--config nowhere/config.json --epoch 3"),
        (
            ["--resume", "nowhere", "--seed", "3"],
            "--seed: --resume goes on with the run's own settings",
        ),
        (["--config", "nowhere.json"], "nowhere.json: no such file; name another"),
    ],
)
def test_train_names_what_is_wrong(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    data_flags: list[str],
    flags: list[str],
    message: str,
) -> None:
    data = [] if "--resume" in flags else data_flags
    monkeypatch.chdir(tmp_path)
    done = run("train_MNIST2MNIST_M.py", *data, *flags, code=2)
    assert message in the_error(done)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("method", "remedy"), [
    ("dann", "--clip_norm 1"), ("adda", "--adda_learning_rate"), ("mean_teacher", "--confidence"),
])  # fmt: skip
def test_collapse_ends_the_run_in_words(
    method: str,
    remedy: str,
    undisturbed: Path,
    tmp_path: Path,
    data_flags: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Weights that kill every ReLU, as a learning rate too high does."""
    monkeypatch.setattr(collapse, "STEPS", 0)
    model = keras.saving.load_model(model_of(undisturbed, "plain"))
    kernel, bias = model.feature_extractor.get_layer("conv2").weights
    kernel.assign(np.zeros(kernel.shape))
    bias.assign(np.full(bias.shape, -100.0))
    model.save(tmp_path / "dead.keras")
    flags = [*data_flags, *SHORT, *folder_flags(tmp_path), "--run_name", "b", "--method", method]
    flags += ["--average_decay", "0.9"] if method == "mean_teacher" else []
    done = run(
        "train_MNIST2MNIST_M.py", *flags, "--pre_model_path", tmp_path / "dead.keras", code=3
    )
    assert "The network has collapsed: epoch 1: " in done.stdout
    assert remedy in done.stdout


def test_the_flags_that_come_first_are_the_main_ones() -> None:
    text = run("train_MNIST2MNIST_M.py", "--help").stdout
    places = [text.index(f"\n  --{flag} ") for flag in
              ("preset", "method", "source_dataset_path", "epoch", "dropout", "seed")]  # fmt: skip
    assert places == sorted(places)
    help_of_drawings = " ".join(run("train_real2drawing.py", "--help").stdout.split())
    for off in ("--no_canny Turns this off: ", "--no_flip Turns this off: "):
        assert off in help_of_drawings


def test_a_target_without_labels_has_no_accuracy(
    tmp_path: Path, domains: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in the table, not in the log, not in the last words."""
    for name, arrays in zip(("source", "target"), domains, strict=True):
        for number, (image, label) in enumerate(
            zip(arrays["train"][:60], arrays["train_label"][:60], strict=True)
        ):
            folder = tmp_path / name / (f"{label % 2}" if name == "source" else ".")
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f"{number}.png"), image)
    flags = ["--source", tmp_path / "source", "--target", tmp_path / "target", "--epoch", 1,
             "--batch_size", 16, *folder_flags(tmp_path), "--allow_collapse"]  # fmt: skip
    done = run("train_custom.py", *flags)
    assert "target accuracy: not known, because the target has no labels" in done.stdout
    assert "0.0000" not in done.stdout
    (logs,) = (path.parent for path in (tmp_path / "logs").rglob("log.csv"))
    assert [row["val_image_cls_acc"] for row in rows_of(logs)] == [""]
    # A picture more is other data, and so is a class.
    run_folder = logs
    for file in (tmp_path / "checkpoints").rglob("trained_*"):
        file.unlink()
    shutil.copyfile(tmp_path / "target" / "0.png", tmp_path / "target" / "new.png")
    done = run("train_custom.py", "--resume", run_folder, code=2)
    assert "the data changed since this run began (target 1)" in the_error(done)
    (tmp_path / "target" / "new.png").unlink()
    shutil.copytree(tmp_path / "source" / "0", tmp_path / "source" / "2")
    done = run("train_custom.py", "--resume", run_folder, code=2)
    assert "the data changed since this run began (source" in the_error(done)


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.py")), ids=lambda path: path.stem)
def test_every_script_explains_itself(path: Path) -> None:
    """Its own words come first, then every setting with its default."""
    text = run(path.name, "--help").stdout
    fields = {"train_MNIST2MNIST_M": ["what to train:", "--method", "[dann]", "adda_learning_rate",
                                      "methods:", "presets, with", "exit codes:", "(mean_teacher)"],
              "create_mnistm": ["--bsds", "By default model_data/dataset"]}  # fmt: skip
    for field in ["--help", *fields.get(path.stem, [])]:
        assert field in text


def test_help_shows_the_values_of_a_preset() -> None:
    text = run("train_MNIST2MNIST_M.py", "--preset", "mean_teacher", "--help").stdout
    for shown in ("[1024 1024]", "[96]", "--no_relative_confidence", "  --ramp "):
        assert shown in text
