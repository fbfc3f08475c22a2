"""What each method and preset really trains with: labels, λ, heads, optimizers, schedules."""

from __future__ import annotations

import dataclasses
import inspect
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import Arrays

import train_MNIST2MNIST_M as digits
from config.base import Features, TrainingConfig
from config.config import Config
from config.methods import METHODS
from config.presets import FOLDER, Preset, presets_of, read_preset
from config.scripts import SCRIPTS
from config.settings import fields_of
from model import experiment
from model.dann import DANN
from model.networks import mnist_feature_extractor
from utils.data.domains import Domain, Domains
from utils.data.pickles import write_pickle
from utils.errors import UserError
from utils.run import flags
from utils.run.devices import mixed_policy, prepare_devices
from utils.run.launch import digests_of
from utils.run.runs import Run
from utils.run.stages import make_stages
from utils.run.trainer import Trainer


def made(
    settings: Config, domains: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[Trainer]:
    """The Trainers of a run's stages, untrained."""
    monkeypatch.setattr(experiment, "start_from", lambda model, path: None)
    prepare_devices(settings)
    run = Run(tmp_path / "logs", tmp_path / "checkpoints", tmp_path / "config")
    data = Domains([Domain(**one) for one in domains], pixel_mean=(1, 2, 3))
    try:
        return [make() for make in make_stages(run, settings, data, digits.make_experiment)]
    finally:
        keras.mixed_precision.set_global_policy("float32")


def units(head: keras.Model) -> list[int]:
    return [layer.units for layer in head.layers if isinstance(layer, keras.layers.Dense)]


def value(schedule: Any, step: int) -> float:
    return float(schedule(np.array(step)))


def lambda_at(p: float, gamma: float = 10.0) -> float:
    return 2 / (1 + math.exp(-gamma * p)) - 1


def rate_at(p: float, first: float = 0.01) -> float:
    return first / (1 + 10 * p) ** 0.75


# Whose labels enter, and λ half way and at the end of its ceiling 0.6.
CASES = {
    "dann": ("source", 0.6),
    "cdan": ("source", 0.6),
    "vada": ("source", 0.6),
    "mean_teacher": ("source", 0.6),
    "source_only": ("source", 0.0),
    "target_only": ("target", 0.0),
}


def test_each_method_with_one_model_is_a_case() -> None:
    with_one = {name for name, method in METHODS.items()
                if issubclass(experiment.model_class(method.model), DANN)}  # fmt: skip
    assert with_one == {*CASES, "student"}  # which has a test of its own


@pytest.mark.parametrize("method", METHODS)
def test_each_setting_that_a_model_has_reaches_it(method: str) -> None:
    """What stands neither in `parts` nor in `knobs` would keep its default, without a word."""
    kind = experiment.model_class(METHODS[method].model)
    arguments = {name for base in kind.mro() if base not in keras.Model.mro()
                 for name in inspect.signature(base.__init__).parameters}  # fmt: skip
    settings = {name for config in SCRIPTS.values() for name in fields_of(config)}
    settings -= {"feature_layer", "pooling"}  # these make the feature extractor
    assert arguments & settings <= {*kind.parts, *kind.knobs}


@pytest.mark.parametrize("script", SCRIPTS)
def test_settings_name_methods_that_exist(script: str) -> None:
    for field in fields_of(SCRIPTS[script]).values():
        assert field.used_by is None or {*field.used_by.methods} <= METHODS.keys()


@pytest.mark.parametrize("method", CASES)
def test_methods_with_one_model(
    method: str, domains: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, ceiling = CASES[method]
    settings = Config(
        method=method, grl_lambda=0.6, gamma=5.0, batch_size=32, epoch=3, average_decay=0.9,
        pre_model_path="any.keras", init_learning_rate=0.02, domain_loss="sum",
        normalisation="per_domain",
    )  # fmt: skip
    (trainer,) = made(settings, domains, tmp_path, monkeypatch)
    model = trainer.model
    assert type(model).__name__ == METHODS[method].model.split(".")[1]
    steps = trainer.total_steps
    assert steps == 3 * 20
    assert {norm.sides for norm in model.norms()} == {2}
    for step in (0, 7, 30, steps):
        expected = ceiling * lambda_at(step / steps, 5.0)
        assert value(trainer.schedules["grl_lambda"], step) == pytest.approx(expected, abs=1e-6)
        assert value(model.grl_lambda, step) == pytest.approx(expected, abs=1e-6)
        rate = rate_at(step / steps, 0.02)
        assert value(trainer.schedules["learning_rate"], step) == pytest.approx(rate)
    assert isinstance(model.optimizer, keras.optimizers.SGD)
    assert model.optimizer.momentum == 0.9
    assert float(model.optimizer.learning_rate) == pytest.approx(0.02)  # at step 0
    assert (model.extractor_calls, model.alternating) == ("per_domain", False)
    assert model.domain_loss == "sum"
    assert units(model.label_predictor) == [100, 100, 10]
    assert units(model.domain_classifier) == [100, 2]
    images, batch_labels, domain_numbers = (part.numpy() for part in trainer.batches.batch(0))
    np.testing.assert_array_equal(domain_numbers, np.repeat([0, 1], 16))
    shown = batch_labels >= 0
    np.testing.assert_array_equal(shown, domain_numbers == (labels == "target"))
    # The labels are those of the images: the height of the stripe tells.
    bright = images[shown].astype(int).sum(axis=(2, 3))
    heights = np.stack([bright[:, 2 + 2 * c : 6 + 2 * c].sum(axis=1) for c in range(10)], axis=1)
    assert (heights.argmax(axis=1) == batch_labels[shown]).mean() > 0.9
    measured = next(iter(trainer.evaluation.labelled))
    assert set(measured[2].numpy()) == {int(labels == "target")}
    assert set(next(iter(trainer.evaluation.target))[2].numpy()) == {1}
    assert set(next(iter(trainer.evaluation.unlabelled))[1].numpy()) == {-1}


def test_xla_with_augmentation_is_refused(
    domains: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Config(augmentation="affine", jit_compile=True)
    with pytest.raises(UserError, match="jit_compile: XLA cannot change images"):
        made(settings, domains, tmp_path, monkeypatch)


SEEN: dict[Features, tuple[int, bool]] = {
    "convolutional": (768, False), "hidden": (100, True), "logits": (10, True),
}  # fmt: skip


@pytest.mark.parametrize("features", SEEN)
def test_the_reversed_gradient_reaches_what_the_domain_classifier_sees(
    features: Features, domains: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: after one step with λ = 0 the hidden layers differ only where they are seen."""
    width, reached = SEEN[features]
    after = []
    for grl_lambda in (0.0, 5.0):
        settings = Config(
            features=features, grl_lambda=grl_lambda, ramp=False, batch_size=32, epoch=1,
            domain_hidden=(),
        )  # fmt: skip
        (trainer,) = made(settings, domains, tmp_path, monkeypatch)
        model = trainer.model
        assert model.domain_classifier.input_shape == (None, width)
        (hidden,) = [weight for weight in model.trainable_weights if "dense2/k" in weight.path]
        model.train_step(trainer.batches.batch(0))
        after.append(hidden.numpy())
        images = domains[1]["val"]
        features_of_them = model.feature_extractor.predict(images, verbose=0)
        logits = model.label_predictor.predict(features_of_them, verbose=0)
        predicted = model.predict(images, verbose=0)
        np.testing.assert_allclose(predicted, tf.nn.softmax(logits), atol=1e-6)
    assert np.array_equal(*after) is not reached


def paper_extractor() -> keras.Model:
    return mnist_feature_extractor((28, 28, 3), (1.0, 2.0, 3.0))


def test_a_student_learns_the_teachers_labels(
    domains: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common: dict[str, Any] = {"batch_size": 32, "epoch": 3}
    (trainer,) = made(Config(**common), domains, tmp_path, monkeypatch)
    file = tmp_path / "teacher.keras"
    trainer.model.save(file)
    settings = Config(method="student", teacher=str(file), network="wide", **common)
    (student,) = made(settings, domains, tmp_path, monkeypatch)
    assert student.model.feature_extractor.output_shape != (None, 768)
    for step in range(3):
        images, labels, numbers = (part.numpy() for part in student.batches.batch(step))
        np.testing.assert_array_equal(numbers, np.repeat([0, 1], 16))
        own = trainer.batches.batch(step)[1].numpy()
        np.testing.assert_array_equal(labels[:16], own[:16])
        told = trainer.model.predict(images[16:], verbose=0).argmax(axis=1)
        np.testing.assert_array_equal(labels[16:], told)
    assert value(student.model.grl_lambda, student.total_steps) == 0.0
    assert set(next(iter(student.evaluation.labelled))[2].numpy()) == {0}


def test_a_teacher_of_other_images_is_refused(
    domains: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extractor = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()])
    file = tmp_path / "teacher.keras"
    DANN(extractor, num_labels=10).save(file)
    settings = Config(method="student", teacher=str(file))
    with pytest.raises(UserError, match=r"takes images of \(8, 8, 1\)"):
        made(settings, domains, tmp_path, monkeypatch)
    DANN(paper_extractor(), num_labels=26).save(file)
    with pytest.raises(UserError, match=r"tells classes of \(26,\); this run needs \(10,\)"):
        made(settings, domains, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "student"}, "a student needs one"),
        ({"method": "mean_teacher", "first_stage": "student"}, "a student needs one"),
        ({"method": "mean_teacher", "teacher": __file__}, "no student learns from it"),
        ({"teacher": __file__}, "no student learns from it"),
        ({"method": "mean_teacher", "first_stage": "target_only"}, "trains target_only"),
    ],
)
def test_a_teacher_is_named_where_there_is_a_student(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        Config(average_decay=0.9, **settings).check_paths()


def test_a_second_stage_after_a_student_may_begin_anew() -> None:
    again = Config(method="mean_teacher", average_decay=0.9, first_stage="student",
                   teacher=__file__, pre_model_path=__file__)  # fmt: skip
    TrainingConfig.check_paths(again)


def test_two_replicas_hear_one_teacher(
    domains: Arrays, two_replicas: tf.distribute.Strategy
) -> None:
    images = np.concatenate([domains[1]["train"]] * 4)  # more than one batch
    teacher = DANN(paper_extractor(), num_labels=10)
    alone = experiment.labels_by(teacher, images)
    assert len(alone) == len(images) > 500
    with two_replicas.scope():
        np.testing.assert_array_equal(experiment.labels_by(teacher, images), alone)


def test_another_teacher_is_other_data(tmp_path: Path, domains: Arrays) -> None:
    file = tmp_path / "teacher.keras"
    data = Domains([Domain(**one) for one in domains])
    digests = []
    for content in (b"one", b"two"):
        file.write_bytes(content)
        digests.append(digests_of(Config(method="student", teacher=str(file)), data))
    assert digests[0].keys() == {"source", "target 1", "teacher"}
    assert [name for name in digests[0] if digests[0][name] != digests[1][name]] == ["teacher"]
    assert digests_of(Config(), data).keys() == {"source", "target 1"}


def test_adda_has_two_stages(
    domains: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Config(
        method="adda", source_epoch=2, epoch=3, batch_size=32, grl_lambda=0.7, k_d=2, k_g=3,
        discriminator_steps=5, adda_learning_rate=0.004, discriminator_learning_rate=0.002,
        normalisation="per_domain",
    )  # fmt: skip
    first, second = made(settings, domains, tmp_path, monkeypatch)
    assert (type(first.model).__name__, type(second.model).__name__) == ("SourceModel", "ADDA")
    assert (first.total_steps, second.total_steps) == (40, 60)
    images, labels, numbers = (part.numpy() for part in first.batches.batch(0))
    assert len(images) == 16
    assert (labels >= 0).all()
    assert not numbers.any()
    assert isinstance(first.model.optimizer, keras.optimizers.SGD)
    assert value(first.schedules["learning_rate"], 10) == pytest.approx(rate_at(0.25))
    assert first.final_model == tmp_path / "checkpoints/source/source_model.keras"
    assert units(second.model.domain_classifier) == [500, 500, 2]
    assert [norm.sides for norm in second.model.norms()] == [1, 1]
    assert value(second.schedules["grl_lambda"], 0) == pytest.approx(0.7)
    rates = [value(second.schedules["learning_rate"], step) > 0 for step in (0, 4, 5, 59)]
    assert rates == [False, False, True, True]
    for optimizer, rate, steps, delay in (
        (second.model.optimizer, 0.004, 3 * 60, 3 * 5),
        (second.model.domain_optimizer, 0.002, 2 * 60, 0),
    ):
        assert isinstance(optimizer, keras.optimizers.Adam)
        assert optimizer.beta_1 == 0.5
        schedule = optimizer._learning_rate
        assert value(schedule, delay) == pytest.approx(rate_at(delay / steps, rate))
        assert value(schedule, steps) == pytest.approx(rate_at(1.0, rate))
    assert (second.batches.batch(0)[1].numpy() >= 0).sum() == 16
    assert second.final_model == tmp_path / "checkpoints/trained_adda_mnist2mnist_m.keras"


# Of each preset of the digits what its first stage (if any) and its last train with: kind, batch,
# first rate, λ at first and last, clip norm, dropout, augmentation, decay, domain loss, the domain
# classifier's hidden units and weight, epochs.
PLAIN = (256, 0.01, 0.0, 1.0, 0.0, 0.0, None, 0.0, "mean", [100], 1.0)
RECIPE = (64, 0.05, 0.0, 2.0, 1.0, 0.5, (0.5, 64.0), 0.999, "mean", [1024, 1024], 1.0)
NORMALISED = (*RECIPE[:-1], 3.0)
STUDENT = (64, 0.05, 0.0, 0.0, 1.0, 0.2, (0.5, 64.0), 0.999, "mean", [100], 1.0)
SECOND = (96, 0.03, 2.0, 2.0, 1.0, 0.2, (0.5, 64.0), 0.999, "mean", [1024, 1024], 3.0)
PRESETS: dict[str, list[tuple[Any, ...]]] = {
    "original": [("DANN", *PLAIN, 100)],
    "paper": [("DANN", 128, *PLAIN[1:-3], "sum", *PLAIN[-2:], 100)],
    "recipe": [("DANN", *RECIPE, 60)],
    "normalised": [("DANN", *NORMALISED, 60)],
    "searched": [("DANN", *NORMALISED[:2], 2.0, 2.0, 1.0, 0.2, *NORMALISED[6:], 40)],
    "cdan": [("CDAN", *NORMALISED, 60)],
    "vada": [("VADA", *NORMALISED, 20)],
    "fast": [("DANN", *NORMALISED, 2), ("MeanTeacher", *SECOND[:2], 0.0, *SECOND[3:], 20)],
    "mean_teacher": [("DANN", *NORMALISED, 20), ("MeanTeacher", *SECOND, 40)],
    "student": [("DANN", *STUDENT, 10)],
    "wide": [("DANN", *NORMALISED, 12), ("MeanTeacher", *SECOND[:2], 0.2, 0.2, *SECOND[4:], 18)],
    "source_only": [("DANN", 256, 0.01, 0.0, 0.0, *PLAIN[4:], 10)],
    "target_only": [("DANN", 256, 0.01, 0.0, 0.0, *PLAIN[4:], 10)],
}


def test_each_preset_of_the_digits_is_looked_at() -> None:
    of_adda = {"adda", "source_augmented"}  # below
    assert {*presets_of("train_MNIST2MNIST_M.py")} == {*PRESETS} | of_adda


# As README says.
EDITED_FIRST = ("epoch", "batch_size", "init_learning_rate", "grl_lambda")


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_train_with_what_they_say(
    preset: str, domains: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Config.of(read_preset(preset).settings)
    labels = domains[1]["train_label"]
    monkeypatch.setattr(experiment, "open_teacher", lambda *about: None)
    monkeypatch.setattr(experiment, "labels_by", lambda teacher, images: labels)
    found = []
    for trainer in made(settings, domains, tmp_path, monkeypatch):
        model, end = trainer.model, trainer.total_steps
        augmentation = model.augmentation and (
            model.augmentation.contrast, model.augmentation.brightness
        )  # fmt: skip
        dropout = {layer.rate for layer in model.label_predictor.layers
                   if isinstance(layer, keras.layers.Dropout)} or {0.0}  # fmt: skip
        assert len(dropout) == 1
        found.append((
            type(model).__name__, trainer.batches.batch_size,
            value(trainer.schedules["learning_rate"], 0),
            *(round(value(model.grl_lambda, step), 3) for step in (0, end)),
            model.clip_norm, *dropout, augmentation, model.average_decay, model.domain_loss,
            units(model.domain_classifier)[:-1],
            model.domain_weight,
            trainer.settings.epoch,
        ))  # fmt: skip
    for one, two in zip(found, PRESETS[preset], strict=True):
        for a, b in zip(one, two, strict=True):
            assert a == (pytest.approx(b) if isinstance(b, float) else b)


def test_the_preset_adda(domains: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Config.of(read_preset("adda").settings)
    first, second = made(settings, domains, tmp_path, monkeypatch)
    assert (first.settings.epoch, second.settings.epoch) == (10, 3)
    assert (first.batches.batch_size, second.batches.batch_size) == (32, 256)
    expected: list[tuple[Trainer, Any]] = [
        (first, lambda p: rate_at(p, 0.05)),
        (second, lambda p: 0.0001 * (1 + math.cos(math.pi * p))),
    ]
    for trainer, rate in expected:
        end = trainer.total_steps
        for step in (0, end // 2, end):
            found = value(trainer.schedules["learning_rate"], step)
            assert found == pytest.approx(rate(step / end), rel=1e-4, abs=1e-9)
    model = first.model
    assert (model.clip_norm, model.average_decay) == (1.0, 0.999)
    assert model.augmentation.contrast == 0.5
    assert {norm.sides for norm in model.norms()} == {1}
    model = second.model
    assert (model.clip_norm, model.average_decay, model.augmentation) == (0.0, 0.999, None)
    assert len(model.norms()) == 2
    assert (model.k_d, model.k_g, model.adversarial_loss) == (1, 1, "gan")
    assert model.feature_extractor.output_shape == (None, 10)  # the logits
    assert model.label_predictor.count_params() == 0
    assert units(model.domain_classifier) == [500, 500, 2]
    for optimizer in (model.optimizer, model.domain_optimizer):
        assert isinstance(optimizer, keras.optimizers.Adam)
        assert (optimizer.beta_1, float(optimizer.learning_rate)) == (0.5, pytest.approx(0.0002))


def test_the_captcha_tutorial_has_its_networks_and_optimizers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import train_captcha
    from config.captcha import CaptchaConfig

    monkeypatch.setattr(experiment, "start_from", lambda model, path: None)
    settings = CaptchaConfig.of(read_preset("captcha_tutorial").settings)
    prepare_devices(settings)
    images, labels = np.zeros((64, 100, 100, 3), np.uint8), np.zeros((64, 3), np.int32)
    data = Domains([Domain(images, labels, images, labels)] * 2, "0123456789")
    run = Run(tmp_path / "logs", tmp_path / "checkpoints", tmp_path / "config")
    try:
        _, second = [
            make() for make in make_stages(run, settings, data, train_captcha.make_experiment)
        ]
    finally:
        keras.mixed_precision.set_global_policy("float32")
    model = second.model
    kinds = [type(layer).__name__ for layer in model.feature_extractor.layers]
    normalised = [kind for kind in kinds if kind in ("Conv2D", "BatchNormalization")]
    assert normalised == ["Conv2D", "BatchNormalization"] * 4
    assert model.feature_extractor.output_shape == (None, 30976)
    assert units(model.domain_classifier) == [100, 100, 2]
    assert model.domain_classifier.layers[0].kernel.shape == (30976, 100)
    assert (model.k_d, model.k_g, model.average_decay) == (1, 1, 0.0)
    for optimizer in (model.optimizer, model.domain_optimizer):
        assert isinstance(optimizer, keras.optimizers.SGD)
        assert (optimizer.momentum, optimizer.nesterov) == (0.9, True)
        # Keras' decay of 1e-6 a step, for 938 steps.
        steps = 938
        assert value(optimizer._learning_rate, 0) == pytest.approx(0.001)
    end = value(second.schedules["learning_rate"], second.total_steps)
    assert end == pytest.approx(0.001 / (1 + 1e-6 * steps), rel=1e-3)


def test_no_preset_says_what_is_already_so_or_is_not_used() -> None:
    """A preset is what differs; a setting that its method ignores would be a lie."""
    names = {name for script in SCRIPTS for name in presets_of(script)}
    assert names == {path.stem for path in FOLDER.glob("*.json")}
    for name, preset in presets_of("train_MNIST2MNIST_M.py").items():
        method = Config.of(preset.settings).method
        used = [field for field in EDITED_FIRST
                if method in (fields_of(Config)[field].used_by or [method])]  # fmt: skip
        used += ["method", "network", "normalisation", "features"]
        assert {*used} <= {*preset.settings}, f"{name}: an edited default would change it"
    for script, kind in SCRIPTS.items():
        for name, preset in presets_of(script).items():
            settings = kind.of(preset.settings)
            for field, content in preset.settings.items():
                if field not in (*EDITED_FIRST, "method", "network", "normalisation", "features"):
                    assert getattr(kind(), field) != content, f"{name}: {field}"
                used_by = fields_of(kind)[field].used_by
                assert used_by is None or settings.method in used_by, f"{name}: {field}"


def test_a_default_that_was_edited_for_another_method_changes_nothing() -> None:
    @dataclass(frozen=True)
    class Edited(Config):
        k_d: int = 3
        target_ratio: int = 3
        adda_learning_rate: float = 0.5

    plain = flags.make_settings(Edited, flags.Start(), {})
    assert (plain.k_d, plain.target_ratio) == (1, 3)
    adda = flags.make_settings(Edited, flags.Start(), {"method": "adda"})
    assert (adda.k_d, adda.target_ratio, adda.adda_learning_rate) == (3, 1, 0.5)


def test_a_default_that_a_preset_does_not_use_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not in its last stage, nor in its first: 256 is no multiple of 3."""

    @dataclass(frozen=True)
    class Edited(Config):
        target_ratio: int = 2
        batch_size: int = 96

    monkeypatch.setattr("sys.argv", ["train_MNIST2MNIST_M.py"])
    adda = flags.make_settings(Edited, flags.Start(preset="adda"), {})
    assert (adda.target_ratio, adda.batch_size) == (1, 256)
    given = {"method": "adda", "batch_size": 64, "first_stage": "source_augmented"}
    adda = flags.make_settings(Edited, flags.Start(), given)
    assert (adda.target_ratio, adda.of_first_stage("source_model").target_ratio) == (1, 1)


def test_a_run_of_another_method_says_nothing_of_what_it_does_not_use(tmp_path: Path) -> None:
    run_of_dann = flags.make_settings(Config, flags.Start(), {"epoch": 7})
    run_of_dann.save(tmp_path / "config.json")
    start = flags.Start(config=tmp_path / "config.json")
    adda = flags.make_settings(Config, start, {"method": "adda"})
    assert (adda.epoch, adda.adda_learning_rate) == (7, Config.adda_learning_rate)


def test_a_preset_for_another_method_leaves_what_that_does_not_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.argv", ["train_MNIST2MNIST_M.py"])
    preset = {"confidence": 0.5, "target_ratio": 2, "batch_size": 96, "average_decay": 0.9}
    monkeypatch.setattr(
        flags, "read_preset", lambda *_: Preset("", "train_MNIST2MNIST_M.py", preset)
    )
    monkeypatch.setattr(flags, "PRESETS", Path())
    start = flags.Start(preset="any")
    teacher = {"method": "mean_teacher"}
    assert flags.make_settings(Config, start, teacher).confidence == 0.5
    settings = flags.make_settings(Config, start, {"method": "source_only"})
    assert (settings.confidence, settings.target_ratio) == (Config.confidence, 2)
    assert flags.make_settings(Config, start, {"method": "adda"}).target_ratio == 1
    with pytest.raises(UserError, match="--confidence: is not used by source_only"):
        flags.make_settings(Config, start, {"method": "source_only", "confidence": 0.3})


@pytest.mark.parametrize(
    ("flag", "unused", "used"),
    [
        ({"lr_alpha": 5.0}, {"lr_schedule": "cosine"}, {"lr_schedule": "annealed"}),
        ({"lr_beta": 0.5}, {"lr_schedule": "cosine"}, {"lr_schedule": "annealed"}),
        ({"lr_beta": 0.5}, {"lr_alpha": 0.0}, {"lr_alpha": 1.0}),
        ({"gamma": 5.0}, {"ramp": False}, {"ramp": True}),
    ],
)
def test_a_flag_of_a_schedule_that_is_not_followed_is_refused(
    flag: dict[str, float], unused: dict[str, Any], used: dict[str, Any]
) -> None:
    (name,) = flag
    with pytest.raises(UserError, match=f"--{name}: .* does not use it; leave it out"):
        flags.make_settings(Config, flags.Start(), flag | unused)
    assert getattr(flags.make_settings(Config, flags.Start(), flag | used), name) == flag[name]
    flags.make_settings(Config, flags.Start(), unused)  # a default that has no use is no flag


def test_a_domain_classifier_may_have_no_hidden_layer(domains: Arrays) -> None:
    data = Domains([Domain(**arrays) for arrays in domains], pixel_mean=(1, 2, 3))
    for hidden, expected in (((), [2]), (None, [100, 2])):
        given = digits.make_experiment(Config(domain_hidden=hidden), data)
        assert units(given.domain_classifier((16,))) == expected


def test_digits_of_one_class_alone_are_refused(domains: Arrays, tmp_path: Path) -> None:
    paths = [tmp_path / "source.pkl", tmp_path / "target.pkl"]
    for path, arrays in zip(paths, domains, strict=True):
        write_pickle(path, arrays)
    settings = Config(source_dataset_path=str(paths[0]), target_dataset_path=str(paths[1]))
    one = dataclasses.replace(settings, source_images=1)
    with pytest.raises(UserError, match=r"source\.pkl: the images to train with are of one class"):
        digits.read_data(one)
    digits.read_data(settings)
    digits.read_data(dataclasses.replace(one, method="target_only"))


def test_the_network_subtracts_the_mean_of_what_it_is_trained_on(
    domains: Arrays, tmp_path: Path
) -> None:
    paths = [tmp_path / "source.pkl", tmp_path / "target.pkl"]
    for path, arrays in zip(paths, domains, strict=True):
        write_pickle(path, arrays)
    settings = Config(
        source_dataset_path=str(paths[0]), target_dataset_path=str(paths[1]), source_images=40
    )
    for given in (None, (1.0, 2.0, 3.0)):
        one = dataclasses.replace(settings, pixel_mean=given)
        data = digits.read_data(one)
        seen = np.concatenate([domain.train for domain in data.domains])
        assert len(seen) == 40 + len(domains[1]["train"])
        extractor, _ = digits.make_experiment(one, data).networks()
        (rescaling,) = (
            layer for layer in extractor.layers if isinstance(layer, keras.layers.Rescaling)
        )
        expected = given or seen.mean(axis=(0, 1, 2), dtype=np.float64)
        np.testing.assert_allclose(-255 * np.array(rescaling.offset), expected, rtol=1e-6)


def test_old_gpus_compute_in_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    def policy(*capabilities: tuple[int, int]) -> str:
        details = iter([{"compute_capability": one} for one in capabilities])
        monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda _: next(details))
        return mixed_policy(capabilities)

    assert policy() == policy((8, 0)) == policy((9, 0), (8, 6)) == "mixed_bfloat16"
    assert policy((7, 5)) == policy((8, 0), (7, 0)) == "mixed_float16"
