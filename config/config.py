"""Every hyperparameter of a run: edit the defaults here, or give them as command-line flags."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar

import tyro

from utils.atomic import whole_file
from utils.errors import UserError

Method = Literal["dann", "source_only", "target_only", "mean_teacher", "adda"]
AdversarialLoss = Literal["gan", "minimax", "confusion"]
Augmentation = Literal["none", "affine", "affine_colour"]
Criterion = Literal[
    "entropy",
    "information_maximisation",
    "soft_neighbourhood_density",
    "nuclear_norm",
    "deep_embedded_validation",
]
Strategy = Literal["default", "mirrored", "multi_worker"]


AnyConfig = TypeVar("AnyConfig", bound="TrainingConfig")


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Settings that every training has."""

    epoch: int = 100
    """Epochs; one is a pass over the source images."""
    init_learning_rate: float = 0.01
    """μ_0 of μ_p = μ_0 / (1 + α·p)^β; ICML 2015, section 4. Above 0.02 training may collapse."""
    lr_alpha: float = 10.0
    """α of the learning rate schedule; ICML 2015, section 4. 0 keeps the rate constant."""
    lr_beta: float = 0.75
    """β of the learning rate schedule; ICML 2015, section 4."""
    grl_lambda: float = 1.0
    """Ceiling of the reversal's λ_p; 1 in ICML 2015, equation 14. 0 is source-only training."""
    batch_size: int = 256
    """Images of a batch, half source, half target; the original repository's 256 (paper: 128)."""
    clip_norm: float = 0.0
    """Largest norm of the gradient; longer ones are shortened. 0: any. 1 lets high rates live."""
    average_decay: float = 0.0
    """Above 0, models are measured and kept with their weights averaged at this decay: 0.999."""
    select_by: Criterion = "information_maximisation"
    """The label-free criterion that picks best.keras; all of them are logged."""
    seed: int = 0
    """Of the initial weights and of the order of the images."""
    checkpoints_dir: str = "checkpoints"
    """Where models and checkpoints go."""
    logs_dir: str = "logs"
    """Where TensorBoard's events, log.txt, log.csv and figures go."""
    config_dir: str = "config"
    """Where the settings of each run go."""
    run_name: str | None = None
    """Last folder of the run's path. None: the time it started."""
    checkpoint_steps: int = 100
    """Steps between checkpoints: what a kill costs at most. Every epoch ends with one, too."""
    mixed_precision: bool = False
    """Compute in bfloat16, keep weights in float32: faster on new CPUs and on GPUs since 2020."""
    jit_compile: bool = False
    """Compile the step with XLA: for GPUs; slower on a CPU, and a resume is no longer bit-exact."""
    strategy: Strategy = "default"
    """default: one device; mirrored: all GPUs of this machine; multi_worker: as TF_CONFIG says."""
    logical_devices: int = 0
    """With mirrored: cut the CPU into so many devices instead of using GPUs, to try it out."""
    allow_collapse: bool = False
    """Go on when the network has collapsed, instead of stopping with advice."""

    def __post_init__(self) -> None:
        kinds = typing.get_type_hints(type(self))
        for field, kind in kinds.items():
            value = getattr(self, field)
            if typing.get_origin(kind) is Literal and value not in typing.get_args(kind):
                choices = ", ".join(typing.get_args(kind))
                raise UserError(f"{field}: {value!r} must be one of {choices}")
        for field, accepts, rule in RULES:
            if field in kinds and not accepts(getattr(self, field)):
                raise UserError(f"{field}: {getattr(self, field)!r} must be {rule}")
        if self.batch_size % self.num_domains:
            raise UserError(
                f"batch_size: {self.batch_size!r} must be a multiple of the {self.num_domains} "
                "domains"
            )

    @property
    def num_domains(self) -> int:
        """The source and each target."""
        return 2

    @property
    def experiment(self) -> str:
        """The run's folder below logs, checkpoints and config."""
        raise NotImplementedError

    def check_paths(self) -> None:
        """Raises `UserError` if something that the run reads is missing."""
        raise NotImplementedError

    def save(self, path: Path) -> None:
        """Writes the settings as JSON."""
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls: type[AnyConfig], path: Path) -> AnyConfig:
        """Reads settings that `save` wrote; keys it does not name keep their defaults.

        Raises:
            UserError: no such file, not JSON, an unknown key, or a value of the wrong type.
        """
        try:
            values = json.loads(path.read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path}: not a config file ({error})") from error
        if not isinstance(values, dict):
            raise UserError(f"{path}: holds a {type(values).__name__}, not an object")
        kinds = typing.get_type_hints(cls)
        for key, value in values.items():
            if key not in kinds:
                raise UserError(f"{path}: unknown key {key!r}; known are {', '.join(kinds)}")
            values[key] = fitted(value, kinds[key], f"{path}: {key}")
        try:
            return cls(**values)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error


@dataclasses.dataclass(frozen=True)
class PaperConfig(TrainingConfig):
    """Settings of training as in ICML 2015: SGD with momentum, and a λ that rises."""

    momentum_rate: float = 0.9
    """Momentum of SGD; ICML 2015, section 4."""
    gamma: float = 10.0
    """Slope γ of λ_p = 2/(1 + exp(-γ·p)) - 1; ICML 2015, equation 14."""


@dataclasses.dataclass(frozen=True)
class ADDAConfig(TrainingConfig):
    """Settings of ADDA, which trains a source model first and then adapts a copy of its encoder."""

    source_epoch: int = 10
    """adda: epochs of the first stage, on source labels, at init_learning_rate."""
    adda_learning_rate: float = 0.001
    """adda: of the target encoder's Adam, at first; 0.0002 throughout in CVPR 2017, section 5."""
    discriminator_learning_rate: float = 0.0001
    """adda: of the discriminator's Adam, at first; 0.0002 throughout in CVPR 2017, section 5."""
    adversarial_loss: AdversarialLoss = "gan"
    """adda: what the target encoder descends: gan (inverted labels; CVPR 2017, equation 7),
    minimax (equation 6) or confusion (equation 8)."""
    k_d: int = 1
    """adda: steps of the discriminator for each batch."""
    k_g: int = 2
    """adda: steps of the target encoder for each batch."""
    discriminator_steps: int = 0
    """adda: so many batches teach the discriminator alone before the target encoder moves."""
    pre_model_path: str | None = None
    """Weights to start from: a .keras, a .weights.h5, or a Keras 2 .h5 of the original. With adda a
    .keras, in the place of the first stage."""


@dataclasses.dataclass(frozen=True)
class Config(ADDAConfig, PaperConfig):
    """Settings of train_MNIST2MNIST_M.py."""

    method: Method = "dann"
    """dann; its controls with λ = 0: source_only (lower bound), target_only (upper bound); adda,
    two encoders and a discriminator; or mean_teacher, the second stage after dann, which starts
    from an adapted model: --pre_model_path."""
    augmentation: Augmentation = "none"
    """Random changes of training images, both domains: turn, stretch, shear, shift; and colours."""
    dropout: float = 0.0
    """Share of the label predictor's inputs that a training step leaves out, in each layer."""
    confidence: float = 0.9
    """mean_teacher: the least probability at which the teacher's class becomes a label."""
    held_out: int = 0
    """For choosing settings: so many target training images are kept back, and measured instead
    of the test set."""
    image_input_shape: tuple[int, int, int] = (28, 28, 3)
    """Height, width (pixels) and channels of an image; at least 16 pixels a side."""
    pixel_mean: tuple[float, ...] | None = None
    """Mean subtracted per channel, in [0, 255]. None: measured on the training images."""
    source_dataset_path: str = "model_data/dataset/MNIST/mnist_data.pkl"
    """Pickle of the labelled domain."""
    target_dataset_path: str = "model_data/dataset/MNIST_M/mnist_m_data.pkl"
    """Pickle of the domain to adapt to; its training labels are used by target_only alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method == "mean_teacher" and self.pre_model_path is None:
            raise UserError(
                "pre_model_path: mean_teacher goes on from an adapted model; name the .keras that "
                "--method dann left in checkpoints/"
            )
        if self.method == "mean_teacher" and not self.average_decay:
            raise UserError("average_decay: mean_teacher needs a teacher; try 0.999")
        if self.pixel_mean is not None and len(self.pixel_mean) != self.image_input_shape[2]:
            raise UserError(
                f"pixel_mean: {self.pixel_mean!r} must be one number for each of the "
                f"{self.image_input_shape[2]} channels of image_input_shape"
            )

    @property
    def experiment(self) -> str:
        """The run's folder below logs, checkpoints and config, as in the original repository."""
        return (
            f"MNIST2MNIST_M/SGD-lr={self.init_learning_rate}-momentum={self.momentum_rate}"
            f"/batch_size={self.batch_size}"
        )

    def check_paths(self) -> None:
        """Raises `UserError` if a file that the run reads is missing."""
        for field in ("source_dataset_path", "target_dataset_path"):
            value = getattr(self, field)
            if not Path(value).is_file():
                what = "is a folder" if Path(value).is_dir() else "no such file"
                raise UserError(f"{field}: {value}: {what}; python create_mnistm.py makes it")
        check_pre_model(self.pre_model_path)


@dataclasses.dataclass(frozen=True)
class CustomConfig(PaperConfig):
    """Settings of train_custom.py."""

    source: str = ""
    """Folder of the labelled domain: one folder of pictures for each class."""
    target: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Folder of a domain to adapt to; may be given several times. Class folders, if it has them,
    serve for measuring alone."""
    image_size: tuple[int, int] = (28, 28)
    """Height and width that every picture is resized to."""
    channels: int = 3
    """3: RGB, 1: grey; pictures of the other kind are converted."""
    backbone: str = "paper"
    """paper: the paper's MNIST network; or the name of a keras.applications model, untrained."""
    feature_layer: str | None = None
    """Inner layer of the backbone whose output is the feature. None: its last."""
    pooling: Literal["flatten", "average"] = "flatten"
    """What makes a vector of the feature."""
    label_hidden: tuple[int, ...] = (100, 100)
    """Units of the label predictor's hidden layers; ICML 2015, figure 4 (a)."""
    domain_hidden: tuple[int, ...] = (100,)
    """Units of the domain classifier's hidden layers; ICML 2015, figure 4 (a)."""
    alternating: bool = False
    """Two-step updates as in a GAN: the domain classifier first, then the rest against it."""
    augmentation: Augmentation = "none"
    """Random changes of training images: turn, stretch, shear, shift; and colours."""
    dropout: float = 0.0
    """Share of the label predictor's inputs that a training step leaves out, in each layer."""
    pixel_mean: tuple[float, ...] | None = None
    """Mean subtracted per channel, in [0, 255]. None: measured on some pictures of each domain."""
    validation_share: float = 0.1
    """Share of each domain's pictures that is kept back for measuring."""

    @property
    def num_domains(self) -> int:
        return 1 + len(self.target)

    @property
    def experiment(self) -> str:
        return (
            f"custom/{Path(self.source).name}2{'+'.join(Path(each).name for each in self.target)}"
            f"/SGD-lr={self.init_learning_rate}-momentum={self.momentum_rate}"
            f"/batch_size={self.batch_size}"
        )

    def check_paths(self) -> None:
        if not self.source or not self.target:
            raise UserError("name the folders: --source DIR --target DIR [--target DIR …]")
        for folder in (self.source, *self.target):
            if not Path(folder).is_dir():
                raise UserError(f"{folder}: no such folder; --source and --target take folders")


@dataclasses.dataclass(frozen=True)
class CaptchaConfig(ADDAConfig):
    """Settings of train_captcha.py."""

    method: Literal["adda", "source_only"] = "adda"
    """adda; or source_only: its first stage alone."""
    epoch: int = 2
    """Epochs of the adaptation; one is a pass over the source captchas."""
    source_epoch: int = 2
    """Epochs of the first stage, on source labels."""
    init_learning_rate: float = 0.0003
    """Of the first stage's Adam. At 0.001 the classifier may die in the first steps."""
    adda_learning_rate: float = 0.00002
    """adda: of the target encoder's Adam. Faster, it forgets what the source model knows."""
    discriminator_learning_rate: float = 0.001
    """adda: of the discriminator's Adam."""
    grl_lambda: float = 1.0
    """adda: weight of the adversarial loss; 0 is the control: the target's statistics alone."""
    average_decay: float = 0.99
    """Models are measured and kept with their weights averaged at this decay; 0: as they are."""
    lr_alpha: float = 0.0
    """α of μ_p = μ_0 / (1 + α·p)^β; 0 keeps the rate constant."""
    batch_size: int = 64
    """Captchas of a batch, half source, half target; the first stage has the source half alone."""
    captchas: int = 15000
    """Captchas of each style to train with; they are drawn once and kept."""
    captcha_seed: int = 42
    """Of the captchas."""
    captcha_root: str = "model_data/dataset/captcha"
    """Where the captchas are kept."""
    quick: bool = False
    """A look at everything in a few minutes: fewer captchas and epochs; learns little."""

    @property
    def experiment(self) -> str:
        return f"captcha/Adam-lr={self.adda_learning_rate}/batch_size={self.batch_size}"

    def check_paths(self) -> None:
        check_pre_model(self.pre_model_path)


@dataclasses.dataclass(frozen=True)
class DrawingsConfig(TrainingConfig):
    """Settings of train_real2drawing.py; its own defaults are the homework's."""

    method: Literal["dann", "source_only"] = "dann"
    """dann; or source_only: the drawings are not even shown."""
    epoch: int = 200
    """Epochs; one is a pass over the photos."""
    init_learning_rate: float = 0.001
    """Of both Adam optimizers."""
    lr_alpha: float = 0.0
    """α of μ_p = μ_0 / (1 + α·p)^β; 0 keeps the rate constant."""
    batch_size: int = 64
    """Pictures of a batch, half photos, half drawings."""
    grl_lambda: float = 0.1
    """λ of the second step."""
    ramp: bool = False
    """Let λ rise as in ICML 2015, equation 14, instead of being constant."""
    gamma: float = 10.0
    """With --ramp: slope γ of λ_p = 2/(1 + exp(-γ·p)) - 1."""
    canny: bool = True
    """Train on the photos' Canny edges (thresholds 170 and 300); else on the grey photos."""
    flip: bool = True
    """Mirror half of the training pictures; wrong for digits, so not with --embedded."""
    rotation: float = 15.0
    """Largest rotation of a training picture, degrees; the empty corners are 0."""
    data_root: str = "model_data/dataset/real_or_drawing"
    """The unpacked folder: train_data/0 … 9 and test_data/0."""
    embedded: bool = False
    """Make and use a stand-in of digits in the same layout, from what the libraries ship."""

    @property
    def root(self) -> Path:
        """Where the pictures are."""
        root = Path(self.data_root)
        return root.with_name("embedded_drawings") if self.embedded else root

    @property
    def experiment(self) -> str:
        return f"real2drawing/Adam-lr={self.init_learning_rate}/batch_size={self.batch_size}"

    def check_paths(self) -> None:
        if not self.embedded and not self.root.is_dir():
            raise UserError(
                f"data_root: {self.root}: no such folder; unpack the homework's "
                "real_or_drawing there, or try --embedded"
            )


def fitted(value: Any, kind: Any, name: str) -> Any:
    """Returns a JSON value as the type `kind` of a Config field, or raises `UserError`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if type(value) is kind or (origin is Literal and value in arguments):
        return value
    if kind is float and type(value) is int:
        return float(value)
    if value is None and type(None) in arguments:
        return None
    any_length = arguments[1:] == (Ellipsis,)
    if origin is tuple and isinstance(value, list) and (any_length or len(value) == len(arguments)):
        return tuple(fitted(item, arguments[0], name) for item in value)
    if type(None) in arguments:  # X | None
        return fitted(value, arguments[0], name)
    raise UserError(f"{name}: {value!r} is not of type {getattr(kind, '__name__', kind)}")


def _at_least(minimum: float) -> Any:
    return lambda value: math.isfinite(value) and value >= minimum


def check_pre_model(path: str | None) -> None:
    """Raises `UserError` if a model to start from is named and is not there."""
    if path is not None and not Path(path).is_file():
        what = "is a folder" if Path(path).is_dir() else "no such file"
        raise UserError(f"pre_model_path: {path}: {what}; check it")


RULES = (
    ("source_epoch", _at_least(1), "1 or more"),
    ("adda_learning_rate", _at_least(0), "0 or more"),
    ("discriminator_learning_rate", _at_least(0), "0 or more"),
    ("k_d", _at_least(1), "1 or more"),
    ("k_g", _at_least(1), "1 or more"),
    ("discriminator_steps", _at_least(0), "0 or more"),
    ("captchas", _at_least(100), "100 or more"),
    ("logical_devices", _at_least(0), "0 or more"),
    ("epoch", _at_least(1), "1 or more"),
    (
        "init_learning_rate",
        lambda value: math.isfinite(value) and value > 0,
        "more than 0",
    ),
    ("lr_alpha", _at_least(0), "0 or more"),
    ("lr_beta", _at_least(0), "0 or more"),
    ("momentum_rate", lambda value: 0 <= value < 1, "in [0, 1)"),
    ("grl_lambda", _at_least(0), "0 or more"),
    ("gamma", _at_least(0), "0 or more"),
    ("batch_size", _at_least(2), "2 or more"),
    ("rotation", _at_least(0), "0 or more"),
    ("image_size", lambda value: min(value) >= 16, "16 or more pixels a side"),
    ("channels", lambda value: value in (1, 3), "1 (grey) or 3 (RGB)"),
    ("validation_share", lambda value: 0 < value < 1, "in (0, 1)"),
    ("clip_norm", _at_least(0), "0 or more"),
    ("average_decay", lambda value: 0 <= value < 1, "in [0, 1)"),
    ("dropout", lambda value: 0 <= value < 1, "in [0, 1)"),
    ("confidence", lambda value: 0 <= value <= 1, "in [0, 1]"),
    ("held_out", _at_least(0), "0 or more"),
    ("seed", lambda value: 0 <= value < 2**32, "in 0..2³²-1"),
    (
        "image_input_shape",
        lambda value: min(value[:2]) >= 16 and value[2] >= 1,
        "height and width of 16 or more, 1 channel or more",
    ),
    (
        "pixel_mean",
        lambda value: value is None or all(0 <= mean <= 255 for mean in value),
        "numbers in [0, 255]",
    ),
    (
        "run_name",
        lambda value: value is None or (value.strip(". ") != "" and not set("/\\\0") & set(value)),
        "a folder name without slashes",
    ),
    ("checkpoint_steps", _at_least(1), "1 or more"),
)
