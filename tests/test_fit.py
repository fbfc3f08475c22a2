"""fit() in a stranger's hands: wrong batches, callbacks, precision, knobs, export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_same_weights
from keras.src.applications.convnext import StochasticDepth

from model.adda import ADDA, SourceModel
from model.augmentation import RandomAugmentation
from model.cdan import CDAN
from model.dann import DANN
from model.mean_teacher import MeanTeacher
from model.networks import copy_of, dense_head, layers_in_order
from model.normalisation import DomainNormalization
from model.schedules import Constant, GRLLambda
from model.vada import VADA
from utils.errors import UserError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*shuffle=True.*:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of TensorFlow's SavedModel
]
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (32, 8, 8, 1)).astype(np.uint8)
DOMAINS = np.repeat([0, 1], 16).astype(np.int32)
CLASSES = RANDOM.integers(0, 3, 32).astype(np.int32)
LABELS = np.where(DOMAINS == 0, CLASSES, -1).astype(np.int32)


def extractor() -> keras.Model:
    return keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Rescaling(1 / 255), keras.layers.Flatten(),
         keras.layers.Dense(16, "relu")], name="feature_extractor",
    )  # fmt: skip


def softmax_by_operation() -> keras.Model:
    inputs = keras.Input((16,))
    return keras.Model(inputs, keras.ops.softmax(keras.layers.Dense(3)(inputs)))


def certain(units: int, activation: str) -> keras.Model:
    """A trained head, whose probabilities are rounded to 0 and 1."""
    head = keras.Sequential([keras.Input((16,)), keras.layers.Dense(units, activation)])
    head.set_weights([1000 * weight for weight in head.get_weights()])
    return head


def two_outputs() -> keras.Model:
    inputs = keras.Input((16,))
    return keras.Model(inputs, [keras.layers.Dense(3)(inputs), keras.layers.Dense(3)(inputs)])


def dann(**options: Any) -> DANN:
    model = DANN(extractor(), num_labels=3, **options)
    model.compile("sgd")
    return model


def dataset(*parts: np.ndarray, size: int = 32) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(parts or (IMAGES, LABELS, DOMAINS)).batch(size)


def test_batches_are_checked_whatever_keras_would_compile() -> None:
    """Keras takes XLA by itself where there is a GPU, and XLA leaves assertions out."""
    model = dann()
    model.compile("sgd")
    assert model.jit_compile is False


def test_without_labels_their_metrics_are_unknown() -> None:
    """So that no callback takes 0 for a perfect loss."""
    unlabelled = dataset(IMAGES, np.full_like(LABELS, -1), DOMAINS)
    history = dann().fit(dataset(), validation_data=unlabelled, verbose=0).history
    for name in ("val_loss", "val_image_cls_loss", "val_image_cls_acc"):
        assert np.isnan(history[name][0])
    for name in ("loss", "image_cls_loss", "image_cls_acc", "val_domain_cls_acc"):
        assert np.isfinite(history[name][0])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((IMAGES, LABELS), r"must be \(images, labels, domains\).*got 2 parts"),
        ((IMAGES, LABELS.astype(np.float32), DOMAINS), "got labels of type float32 and"),
        ((IMAGES, np.eye(3, dtype=np.int32)[CLASSES], DOMAINS), r"and shape \(None, 3\)"),
        ((IMAGES, LABELS, DOMAINS[:, None]), r"got domains .* shape \(None, 1\)"),
    ],
)
def test_another_form_of_batches_is_shown_the_right_one(data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dann().fit(dataset(*data), verbose=0)


@pytest.mark.parametrize(
    ("data", "size", "message"),
    [
        ((IMAGES, LABELS, DOMAINS[::-1].copy()), 32, "one block of each of 2 domains"),
        ((IMAGES, LABELS, np.tile([0, 1], 16).astype(np.int32)), 32, "the source first"),
        ((IMAGES[:31], LABELS[:31], DOMAINS[:31]), 31, "drop_remainder=True"),
    ],
)
def test_blocks_in_another_order_are_refused(data: Any, size: int, message: str) -> None:
    adda = ADDA(extractor(), dense_head("l", (16,), (), 3), dense_head("d", (16,), (), 2))
    adda.compile("sgd")
    for model in (dann(extractor_calls="per_domain"), adda):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            model.fit(dataset(*data, size=size), verbose=0)


@pytest.mark.parametrize("wrong", [7, -5])
def test_classes_that_do_not_exist_are_refused_by_both_stages_of_adda(wrong: int) -> None:
    heads = dense_head("l", (16,), (), 3), dense_head("d", (16,), (), 2)
    for model in (SourceModel(extractor(), heads[0]), ADDA(extractor(), *heads)):
        model.compile("sgd")
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"labels must be in -1\.\.2"):
            model.fit(dataset(IMAGES, np.full_like(LABELS, wrong), DOMAINS), verbose=0)


def test_class_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="class_weight: is not used"):
        dann().fit(dataset(), class_weight={0: 1.0})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_norm": -1.0}, "clip_norm must be a number >= 0"),
        ({"average_decay": 1.0}, r"average_decay must be in \[0, 1\)"),
        ({"class_names": ["a"]}, "class_names must be 3"),
        ({"class_names": ["a", "b", "a"]}, "class_names must differ"),
        ({"class_names": ["1", 1, 2]}, "class_names must differ"),
        ({"augmentation": keras.layers.RandomFlip()}, "augmentation must be a RandomAugmentation"),
        ({"label_predictor": keras.Sequential([keras.layers.Dense(3)])}, "has no fixed inputs"),
        ({"label_predictor": dense_head("l", (9,), (), 3)}, r"takes \(9,\) of an image, but"),
        ({"domain_classifier": dense_head("d", (9,), (), 2)}, r"would be given \(16,\)"),
        ({"label_predictor": keras.Sequential([keras.Input((16,)), keras.Sequential([
            keras.layers.Dense(3, "softmax")])])}, "logits"),
        ({"label_predictor": softmax_by_operation()}, "logits"),
        ({"grl_lambda": -1.0}, "grl_lambda must be a number >= 0"),
        ({"grl_lambda": "much"}, "grl_lambda must be a number >= 0"),
        ({"num_labels": 5, "label_predictor": dense_head("l", (16,), (), 3)}, "num_labels is 5"),
        ({"label_predictor": keras.Sequential([keras.Input((16,)),
                                               keras.layers.Dense(3, "softmax")])}, "logits"),
        ({"domain_classifier": keras.Sequential([keras.Input((16,)),
                                                 keras.layers.Dense(1, "sigmoid")])}, "logits"),
        ({"label_predictor": keras.Sequential([keras.Input((16,)), keras.layers.Dense(3),
                                               keras.layers.Softmax()])}, "logits"),
        ({"label_predictor": keras.Sequential([
            keras.Input((16,)), keras.layers.Dense(3, "softmax"), keras.layers.Reshape((1, 3)),
            keras.layers.Activation("linear")])}, "leave softmax or sigmoid out"),
        ({"label_predictor": keras.Sequential([
            keras.Input((16,)), keras.layers.Dense(6), keras.layers.Reshape((1, 2, 3))])},
         r"must give logits \[B, num_labels\] or"),
        ({"label_predictor": certain(3, "softmax")}, "leave softmax or sigmoid out"),
        ({"domain_classifier": certain(1, "sigmoid")}, "leave softmax or sigmoid out"),
        ({"label_predictor": two_outputs(), "num_labels": None}, "must give one array of logits"),
        ({"domain_classifier": dense_head("d", (16,), (), 1), "num_domains": 3},
         "must give 3 logits"),
        ({"target_ratio": 0}, "target_ratio must be 1 or more"),
        ({"num_labels": 1}, "num_labels must be 2 or more, got 1"),
        ({"label_predictor": dense_head("l", (16,), (), 1), "num_labels": None},
         "label_predictor must give 2 logits or more, got 1"),
        ({"num_labels": None}, "give num_labels or a label_predictor"),
        ({"num_domains": 1}, "num_domains must be 2 or more, got 1"),
        ({"extractor_calls": "both"}, "got both"),
    ],
)  # fmt: skip
def test_impossible_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DANN(extractor(), **{"num_labels": 3, **options})


def test_names_of_classes_may_be_numbers() -> None:
    """predict.py and evaluate.py write them."""
    assert DANN(extractor(), num_labels=3, class_names=range(3)).classes() == ["0", "1", "2"]


def test_a_teacher_of_an_impossible_confidence_is_refused() -> None:
    with pytest.raises(ValueError, match=r"confidence must be in \[0, 1\], got 3"):
        MeanTeacher(extractor(), num_labels=3, average_decay=0.9, confidence=3)


def test_fit_with_averages_in_place_is_refused() -> None:
    """Its training was lost when the weights came back."""
    model = dann(average_decay=0.9)
    model.fit(dataset(), verbose=0)
    with model.averaged(), pytest.raises(RuntimeError, match="train and set weights outside"):
        model.fit(dataset(), verbose=0)


def test_heads_in_half_precision_are_told_to_end_in_float32() -> None:
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        head = keras.Sequential([keras.Input((16,)), keras.layers.Dense(3)])
        with pytest.raises(ValueError, match=r'logits of bfloat16.*dtype="float32"'):
            DANN(extractor(), head)
    finally:
        keras.mixed_precision.set_global_policy("float32")


def test_losses_and_metrics_are_the_methods_own() -> None:
    with pytest.raises(ValueError, match="metrics: DANN has its own"):
        DANN(extractor(), num_labels=3).compile("sgd", metrics=["accuracy"])


def test_several_outputs_are_refused() -> None:
    inputs = keras.Input((8,))
    hidden = keras.layers.Dense(4)(inputs)
    with pytest.raises(ValueError, match="has 2 outputs; choose one"):
        DANN(keras.Model(inputs, [hidden, hidden]), num_labels=3)


MODELS: dict[str, Callable[[], Any]] = {
    "dann": lambda: DANN(extractor(), num_labels=3, clip_norm=1.0),
    "alternating": lambda: DANN(extractor(), num_labels=3, alternating=True),
    "cdan": lambda: CDAN(extractor(), num_labels=3),
    "vada": lambda: VADA(extractor(), num_labels=3),
    "mean_teacher": lambda: MeanTeacher(extractor(), num_labels=3, average_decay=0.9),
    "adda": lambda: ADDA(extractor(), dense_head("l", (16,), (), 3), dense_head("d", (16,), (), 2)),
    "source_model": lambda: SourceModel(extractor(), dense_head("l", (16,), (), 3)),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_weights_move_as_far_in_half_precision(name: str, policy: str) -> None:
    """Unscaled, mixed_float16 moved them by a 32,768th."""
    moved = {}
    for one in ("float32", policy):
        keras.mixed_precision.set_global_policy(one)
        try:
            keras.utils.set_random_seed(3)
            model = MODELS[name]()
            # One in a graph, as `fit` does by itself; the others without the time that it takes.
            model.compile(keras.optimizers.SGD(0.1), run_eagerly=name != "dann")
            before = [weight.numpy() for weight in model.trainable_variables]
            model.fit(dataset(), epochs=3, verbose=0)
        finally:
            keras.mixed_precision.set_global_policy("float32")
        pairs = zip(model.trainable_variables, before, strict=True)
        moved[one] = np.concatenate([(after.numpy() - was).ravel() for after, was in pairs])
    assert np.abs(moved["float32"]).max() > 1e-3
    gap = np.linalg.norm(moved[policy] - moved["float32"]) / np.linalg.norm(moved["float32"])
    assert gap < 0.15


def weights_after(model: DANN, epochs: int = 1) -> np.ndarray:
    model.fit(dataset(), epochs=epochs, verbose=0)
    return np.concatenate([weight.numpy().ravel() for weight in model.feature_extractor.weights])


def test_a_knob_that_is_turned_between_fits_acts() -> None:
    """A second model, which had the new value from the start, does the same."""
    found = []
    for norms in ((5.0, 1e-3), (1e-3, 1e-3)):
        keras.utils.set_random_seed(1)
        model = dann(clip_norm=norms[0])
        start = [weight.numpy() for weight in model.weights]
        model.fit(dataset(), verbose=0)
        for weight, value in zip(model.weights, start, strict=True):
            weight.assign(value)
        model.optimizer.iterations.assign(0)
        model.clip_norm = norms[1]
        found.append(weights_after(model))
    np.testing.assert_array_equal(found[0], found[1])


class Ramp(keras.callbacks.Callback):
    def __init__(self, values: list[Any]):
        super().__init__()
        self.values = values

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.model.grl_lambda = self.values[epoch]


@pytest.mark.parametrize(
    "values", [[0.0, 5.0], [0.0, Constant(9, 5.0)], [Constant(9, 0.0), 5.0],
               [Constant(9, 0.0), Constant(9, 5.0)]],
)  # fmt: skip
def test_a_callback_ramps_lambda_while_fit_runs(values: list[Any]) -> None:
    """Without it the second epoch would have λ = 0, too, as the control."""
    found = []
    for callbacks in ([Ramp(values)], []):
        keras.utils.set_random_seed(1)
        model = dann(grl_lambda=0.0)
        model.fit(dataset(), epochs=2, verbose=0, callbacks=callbacks)
        found.append(model.feature_extractor.get_weights()[0])
    assert np.abs(found[0] - found[1]).max() > 1e-5


def test_a_variable_is_lambda_and_comes_back(tmp_path: Path) -> None:
    value = keras.Variable(0.25, name="mine")
    model = dann(grl_lambda=value)
    value.assign(0.75)
    assert model.grl_lambda == 0.75
    model.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").grl_lambda == 0.75


CALLBACKS = {
    "EarlyStopping": lambda _: keras.callbacks.EarlyStopping("val_image_cls_acc", mode="max"),
    "ModelCheckpoint": lambda place: keras.callbacks.ModelCheckpoint(
        place / "m.keras", "val_image_cls_acc", mode="max", save_best_only=True
    ),
    "BackupAndRestore": lambda place: keras.callbacks.BackupAndRestore(place / "backup"),
    "CSVLogger": lambda place: keras.callbacks.CSVLogger(place / "log.csv"),
    "ReduceLROnPlateau": lambda _: keras.callbacks.ReduceLROnPlateau("val_loss"),
    "LearningRateScheduler": lambda _: keras.callbacks.LearningRateScheduler(lambda n, r: r / 2),
    "TensorBoard": lambda place: keras.callbacks.TensorBoard(place / "logs"),
    "TerminateOnNaN": lambda _: keras.callbacks.TerminateOnNaN(),
    "LambdaCallback": lambda _: keras.callbacks.LambdaCallback(),
    "ProgbarLogger": lambda _: keras.callbacks.ProgbarLogger(),
    "SwapEMAWeights": lambda _: keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
}


@pytest.mark.parametrize("name", CALLBACKS)
def test_callbacks_of_keras_work(name: str, tmp_path: Path) -> None:
    model = dann()
    if name == "SwapEMAWeights":
        model.compile(keras.optimizers.SGD(use_ema=True))
    model.run_eagerly = name != "EarlyStopping"  # a graph takes seconds, one of them is enough
    callback = CALLBACKS[name](tmp_path)
    history = model.fit(
        dataset(), epochs=2, validation_data=dataset(), callbacks=[callback], verbose=0
    ).history
    assert len(history["val_image_cls_acc"]) == 2
    if name == "ModelCheckpoint":
        assert keras.saving.load_model(tmp_path / "m.keras").predict(IMAGES, verbose=0).shape == (
            32, 3,
        )  # fmt: skip


def test_export_predicts_the_same(tmp_path: Path) -> None:
    model = dann()
    model.export(tmp_path / "saved", verbose=False)
    saved = tf.saved_model.load(str(tmp_path / "saved"))
    served = saved.serve(IMAGES.astype(np.float32))
    np.testing.assert_allclose(served, model.predict(IMAGES, verbose=0), rtol=1e-5)


@pytest.mark.parametrize("shape", [(5,), (4, 3)])  # as it is, and pooled
def test_export_of_named_inputs(tmp_path: Path, shape: tuple[int, ...]) -> None:
    one, other = keras.Input(shape, name="z"), keras.Input(shape, name="a")
    difference = keras.layers.Subtract()([one, other])
    model = DANN(keras.Model({"z": one, "a": other}, difference), num_labels=3)
    inputs = {name: RANDOM.normal(size=(4, *shape)).astype(np.float32) for name in ("z", "a")}
    model.export(tmp_path / "saved", verbose=False)
    saved = tf.saved_model.load(str(tmp_path / "saved"))
    served = saved.serve(inputs)
    np.testing.assert_allclose(served, model.predict(inputs, verbose=0), rtol=1e-5)


@keras.saving.register_keras_serializable("tests")
class Doubled(keras.layers.Layer):
    """A layer that takes no dtype."""

    def __init__(self) -> None:
        super().__init__()

    def call(self, inputs: Any) -> Any:
        return 2 * inputs


@pytest.mark.filterwarnings("ignore")  # of the converter
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_onnx_predicts_the_same_whatever_the_precision(tmp_path: Path, policy: str) -> None:
    """With pooled features, a function and no layer; and with a layer of one's own."""
    from onnx.reference import ReferenceEvaluator

    def made(policy: str) -> DANN:
        keras.mixed_precision.set_global_policy(policy)
        image = keras.Input(IMAGES.shape[1:])
        outputs = keras.layers.Conv2D(4, 3)(image)
        network = keras.Model(image, Doubled()(outputs) if own else outputs)
        model = DANN(network, num_labels=3, pooling="average")
        keras.mixed_precision.set_global_policy("float32")
        return model

    own = policy == "float32"  # Keras itself cannot copy such a layer in another precision
    exact, model = made("float32"), made(policy)
    model.set_weights(exact.get_weights())
    model.export(tmp_path / "m.onnx", format="onnx", verbose=False)
    network = ReferenceEvaluator(str(tmp_path / "m.onnx"))
    (probabilities,) = network.run(None, {network.input_names[0]: IMAGES.astype(np.float32)})
    expected = exact.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(np.array(probabilities), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_averaged_weights_are_kept_in_a_file(tmp_path: Path, suffix: str) -> None:
    """And a model that was saved as its average is loaded as its average."""
    model = dann(average_decay=0.9)
    model.fit(dataset(), epochs=3, verbose=0)

    def loaded(path: Path) -> DANN:
        if suffix == ".keras":
            return keras.saving.load_model(path)
        other = dann(average_decay=0.9)
        other.load_weights(path)
        return other

    save = model.save if suffix == ".keras" else model.save_weights
    save(tmp_path / f"raw{suffix}")
    with model.averaged():
        save(tmp_path / f"mean{suffix}")
        expected = model.predict(IMAGES, verbose=0)
    assert np.abs(expected - model.predict(IMAGES, verbose=0)).max() > 1e-4
    for name in ("raw", "mean"):
        other = loaded(tmp_path / f"{name}{suffix}")
        with other.averaged():
            np.testing.assert_allclose(other.predict(IMAGES, verbose=0), expected, rtol=1e-5)
    other = loaded(tmp_path / f"raw{suffix}")
    assert model.average
    assert other.average
    np.testing.assert_array_equal(other.average.variables[-1], model.average.variables[-1])
    assert int(other.average.steps) == 3


def test_a_loaded_average_goes_on_with_normalisation_too(tmp_path: Path) -> None:
    network = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Conv2D(2, 3), DomainNormalization(),
         keras.layers.Flatten(), keras.layers.Dense(4)]
    )  # fmt: skip
    model = DANN(network, num_labels=3, average_decay=0.9, extractor_calls="per_domain")
    model.compile("sgd", run_eagerly=True)
    model.fit(dataset(), epochs=3, verbose=0)
    model.save(tmp_path / "m.keras")
    other = keras.saving.load_model(tmp_path / "m.keras")
    other.run_eagerly = True
    for one in (model, other):
        one.fit(dataset(), verbose=0)
        assert one.average
        assert int(one.average.steps) == 4
    with model.averaged(), other.averaged():
        assert_same_weights(other.get_weights(), model.get_weights())


def test_weights_that_are_loaded_between_fits_go_on_with_their_average(tmp_path: Path) -> None:
    """The compiled step is that of the first fit."""
    model, other = dann(average_decay=0.9), dann(average_decay=0.9)
    model.fit(dataset(), epochs=2, verbose=0)
    model.save_weights(tmp_path / "m.weights.h5")
    other.fit(dataset(), verbose=0)
    for one in (model, other):
        one.load_weights(tmp_path / "m.weights.h5")
        one.fit(dataset(), verbose=0)
        assert one.average
        assert int(one.average.steps) == 3
    with model.averaged(), other.averaged():
        assert_same_weights(other.get_weights(), model.get_weights())


def test_joint_batches_may_have_more_target_images() -> None:
    """As --target_ratio of the drawings and of your own pictures makes them."""
    model = dann(target_ratio=3)
    domains = np.repeat([0, 1], [8, 24]).astype(np.int32)
    labels = np.where(domains == 0, CLASSES, -1).astype(np.int32)
    history = model.fit(dataset(IMAGES, labels, domains, size=32), verbose=0).history
    assert np.isfinite(history["loss"][0])


def test_a_dictionary_is_shown_the_right_batch() -> None:
    batches = tf.data.Dataset.from_tensor_slices({"images": IMAGES, "labels": LABELS}).batch(32)
    with pytest.raises(
        ValueError, match=r"must be \(images, labels, domains\).*from_tensor_slices"
    ):
        dann().fit(batches, verbose=0)


def test_an_average_may_begin_change_and_end_between_fits() -> None:
    """It takes the weights in before each step; in the third fit with d = min(0.05, 1/11)."""
    model = dann()
    weight = model.label_predictor.trainable_variables[0]
    before = []
    for decay in (0.0, 0.5, 0.05):
        model.average_decay = decay
        before.append(weight.numpy())
        model.fit(dataset(), verbose=0)
    expected = 0.05 * before[1] + 0.95 * before[2]
    with model.averaged():
        np.testing.assert_allclose(weight, expected, rtol=1e-5, atol=1e-8)
    assert np.abs(expected - weight.numpy()).max() > 1e-6
    model.average_decay = 0.0
    model.fit(dataset(), verbose=0)
    last = weight.numpy()
    with model.averaged():
        np.testing.assert_array_equal(weight, last)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_predict_sees_inputs_as_training_does(policy: str) -> None:
    """In half precision 1001 and 999 are one number, unless a layer subtracts 1000 before."""
    try:
        keras.mixed_precision.set_global_policy(policy)
        inputs = keras.Input((4,))
        shifted = keras.layers.Rescaling(1.0, offset=-1000.0, dtype="float32")(inputs)
        model = DANN(keras.Model(inputs, keras.layers.Dense(8)(shifted)), num_labels=3)
        values = (1000 + RANDOM.normal(size=(32, 4))).astype(np.float32)
        batch = tuple(map(tf.constant, (values, LABELS, DOMAINS)))
        _, expected = model.examine(batch)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    np.testing.assert_allclose(model.predict(values, verbose=0), expected, rtol=1e-3, atol=1e-5)


def test_a_copy_has_the_statistics_of_what_was_adapted() -> None:
    values = (100 + 50 * RANDOM.normal(size=(64, 4))).astype(np.float32)
    statistics = keras.layers.Normalization()
    statistics.adapt(values)
    network = keras.Sequential([keras.Input((4,)), statistics, keras.layers.Dense(3)])
    np.testing.assert_allclose(copy_of(network)(values), network(values), rtol=1e-6)


@keras.saving.register_keras_serializable("tests")
class Tenfold(keras.Model):
    """What it does is not in its layers alone."""

    def call(self, inputs: Any, training: bool = False) -> Any:
        return 10 * super().call(inputs)


def test_a_network_with_code_of_its_own_is_not_copied() -> None:
    inputs = keras.Input((4,))
    network = Tenfold(inputs, keras.layers.Dense(16)(inputs))
    with pytest.raises(ValueError, match=r"is a .*Tenfold.*; wrap it"):
        ADDA(network, dense_head("l", (16,), (), 3), dense_head("d", (16,), (), 2))
    wrapped = keras.Model(inputs, network(inputs))
    values = RANDOM.normal(size=(5, 4)).astype(np.float32)
    np.testing.assert_allclose(copy_of(wrapped)(values), network(values), rtol=1e-6)


def test_shared_layers_are_the_first_that_are_called() -> None:
    """Also inside a network that is a layer."""
    inner = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(4, name="a"), keras.layers.Dense(4, name="b")]
    )
    encoder = keras.Sequential([keras.Input((4,)), inner, keras.layers.Dense(5, name="c")])
    heads = dense_head("l", (5,), (), 3), dense_head("d", (5,), (), 2)
    target = ADDA(encoder, *heads, shared_layers=2).feature_extractor
    frozen = {layer.name: not layer.trainable for layer in layers_in_order(target)}
    assert frozen == {"a": True, "b": True, "c": False}


@pytest.mark.parametrize("layer", [
    keras.layers.GaussianDropout(0.5), keras.layers.GaussianNoise(1.0),
    keras.layers.AlphaDropout(0.5), keras.layers.Bidirectional(keras.layers.LSTM(3, dropout=0.5)),
    keras.layers.GaussianNoise(1), StochasticDepth(0.9),
    keras.layers.RNN([keras.layers.GRUCell(3, dropout=0.5), keras.layers.GRUCell(3)]),
])  # fmt: skip
def test_the_target_encoder_has_no_chance_in_it(layer: keras.Layer) -> None:
    inputs = keras.Input((5, 4))
    features = keras.layers.Dense(6)(keras.layers.Flatten()(layer(inputs)))
    heads = dense_head("l", (6,), (), 3), dense_head("d", (6,), (), 2)
    model = ADDA(keras.Model(inputs, features), *heads)
    values = RANDOM.normal(size=(6, 5, 4)).astype(np.float32)
    trained, measured = (model.feature_extractor(values, training=on) for on in (True, False))
    np.testing.assert_allclose(trained, measured, rtol=1e-5, atol=1e-6)


def test_what_keras_would_pair_wrongly_is_refused() -> None:
    model = DANN(extractor(), num_labels=3, alternating=True)
    with pytest.raises(ValueError, match="use_ema: Keras averages the weights of one optimizer"):
        model.compile(keras.optimizers.SGD(use_ema=True))
    with pytest.raises(ValueError, match="gradient_accumulation_steps: schedules"):
        dann().compile(keras.optimizers.SGD(gradient_accumulation_steps=2))
    with pytest.raises(UserError, match="jit_compile: XLA cannot change images"):
        dann(augmentation=RandomAugmentation(0, 2)).compile("sgd", jit_compile=True)


@pytest.mark.parametrize("kind", [DANN, MeanTeacher])
def test_averages_are_kept_whichever_weights_are_frozen(kind: type[DANN], tmp_path: Path) -> None:
    """The two layers have the same shape, so they could change places."""
    network = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(8, name="a"),
         keras.layers.Dense(8, name="b")]
    )  # fmt: skip
    model = kind(network, num_labels=8, average_decay=0.9)
    model.compile(keras.optimizers.SGD(0.1))
    model.fit(dataset(IMAGES / 255.0, LABELS, DOMAINS), epochs=3, verbose=0)
    with model.averaged():
        expected = model.predict(IMAGES / 255.0, verbose=0)
    assert np.abs(expected - model.predict(IMAGES / 255.0, verbose=0)).max() > 1e-4
    network.get_layer("a").trainable = False
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    with again.averaged():
        np.testing.assert_allclose(again.predict(IMAGES / 255.0, verbose=0), expected, rtol=1e-4)
    with model.averaged(), pytest.raises(RuntimeError, match="train and set weights outside"):
        model.set_weights(model.get_weights())
    with model.averaged(), pytest.raises(RuntimeError, match="train and set weights outside"):
        model.train_on_batch(IMAGES, LABELS, DOMAINS)


@pytest.mark.filterwarnings("ignore:Layer .* does not have:UserWarning")
def test_a_model_that_is_quantized_is_its_average() -> None:
    model = dann(average_decay=0.9)
    model.compile(keras.optimizers.SGD(0.1))
    model.fit(dataset(), epochs=3, verbose=0)
    with model.averaged():
        expected = model.predict(IMAGES, verbose=0)
    model.quantize("int8")
    with model.averaged():
        np.testing.assert_allclose(model.predict(IMAGES, verbose=0), expected, atol=0.05)


def test_a_number_leaves_the_variable_that_was_lambda_alone() -> None:
    model, mine = dann(), keras.Variable(0.5)
    model.grl_lambda = mine
    model.grl_lambda = 0.25
    mine.assign(0.75)
    assert (float(mine.numpy()), model.grl_lambda) == (0.75, 0.25)


def test_the_step_is_compiled_once_whatever_lambda_is() -> None:
    model = dann(grl_lambda=0.5)
    functions = set()
    for value in (0.5, 0.5, 0.25):
        model.grl_lambda = value
        model.train_on_batch(IMAGES, LABELS, DOMAINS)
        functions.add(id(model.train_function))
    assert len(functions) == 1


def test_a_variable_may_become_lambda_between_fits() -> None:
    """The step that is compiled already must see it, and what it becomes."""
    found = []
    for value in (5.0, 0.0):
        keras.utils.set_random_seed(1)
        model = dann(grl_lambda=0.0)
        model.fit(dataset(), verbose=0)
        mine = keras.Variable(0.0)
        model.grl_lambda = mine
        mine.assign(value)
        found.append(weights_after(model))
    assert np.abs(found[0] - found[1]).max() > 1e-5


def test_a_variable_that_becomes_lambda_is_no_weight() -> None:
    model = dann()
    weights = len(model.weights)
    model.grl_lambda = keras.Variable(0.5)
    assert len(model.weights) == weights
    model.fit(dataset(), verbose=0)


def test_three_arrays_are_shown_the_right_batch() -> None:
    for call in (dann().fit, dann().evaluate):
        with pytest.raises(ValueError, match=r"must be \(images, labels, domains\)"):
            call(IMAGES, LABELS, DOMAINS)
        with pytest.raises(ValueError, match="got y, sample_weight"):
            call(x=IMAGES, y=LABELS, sample_weight=DOMAINS)


def test_classes_that_do_not_exist_are_refused_in_measuring_too() -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"labels must be in -1\.\.2"):
        dann().evaluate(dataset(IMAGES, np.full_like(LABELS, -2), DOMAINS), verbose=0)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"domains must be in 0\.\.1"):
        dann().evaluate(dataset(IMAGES, LABELS, np.full_like(DOMAINS, 2)), verbose=0)


def test_a_weight_without_a_gradient_is_no_fault_of_clipping() -> None:
    inputs = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten()(inputs)
    idle = keras.layers.Dense(2, name="idle")(flat)
    network = keras.Model(inputs, keras.layers.Dense(4, "relu")(flat) + 0 * keras.ops.sum(idle))
    model = DANN(network, num_labels=3, clip_norm=1.0)
    model.domain_classifier.trainable = False
    model.compile("sgd")
    model.fit(dataset(), verbose=0)
    alternating = dann(alternating=True, clip_norm=1.0)
    alternating.domain_classifier.trainable = False
    alternating.compile("sgd")
    alternating.fit(dataset(), verbose=0)


def test_heads_that_share_weights_are_refused() -> None:
    """The file of such a model could not be loaded."""
    shared = keras.layers.Dense(4)
    heads = [keras.Sequential([keras.Input((16,)), shared, keras.layers.Dense(size)])
             for size in (3, 2)]  # fmt: skip
    with pytest.raises(ValueError, match="share weights"):
        DANN(extractor(), *heads)


def test_counts_may_be_those_of_numpy() -> None:
    model = DANN(extractor(), num_labels=CLASSES.max() + 1, num_domains=DOMAINS.max() + 1)
    assert model(IMAGES).shape == (32, 3)


@pytest.mark.filterwarnings("ignore:.*mask.*:UserWarning")
def test_features_with_a_mask_are_refused() -> None:
    """Training would not see it, and prediction would."""
    words = keras.Input((5,), dtype="int32")
    vectors = keras.layers.Embedding(9, 4, mask_zero=True)(words)
    for pooling in ("none", "average", "flatten"):
        with pytest.raises(ValueError, match="its features have a mask"):
            DANN(keras.Model(words, vectors), num_labels=3, pooling=pooling)
    pooled = keras.layers.GlobalAveragePooling1D()(vectors)
    assert DANN(keras.Model(words, pooled), num_labels=3)(np.ones((2, 5))).shape == (2, 3)


def test_the_weight_of_the_teachers_labels_may_change_between_fits() -> None:
    found = []
    for weight in (1.0, 0.0):
        keras.utils.set_random_seed(1)
        model = MeanTeacher(extractor(), num_labels=3, average_decay=0.5, confidence=0.0)
        model.compile(keras.optimizers.SGD(0.1))
        model.fit(dataset(), verbose=0)
        model.pseudo_weight = weight
        found.append(weights_after(model))
    assert np.abs(found[0] - found[1]).max() > 1e-5


def test_another_model_of_the_same_weights_is_not_trained_inside_averaged() -> None:
    """Its training would be thrown away."""
    first = dann(average_decay=0.9)
    first.fit(dataset(), epochs=2, verbose=0)
    second = MeanTeacher(first.feature_extractor, first.label_predictor, first.domain_classifier)
    second.compile("sgd")
    with first.averaged(), pytest.raises(RuntimeError, match="train and set weights outside"):
        second.fit(dataset(), verbose=0)
    second.fit(dataset(), verbose=0)


def test_an_encoder_of_any_size_is_measured() -> None:
    """The last batch has no source image at all."""
    images = keras.Input((None, None, 1))
    encoder = keras.Model(images, keras.layers.Conv2D(4, 3)(images))

    def head(units: int) -> keras.Model:
        features = keras.Input((None, None, 4))
        pooled = keras.layers.GlobalAveragePooling2D()(features)
        return keras.Model(features, keras.layers.Dense(units)(pooled))

    model = ADDA(encoder, head(3), head(2))
    model.compile("sgd")
    measured = model.evaluate(dataset(size=16), verbose=0, return_dict=True)
    whole = model.evaluate(dataset(size=32), verbose=0, return_dict=True)
    assert float(measured["domain_cls_acc"]) == pytest.approx(float(whole["domain_cls_acc"]))


def test_clipping_knows_the_length_of_an_embeddings_gradient() -> None:
    """One word comes 20 times in each text."""
    words = keras.Input((20,), dtype="int32")
    vectors = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(3, 4)(words))
    model = DANN(keras.Model(words, vectors), num_labels=3, clip_norm=0.001)
    for head in (model.label_predictor, model.domain_classifier):
        head.trainable = False
    model.compile(keras.optimizers.SGD(1.0))
    (before,) = [weight.numpy() for weight in model.trainable_variables]
    model.fit(dataset(np.tile(CLASSES[:, None], 20), LABELS, DOMAINS), verbose=0)
    (after,) = [weight.numpy() for weight in model.trainable_variables]
    assert np.linalg.norm(after - before) == pytest.approx(0.001, rel=1e-3)


@pytest.mark.parametrize("kind", [DANN, ADDA])
def test_lambda_may_be_any_function_of_the_step(kind: type[DANN | ADDA]) -> None:
    """It does what the schedule with these values does."""
    ends = []
    for grl_lambda in (GRLLambda(9).__call__, GRLLambda(9), 0.0):
        keras.utils.set_random_seed(2)
        heads = dense_head("l", (16,), (), 3), dense_head("d", (16,), (), 2)
        model = kind(extractor(), *heads, grl_lambda=grl_lambda)
        model.compile("sgd")
        model.fit(dataset(), epochs=3, verbose=0)
        ends.append(model.get_weights())
    assert_same_weights(ends[0], ends[1])
    assert any((one != two).any() for one, two in zip(ends[0], ends[2], strict=True))


def test_augmentation_is_for_images_of_a_fixed_size() -> None:
    for shape in ((32, 2), (None, None, 1)):
        network = keras.Sequential([keras.Input(shape), keras.layers.Dense(2)])
        told = "augmentation: needs a feature_extractor with one input, images of a fixed size"
        with pytest.raises(ValueError, match=told):
            DANN(network, num_labels=3, pooling="average", augmentation=RandomAugmentation(0, 2))
