"""Settings of the methods, with limits and defaults. The digits' defaults are in config.py."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from config.methods import METHODS, WITHOUT_LAMBDA
from config.presets import read_preset
from config.settings import (
    BELOW_1,
    FOLDER_NAME,
    MOST_IMAGES,
    POSITIVE,
    SEED,
    SHARE,
    Settings,
    at_least,
    between,
    fields_of,
    not_by,
    one_of,
    only,
)
from utils.errors import UserError, existing_file

AnyConfig = TypeVar("AnyConfig", bound="TrainingConfig")
Augmentation = Literal["none", "affine", "affine_colour"]
DomainLoss = Literal["mean", "sum"]
LearningRate = Literal["annealed", "cosine"]
AdversarialLoss = Literal["gan", "minimax", "confusion"]
ADDAOptimizer = Literal["adam", "sgd"]
Criterion = Literal[
    "entropy",
    "information_maximisation",
    "soft_neighbourhood_density",
    "nuclear_norm",
    "deep_embedded_validation",
]
Features = Literal["convolutional", "hidden", "logits"]
Network = Literal["paper", "wide"]
Normalisation = Literal["none", "per_domain"]
Strategy = Literal["default", "mirrored", "multi_worker"]
# Models of keras.applications with a layer of their own that scales pixel values.
SCALE_THEMSELVES = ("ConvNeXt", "EfficientNet", "MobileNetV3")
# A first stage takes these settings from its preset, and the rest from the run.
HYPERPARAMETERS = (
    "batch_size", "target_ratio", "init_learning_rate", "lr_schedule", "lr_alpha", "lr_beta",
    "momentum_rate", "grl_lambda", "gamma", "ramp", "domain_loss", "domain_weight", "clip_norm",
    "dropout", "augmentation", "cutout", "invert", "average_decay",
)  # fmt: skip


def unused_by(method: str, kind: type[TrainingConfig]) -> dict[str, Any]:
    """Returns the settings that a method does not use, with the defaults of base.py."""
    return {name: next(vars(base)[name] for base in reversed(kind.mro()) if name in vars(base))
            for name, field in fields_of(kind).items()
            if field.used_by and method not in field.used_by}  # fmt: skip


def check_images(
    shape: tuple[int, int, int], pixel_mean: tuple[float, ...] | None, cutout: int, origin: str = ""
) -> None:
    """Raises `UserError` if images do not fit what is done with them.

    Args:
        shape: (height, width, channels).
        pixel_mean: one number for each channel; None: it is measured later.
        cutout: side of the square that is painted over; less than the image's.
        origin: what says the channels, after a message.
    """
    *sides, channels = shape
    if cutout >= min(sides):
        raise UserError(f"cutout: {cutout} would paint over whole images; take less")
    if pixel_mean is not None and len(pixel_mean) != channels:
        shown = " ".join(map(str, pixel_mean))
        raise UserError(
            f"pixel_mean: {shown} must be one number for each of the {channels} channels{origin}"
        )


@dataclasses.dataclass(frozen=True)
class TrainingConfig(Settings):
    """Settings that every training has."""

    QUICK: ClassVar[dict[str, Any]] = {}  # what --quick stands for, where a script has it

    # what to train
    method: Annotated[str, one_of(METHODS)] = "dann"
    """What adapts the model, or a control."""
    pre_model_path: str | None = None
    """Model to start from: a .keras or a .weights.h5. With adda and mean_teacher it replaces the
    first stage."""

    # training
    epoch: Annotated[int, at_least(1)] = 100
    """Epochs; one is a pass over the source images."""
    batch_size: Annotated[int, between(2, MOST_IMAGES)] = 256
    """Images of a batch. Each target has target_ratio images for each source image."""
    init_learning_rate: Annotated[float, POSITIVE] = 0.01
    """μ_0 of μ_p = μ_0 / (1 + α·p)^β."""
    lr_schedule: LearningRate = "annealed"
    """annealed: μ_p. cosine: from μ_0 to 0 along half a cosine."""
    lr_alpha: Annotated[float, at_least(0)] = 10.0
    """α of the learning rate schedule. 0 keeps the rate constant."""
    lr_beta: Annotated[float, at_least(0)] = 0.75
    """β of the learning rate schedule."""
    grl_lambda: Annotated[float, at_least(0), not_by(*WITHOUT_LAMBDA)] = 1.0
    """Highest λ of the gradient reversal. With adda it weighs the adversarial loss; with Adam
    every value above 0 does the same."""
    gamma: Annotated[float, at_least(0), not_by(*WITHOUT_LAMBDA, "adda")] = 10.0
    """Slope γ of λ_p / λ = 2/(1 + exp(-γ·p)) - 1; ICML 2015, equation 14."""
    ramp: Annotated[bool, not_by(*WITHOUT_LAMBDA, "adda")] = True
    """λ rises with slope gamma. Without it, λ is grl_lambda from the start."""
    domain_loss: Annotated[DomainLoss, not_by("source_model")] = "mean"
    """mean: over the images of all domains (cdan: the mean of the domains' means). sum: the sum of
    the domains' means, as in JMLR 2016, equation 18."""

    # recipe: what the paper does not have
    clip_norm: Annotated[float, at_least(0)] = 0.0
    """Largest norm of the gradient; longer ones are shortened. 0: no limit."""
    average_decay: Annotated[float, BELOW_1] = 0.0
    """Decay of the average of the weights, for example 0.999. Models are measured and kept with
    these averages. 0: no average."""

    # settings of single methods
    entropy_conditioning: Annotated[bool, only("cdan")] = True
    """Images that are classified with more confidence count more: CDAN+E. Without: plain CDAN."""
    source_smoothness: Annotated[float, at_least(0), only("vada")] = 1.0
    """λ_s: weight of the loss that asks for the same prediction after a small change of a source
    image; 1 in the authors' code."""
    target_smoothness: Annotated[float, at_least(0), only("vada")] = 0.01
    """λ_t: weight of the same loss for target images, and of the loss that asks for confident
    predictions; 0.01 in the authors' code."""
    radius: Annotated[float, at_least(0), only("vada")] = 3.5
    """ε: length of the change of an image in [-1, 1]; 3.5 in the authors' code."""
    source_epoch: Annotated[int, at_least(1), only("adda", "mean_teacher")] = 10
    """Epochs of the first stage."""
    first_stage: Annotated[str | None, only("adda", "mean_teacher")] = None
    """Preset of the first stage. By default it has the settings of this run."""
    teacher: Annotated[str | None, only("student", "mean_teacher")] = None
    """Trained model whose predictions are the labels of a student's target images."""
    confidence: Annotated[float, SHARE, only("mean_teacher")] = 0.9
    """The probability above which the teacher's class becomes a label."""
    relative_confidence: Annotated[bool, only("mean_teacher")] = False
    """The threshold is confidence times the teacher's mean confidence on the source: AdaMatch."""
    pseudo_ramp: Annotated[float, SHARE, only("mean_teacher")] = 0.0
    """Share of the run over which the weight of the teacher's labels rises from 0 to 1; 0.5 in
    AdaMatch. 0: it is 1 throughout."""
    target_ratio: Annotated[int, at_least(1), not_by("source_model", "adda")] = 1
    """Target images of a batch for each source image; 3 in AdaMatch."""
    adda_optimizer: Annotated[ADDAOptimizer, only("adda")] = "adam"
    """Optimizer of the second stage. adam: with β₁ = 0.5, as in CVPR 2017, section 5. sgd: with
    Nesterov momentum 0.9."""
    adda_learning_rate: Annotated[float, at_least(0), only("adda")] = 0.0002
    """First learning rate of the target encoder; 0.0002 throughout in CVPR 2017, section 5."""
    discriminator_learning_rate: Annotated[float, at_least(0), only("adda")] = 0.0002
    """First learning rate of the discriminator; 0.0002 throughout in CVPR 2017, section 5."""
    adversarial_loss: Annotated[AdversarialLoss, only("adda")] = "gan"
    """What the target encoder descends: gan (inverted labels; CVPR 2017, equation 7), minimax
    (equation 6) or confusion (equation 8)."""
    k_d: Annotated[int, at_least(1), only("adda")] = 1
    """Steps of the discriminator for each batch."""
    k_g: Annotated[int, at_least(1), only("adda")] = 2
    """Steps of the target encoder for each batch."""
    shared_layers: Annotated[int, at_least(0), only("adda")] = 0
    """Number of first layers in which the target encoder keeps the source encoder's weights. It
    must be below the number of the encoder's layers with weights."""
    discriminator_steps: Annotated[int, at_least(0), only("adda")] = 0
    """Batches that teach the discriminator alone before the target encoder moves; take fewer than
    the run has."""

    # measuring and keeping
    select_by: Criterion = "information_maximisation"
    """The label-free criterion that picks best.keras; all of them are logged."""
    run_name: Annotated[str | None, FOLDER_NAME] = None
    """Last folder of the run's path. By default the time it started."""
    logs_dir: str = "logs"
    """Where TensorBoard's events, log.txt, log.csv and figures go."""
    checkpoints_dir: str = "checkpoints"
    """Where models and checkpoints go."""
    config_dir: str = "config"
    """Where the settings of each run go."""
    checkpoint_steps: Annotated[int, at_least(1)] = 100
    """Steps between checkpoints: what a kill costs at most. Every epoch ends with one, too."""
    allow_collapse: bool = False
    """Go on when every image gets the same prediction, instead of stopping with advice."""

    # machine
    seed: Annotated[int, SEED] = 0
    """Seed of the initial weights and of the order of the images."""
    mixed_precision: bool = False
    """Compute in bfloat16, and in float16 on GPUs from before 2020; keep weights in float32. Faster
    on new CPUs and on GPUs."""
    jit_compile: bool = False
    """Compile the step with XLA: for GPUs; slower on a CPU, and a resume is no longer bit-exact.
    Not with random changes of the images."""
    strategy: Strategy = "default"
    """default: one device; mirrored: all GPUs of this machine; multi_worker: as TF_CONFIG says."""
    logical_devices: Annotated[int, at_least(0)] = 0
    """With mirrored: cut the CPU into so many devices instead of using GPUs, to try it out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        foreign = RecipeConfig.__annotations__.keys() & vars(self).keys()
        if foreign and not isinstance(self, RecipeConfig):  # copied from another script's settings
            raise UserError(f"{', '.join(sorted(foreign))}: this script does not use it; remove it")
        beyond = self.batch_size % self.smallest_batch
        if beyond:
            raise UserError(
                f"batch_size: {self.batch_size!r} must be a multiple of {self.smallest_batch}, for "
                f"the {self.num_domains} domains"
                + (f" at target_ratio {self.target_ratio}" if self.target_ratio > 1 else "")
                + f"; try {self.batch_size - beyond or self.smallest_batch}"
            )
        if self.method == "adda" and self.num_domains != 2:
            raise UserError(
                "method: adda has one source and one target; name them, or choose dann or cdan"
            )
        if self.logical_devices and self.strategy != "mirrored":
            raise UserError("logical_devices: is for several devices; add --strategy mirrored")
        if self.method == "mean_teacher" and not self.average_decay:
            raise UserError("average_decay: the average of the weights is what teaches; try 0.999")

    @property
    def first_method(self) -> str | None:
        """The method of this run's first stage; None: it has no first stage.

        Raises:
            UserError: `first_stage` names a preset that trains something else.
        """
        first = None if self.pre_model_path else METHODS[self.method].first
        if first is None or not self.first_stage:
            return first
        preset = read_preset(self.first_stage, "first_stage")
        trained = preset.settings.get("method", type(self).method)
        if METHODS[trained].model != METHODS[first].model or METHODS[trained].labels == "target":
            raise UserError(
                f"first_stage: {self.first_stage} trains {trained}, but {self.method} starts from "
                f"{first}; train {trained} by itself and name its model: --pre_model_path FILE"
            )
        return str(trained)

    def of_first_stage(self: AnyConfig, method: str) -> AnyConfig:
        """Returns the settings of the run that a two-stage run begins with.

        Args:
            method: of that run.
        """
        values = unused_by(method, type(self))  # whatever default was edited
        if self.first_stage:
            preset = read_preset(self.first_stage).settings
            defaults = {field.name: field.default for field in dataclasses.fields(self)}
            values = {name: preset.get(name, defaults[name])
                      for name in HYPERPARAMETERS if name in defaults} | values  # fmt: skip
        return dataclasses.replace(self, **{**values, "method": method, "epoch": self.source_epoch})

    @property
    def num_domains(self) -> int:
        """The source and each target."""
        return 2

    @property
    def smallest_batch(self) -> int:
        """One source image and `target_ratio` of each target: a batch is a multiple of this."""
        return 1 + (self.num_domains - 1) * self.target_ratio

    @property
    def run_path(self) -> str:
        """The run's folder below logs, checkpoints and config."""
        raise NotImplementedError

    def check_paths(self) -> None:
        """Raises `UserError` if something that the run reads is missing."""
        for name in ("pre_model_path", "teacher"):
            if getattr(self, name) is not None:
                existing_file(getattr(self, name), name, "name a trained model; a run that is "
                              "resumed needs the one that it began with")  # fmt: skip
        if "student" in (self.method, self.first_method):
            if self.teacher is None:
                raise UserError("teacher: a student needs one; name a model: --teacher FILE")
        # A model may replace a first stage that had a teacher.
        elif self.teacher and not (self.pre_model_path and METHODS[self.method].first):
            raise UserError(
                "teacher: no student learns from it; add --method student or --first_stage student"
            )


@dataclasses.dataclass(frozen=True)
class RecipeConfig(TrainingConfig):
    """Settings of the scripts that have all of the recipe: digits and your own pictures."""

    # training
    momentum_rate: Annotated[float, BELOW_1] = 0.9
    """Momentum of SGD; ICML 2015, supplement."""

    # recipe: what the paper does not have
    dropout: Annotated[float, BELOW_1] = 0.0
    """Share of the label predictor's inputs that a training step leaves out, in each hidden
    layer."""
    augmentation: Augmentation = "none"
    """Random changes of training images: turn, stretch, shear, shift; and colours."""
    cutout: Annotated[int, at_least(0)] = 0
    """Side of a square that is painted over in each training image, in pixels. 0: none."""
    invert: bool = False
    """Invert half of the channels of training images, by chance: light and dark change places."""
    domain_weight: Annotated[float, POSITIVE, not_by(*WITHOUT_LAMBDA, "adda")] = 1.0
    """Weight of the domain loss for the domain classifier. With a larger one it learns faster. The
    feature extractor gets λ times the gradient, whatever the weight is. Then clip_norm shortens all
    gradients together."""

    # images and networks
    features: Features = "convolutional"
    """What the domain classifier sees, and where the feature extractor ends. convolutional: its own
    output. hidden: the last hidden layer of the label predictor. logits: all of it."""
