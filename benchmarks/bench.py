"""Measures speed and memory on the real pickles.

Each contender is a process of its own. They take turns, so that a busy machine is busy for all. The
figures are medians of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

BATCH, STEPS = 256, 30
# Multiply-adds times 2. Convolution 1 has no gradient to its input, which is the image.
CONV1 = 2 * BATCH * 24 * 24 * 32 * (5 * 5 * 3)
CONV2 = 2 * BATCH * 8 * 8 * 48 * (5 * 5 * 32)
DENSE = 2 * BATCH * (768 * 100 + 100 * 100 + 100 * 10 + 768 * 100 + 100 * 2)
STEP_GFLOP = (2 * CONV1 + 3 * CONV2 + 3 * DENSE) / 1e9
Round = Callable[[], dict[str, float]]


def timed(action: Callable[[], object], count: int) -> float:
    """Returns milliseconds of one of `count` that `action` does together."""
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) / count * 1e3


def recipe(batch_size: int) -> Round:
    """The Trainer's step with all that the recipe adds."""
    from config.presets import read_preset

    return trainer(read_preset("recipe").settings | {"batch_size": batch_size})


def trainer(settings: Mapping[str, Any]) -> Round:
    """The Trainer's own step with its input pipeline, and what else a run spends time on."""
    began = time.perf_counter()
    from config.config import Config
    from train_MNIST2MNIST_M import make_experiment, read_data

    config = Config.of(settings)
    data = read_data(config)
    loaded = time.perf_counter()
    from utils.run.devices import prepare_devices

    prepare_devices(config)
    import tensorflow as tf

    from utils.run.runs import Run
    from utils.run.stages import make_stages

    folder = Path(tempfile.mkdtemp())  # below that of `main`
    built = make_stages(Run(folder, folder, folder), config, data, make_experiment)[0]()
    iterator = iter(built.batches.dataset(0, 10**6))
    built.run_steps(iterator, tf.constant(1))
    first_step = time.perf_counter()
    steps = tf.constant(STEPS)
    built.run_steps(iterator, steps)
    once = {"loading, s": loaded - began, "start to first step, s": first_step - began}
    pipeline = iter(built.batches.dataset(0, 10**6))

    def round_() -> dict[str, float]:
        return once | {
            "step": timed(lambda: float(built.run_steps(iterator, steps)["loss"]), STEPS),
            "input pipeline alone": timed(lambda: [next(pipeline) for _ in range(100)], 100),
            "evaluation of 10,000, ms": timed(lambda: built.measure(built.evaluation.target), 1),
            "peak RSS, GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        }

    return round_


def network() -> tuple[Any, Any, Any]:
    from model.networks import dense_head, mnist_feature_extractor

    return (
        mnist_feature_extractor((28, 28, 3), (75.0, 76.0, 70.0)),
        dense_head("label_predictor", (768,), (100, 100), 10),
        dense_head("domain_classifier", (768,), (100,), 2),
    )


def bare(mixed_precision: bool, extractor_calls: int = 2) -> Round:
    """The ceiling: the same network on one resident batch; no pipeline, metrics or schedules."""
    from config.config import Config
    from utils.run.devices import prepare_devices

    prepare_devices(Config(mixed_precision=mixed_precision))
    import keras
    import numpy as np
    import tensorflow as tf

    from model.gradient_reversal import reverse_gradient

    extractor, predictor, classifier = network()
    weights = [w for part in (extractor, predictor, classifier) for w in part.trainable_variables]
    optimizer = keras.optimizers.SGD(0.001, 0.9)
    optimizer.build(weights)
    random = np.random.default_rng(0)
    images = tf.constant(random.integers(0, 256, (BATCH, 28, 28, 3)).astype(np.uint8))
    labels = tf.constant(random.integers(0, 10, BATCH // 2).astype(np.int32))
    domains = tf.constant(np.repeat([0, 1], BATCH // 2))
    loss_of = tf.nn.sparse_softmax_cross_entropy_with_logits

    @tf.function
    def run(steps: tf.Tensor) -> tf.Tensor:
        loss = 0.0
        for _ in tf.range(steps):
            with tf.GradientTape() as tape:
                blocks = tf.split(images, extractor_calls)
                features = tf.concat([extractor(block, training=True) for block in blocks], 0)
                label_logits = predictor(features[: BATCH // 2])
                domain_logits = classifier(reverse_gradient(features, 0.5))
                loss = tf.reduce_mean(loss_of(labels, label_logits))
                loss += tf.reduce_mean(loss_of(domains, domain_logits))
            optimizer.apply(tape.gradient(loss, weights), weights)
        return loss

    run(tf.constant(5))
    return lambda: {"step": timed(lambda: float(run(tf.constant(STEPS))), STEPS)}


def drawings(mixed_precision: bool) -> Round:
    """Two-step updates of the photos → drawings network on one resident batch of 32 + 32."""
    from config.drawings import DrawingsConfig
    from utils.run.devices import prepare_devices

    prepare_devices(DrawingsConfig(mixed_precision=mixed_precision))
    import keras
    import numpy as np
    import tensorflow as tf

    from model.dann import DANN
    from model.networks import dense_head, drawings_domain_classifier, drawings_feature_extractor

    model = DANN(
        drawings_feature_extractor((32, 32, 1)),
        dense_head("label_predictor", (512,), (512, 512), 10),
        drawings_domain_classifier((512,)),
        grl_lambda=0.1,
        alternating=True,
    )
    model.compile(keras.optimizers.Adam(0.001), keras.optimizers.Adam(0.001))
    random = np.random.default_rng(0)
    images = tf.constant(random.integers(0, 256, (64, 32, 32, 1)).astype(np.uint8))
    labels = tf.constant(np.r_[random.integers(0, 10, 32), np.full(32, -1)].astype(np.int32))
    domains = tf.constant(np.repeat([0, 1], 32).astype(np.int32))
    step = tf.function(model.train_step)

    def run() -> None:
        for _ in range(STEPS):
            results = step((images, labels, domains))
        float(results["loss"])

    run()
    return lambda: {"step": timed(run, STEPS)}


def original() -> Round:
    """The original repository's way: eager tape, the source half twice through the extractor,
    ReLU before pooling, float32 arrays in memory, a set and two scalars logged in each step."""
    from config.config import Config
    from utils.data.pickles import read_pickle
    from utils.run.devices import prepare_devices

    prepare_devices(Config())
    import keras
    import numpy as np
    import tensorflow as tf
    from keras import layers

    from model.gradient_reversal import GradientReversal

    config = Config()
    source, target = (
        read_pickle(path) for path in (config.source_dataset_path, config.target_dataset_path)
    )
    arrays = [(data["train"].astype(np.float32) - 45.652287) / 255 for data in (source, target)]
    classes = np.eye(10, dtype=np.float32)[source["train_label"]]
    del source, target
    extractor = keras.Sequential(
        [
            keras.Input((28, 28, 3)),
            layers.Conv2D(32, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(48, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
        ]
    )
    _, predictor, classifier = network()
    reversal = GradientReversal()
    weights = [w for part in (extractor, predictor, classifier) for w in part.trainable_variables]
    optimizer = keras.optimizers.SGD(0.001, 0.9)
    meters = [keras.metrics.Mean() for _ in range(5)]
    domains = np.repeat(np.eye(2, dtype=np.float32), BATCH // 2, axis=0)
    writer = tf.summary.create_file_writer(tempfile.mkdtemp())
    random = np.random.default_rng(0)
    cross_entropy = tf.nn.softmax_cross_entropy_with_logits

    def step(number: int) -> None:
        rows = [random.integers(0, len(array), BATCH // 2) for array in arrays]
        images = [array[chosen] for array, chosen in zip(arrays, rows, strict=True)]
        labels = classes[rows[0]]
        with writer.as_default():
            tf.summary.scalar("hyperparameter/learning_rate", 0.01, number)
            tf.summary.scalar("hyperparameter/grl_lambda", 0.5, number)
        with tf.GradientTape() as tape:
            label_logits = predictor(extractor(images[0]), training=True)
            label_losses = cross_entropy(labels, label_logits)
            features = extractor(np.concatenate(images))
            domain_logits = classifier(reversal(features, grl_lambda=tf.constant(0.5)))
            domain_losses = cross_entropy(domains, domain_logits)
            loss = tf.reduce_mean(label_losses) + tf.reduce_mean(domain_losses)
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        label_right = keras.metrics.categorical_accuracy(labels, label_logits)
        domain_right = keras.metrics.categorical_accuracy(domains, domain_logits)
        values = (loss, label_losses, domain_losses, label_right, domain_right)
        for meter, value in zip(meters, values, strict=True):
            meter.update_state(value)

    def steps() -> None:
        for number in range(STEPS):
            step(number)

    steps()
    return lambda: {
        "step": timed(steps, STEPS),
        "peak RSS, GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def torch_bare(mixed_precision: bool) -> Round:
    """PyTorch's bare step on one resident batch, channels last; only if PyTorch is installed."""
    import torch  # type: ignore[import-not-found,unused-ignore]
    from torch import nn  # type: ignore[import-not-found,unused-ignore]

    class Reverse(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x.view_as(x)

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            return -0.5 * gradient

    extractor = nn.Sequential(
        nn.Conv2d(3, 32, 5), nn.MaxPool2d(2), nn.ReLU(),
        nn.Conv2d(32, 48, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(),
    )  # fmt: skip
    predictor = nn.Sequential(
        nn.Linear(768, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10)
    )
    classifier = nn.Sequential(nn.Linear(768, 100), nn.ReLU(), nn.Linear(100, 2))
    for weight in extractor.parameters():
        if weight.dim() == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    parts = nn.ModuleList([extractor, predictor, classifier])
    optimizer = torch.optim.SGD(parts.parameters(), 0.001, momentum=0.9)
    images = torch.rand(BATCH, 3, 28, 28).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (BATCH // 2,))
    domains = torch.arange(2).repeat_interleave(BATCH // 2)
    loss_of = nn.CrossEntropyLoss()

    def run(steps: int) -> float:
        loss = 0.0
        for _ in range(steps):
            with torch.autocast("cpu", torch.bfloat16, enabled=mixed_precision):
                features = extractor(images)
                value = loss_of(predictor(features[: BATCH // 2]), labels) + loss_of(
                    classifier(Reverse.apply(features)), domains
                )
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            loss = float(value)
        return loss

    run(5)
    return lambda: {"step": timed(lambda: run(STEPS), STEPS)}


def matmul() -> Round:
    """This machine's matrix-multiply rate in TensorFlow, 2048×2048, GFLOP/s."""
    import tensorflow as tf

    @tf.function
    def chain(x: tf.Tensor) -> tf.Tensor:
        for _ in tf.range(10):
            x = tf.matmul(x, x) * tf.constant(1e-3, x.dtype)
        return x

    def rate(dtype: tf.DType) -> float:
        x = tf.cast(tf.random.stateless_normal((2048, 2048), (1, 2)), dtype)
        chain(x)
        return 2 * 2048**3 / timed(lambda: chain(x).numpy(), 10) / 1e6

    return lambda: {"float32": rate(tf.float32), "bfloat16": rate(tf.bfloat16)}


CONTENDERS: dict[str, Callable[[], Round]] = {
    "trainer": lambda: trainer({}),
    "trainer bfloat16": lambda: trainer({"mixed_precision": True}),
    "bare": lambda: bare(mixed_precision=False),
    "bare, one joint call": lambda: bare(mixed_precision=False, extractor_calls=1),
    "bare bfloat16": lambda: bare(mixed_precision=True),
    "original's way": original,
    "torch bare": lambda: torch_bare(mixed_precision=False),
    "torch bare bfloat16": lambda: torch_bare(mixed_precision=True),
    "matmul": matmul,
}
OTHERS: dict[str, Callable[[], Round]] = {  # STEP_GFLOP does not tell the size of their steps
    "drawings network, 32 + 32": lambda: drawings(mixed_precision=False),
    "drawings network bfloat16, 32 + 32": lambda: drawings(mixed_precision=True),
    "recipe, 32 + 32": lambda: recipe(64),
    "recipe, 128 + 128": lambda: recipe(256),
}


def contend(name: str) -> None:
    """Runs in the contender's process: one round for each line on standard input."""
    try:
        round_ = (CONTENDERS | OTHERS)[name]()
    except ImportError:
        print(json.dumps(None), flush=True)
        return
    print(json.dumps({}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(round_()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="rounds of %(default)s times each")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        contend(args.contender)
        return
    from config.config import Config
    from utils.errors import UserError

    try:
        Config().check_paths()
    except UserError as error:
        sys.exit(f"error: {error}")
    with tempfile.TemporaryDirectory() as place:
        report(measure(args.rounds, place))


def measure(rounds: int, place: str) -> dict[str, dict[str, list[float]]]:
    """Returns the figures of each contender, in a process of its own that writes into `place`."""
    processes: dict[str, subprocess.Popen[str]] = {}
    for name in CONTENDERS | OTHERS:  # one at a time, so that start-up is timed undisturbed
        process = subprocess.Popen(
            [sys.executable, __file__, "--contender", name], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**os.environ, "TMPDIR": place},
        )  # fmt: skip
        if answer(process) is not None:
            processes[name] = process
    results: dict[str, dict[str, list[float]]] = {name: {} for name in processes}
    for _ in range(rounds):
        for name, process in processes.items():
            for key, value in ask(process).items():
                results[name].setdefault(key, []).append(value)
    for process in processes.values():
        process.communicate()
    return results


def ask(process: subprocess.Popen[str]) -> dict[str, float]:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return answer(process) or {}


def answer(process: subprocess.Popen[str]) -> dict[str, float] | None:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        sys.exit(f"error: {process.args!r} died; run it by itself to see why")
    found: dict[str, float] | None = json.loads(line)
    return found


def report(results: dict[str, dict[str, list[float]]]) -> None:
    """Prints medians with their range, and the ratios that the project promises."""
    median = {
        name: {key: statistics.median(values) for key, values in figures.items()}
        for name, figures in results.items()
    }
    rate = median.pop("matmul")
    others = {name: median.pop(name)["step"] for name in OTHERS}
    print(f"{os.cpu_count()} cores, batch {BATCH}, {STEP_GFLOP:.2f} GFLOP a step, medians of "
          f"{len(results['matmul']['float32'])} interleaved rounds of {STEPS} steps\n")  # fmt: skip
    print("| contender | ms/step (min-max) | images/s | GFLOP/s | of TensorFlow's matmul |")
    print("| --- | --- | --- | --- | --- |")
    for name, figures in median.items():
        values, speed = results[name]["step"], STEP_GFLOP / figures["step"] * 1e3
        peak = rate["bfloat16" if name.endswith("bfloat16") else "float32"]
        print(
            f"| {name} | {figures['step']:.1f} ({min(values):.1f}-{max(values):.1f}) | "
            f"{BATCH / figures['step'] * 1e3:,.0f} | {speed:.0f} | {speed / peak:.0%} |"
        )
    print()
    for name, milliseconds in others.items():
        values = results[name]["step"]
        print(f"{name}: {milliseconds:.1f} ms/step ({min(values):.1f}-{max(values):.1f})")
    print(f"\nmatmul: {rate['float32']:.0f} GFLOP/s float32, {rate['bfloat16']:.0f} bfloat16")
    for name in ("trainer", "original's way"):
        rest = {key: value for key, value in median[name].items() if key != "step"}
        print(f"{name}: " + ", ".join(f"{key} {value:.2f}" for key, value in rest.items()))
    for one, other in (
        ("trainer", "bare"), ("bare, one joint call", "bare"),
        ("trainer bfloat16", "bare bfloat16"), ("original's way", "trainer"),
        ("original's way", "trainer bfloat16"), ("torch bare", "trainer"),
        ("torch bare bfloat16", "trainer bfloat16"), ("recipe, 128 + 128", "recipe, 32 + 32"),
    ):  # fmt: skip
        if one in results and other in results:
            pairs = zip(results[one]["step"], results[other]["step"], strict=True)
            ratio = statistics.median(a / b for a, b in pairs)
            print(f"{one} / {other}: {ratio:.2f}")


if __name__ == "__main__":
    main()
