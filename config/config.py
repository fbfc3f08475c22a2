"""The hyperparameters of train_MNIST2MNIST_M.py: edit the defaults here, or give them as flags.

Each line is a flag of the same name, under the same headings. A value that may not stand there is
refused, and the message tells the limit. The other training scripts do not read this file.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

from config.base import (
    ADDAOptimizer,
    AdversarialLoss,
    Augmentation,
    Criterion,
    DomainLoss,
    Features,
    LearningRate,
    Network,
    Normalisation,
    RecipeConfig,
    Strategy,
    check_images,
)
from config.settings import PIXELS, SHAPE, UNITS, at_least, not_by
from utils.errors import UserError, existing_file


@dataclasses.dataclass(frozen=True)
class Config(RecipeConfig):
    """Settings of the digits."""

    # what to train
    method: str = "dann"
    """What adapts the model, or a control."""
    source_dataset_path: str = "model_data/dataset/MNIST/mnist_data.pkl"
    """Pickle of the labelled domain."""
    target_dataset_path: str = "model_data/dataset/MNIST_M/mnist_m_data.pkl"
    """Pickle of the domain to adapt to. Only target_only trains on its labels."""
    source_images: Annotated[int, at_least(0)] = 0
    """Use so many of the source's training images, drawn with the seed. 0: all."""
    target_images: Annotated[int, at_least(0)] = 0
    """Use so many of the target's training images, drawn with the seed. 0: all. From MNIST and
    MNIST-M the same digits are drawn for source and target."""
    pre_model_path: str | None = None
    """Model to start from: a .keras, a .weights.h5, or a Keras 2 .h5 of the original repository.
    With adda and mean_teacher it replaces the first stage."""

    # training
    epoch: int = 100
    """Epochs; one is a pass over the source images."""
    batch_size: int = 256
    """Images of a batch, half source, half target unless target_ratio says more. 256 in the
    original repository, 128 in the paper."""
    init_learning_rate: float = 0.01
    """μ_0 of μ_p = μ_0 / (1 + α·p)^β; ICML 2015, supplement. Above 0.02 it needs clip_norm."""
    lr_schedule: LearningRate = "annealed"
    """annealed: μ_p. cosine: from μ_0 to 0 along half a cosine."""
    lr_alpha: float = 10.0
    """α of the learning rate schedule; ICML 2015, supplement. 0 keeps the rate constant."""
    lr_beta: float = 0.75
    """β of the learning rate schedule; ICML 2015, supplement."""
    momentum_rate: float = 0.9
    """Momentum of SGD; ICML 2015, supplement."""
    grl_lambda: float = 1.0
    """Highest λ of the gradient reversal; 1 in ICML 2015, equation 14. With adda it weighs the
    adversarial loss; with Adam every value above 0 does the same."""
    gamma: float = 10.0
    """Slope γ of λ_p / λ = 2/(1 + exp(-γ·p)) - 1; ICML 2015, equation 14."""
    ramp: bool = True
    """λ rises with slope gamma. Without it, λ is grl_lambda from the start."""
    domain_loss: DomainLoss = "mean"
    """mean: over the images of all domains, as in the original repository (cdan: the mean of the
    domains' means). sum: the sum of the domains' means, as in JMLR 2016, equation 18; λ = 1 is then
    λ = 2 of mean."""

    # recipe: what the paper does not have
    clip_norm: float = 0.0
    """Largest norm of the gradient; longer ones are shortened. 0: no limit. 1 allows high rates."""
    dropout: float = 0.0
    """Share of the label predictor's inputs that a training step leaves out, in each hidden
    layer."""
    augmentation: Augmentation = "none"
    """Random changes of training images, both domains: turn, stretch, shear, shift; and colours."""
    cutout: int = 0
    """Side of a square that is painted over in each training image, in pixels. 0: none."""
    invert: bool = False
    """Invert half of the channels of training images, by chance: light and dark change places."""
    domain_weight: float = 1.0
    """Weight of the domain loss for the domain classifier. With a larger one it learns faster. The
    feature extractor gets λ times the gradient, whatever the weight is. Then clip_norm shortens all
    gradients together."""
    average_decay: float = 0.0
    """Decay of the average of the weights, for example 0.999. Models are measured and kept with
    these averages. 0: no average."""

    # settings of single methods
    entropy_conditioning: bool = True
    """Images that are classified with more confidence count more: CDAN+E. Without: plain CDAN."""
    source_smoothness: float = 1.0
    """λ_s: weight of the loss that asks for the same prediction after a small change of a source
    image; 1 in the authors' code."""
    target_smoothness: float = 0.01
    """λ_t: weight of the same loss for target images, and of the loss that asks for confident
    predictions; 0.01 in the authors' code."""
    radius: float = 3.5
    """ε: length of the change of an image in [-1, 1]; 3.5 in the authors' code."""
    source_epoch: int = 10
    """Epochs of the first stage."""
    first_stage: str | None = None
    """Preset of the first stage. By default it has the settings of this run."""
    teacher: str | None = None
    """Trained model whose predictions are the labels of a student's target images."""
    confidence: float = 0.9
    """The probability above which the teacher's class becomes a label."""
    relative_confidence: bool = False
    """The threshold is confidence times the teacher's mean confidence on the source: AdaMatch."""
    pseudo_ramp: float = 0.0
    """Share of the run over which the weight of the teacher's labels rises from 0 to 1; 0.5 in
    AdaMatch. 0: it is 1 throughout."""
    target_ratio: int = 1
    """Target images of a batch for each source image; 3 in AdaMatch."""
    adda_optimizer: ADDAOptimizer = "adam"
    """Optimizer of the second stage. adam: with β₁ = 0.5, as in CVPR 2017, section 5. sgd: with
    Nesterov momentum 0.9."""
    adda_learning_rate: float = 0.001
    """First learning rate of the target encoder; 0.0002 throughout in CVPR 2017, section 5."""
    discriminator_learning_rate: float = 0.0001
    """First learning rate of the discriminator; 0.0002 throughout in CVPR 2017, section 5."""
    adversarial_loss: AdversarialLoss = "gan"
    """What the target encoder descends: gan (inverted labels; CVPR 2017, equation 7), minimax
    (equation 6) or confusion (equation 8)."""
    k_d: int = 1
    """Steps of the discriminator for each batch."""
    k_g: int = 2
    """Steps of the target encoder for each batch."""
    shared_layers: int = 0
    """Number of first layers in which the target encoder keeps the source encoder's weights. It
    must be below the number of the encoder's layers with weights."""
    discriminator_steps: int = 0
    """Batches that teach the discriminator alone before the target encoder moves; take fewer than
    the run has."""

    # measuring and keeping
    select_by: Criterion = "information_maximisation"
    """The label-free criterion that picks best.keras; all of them are logged."""
    held_out: Annotated[int, at_least(0)] = 0
    """For choosing settings: so many target training images are kept back, and measured instead
    of the test set."""
    run_name: str | None = None
    """Last folder of the run's path. By default the time it started."""
    logs_dir: str = "logs"
    """Where TensorBoard's events, log.txt, log.csv and figures go."""
    checkpoints_dir: str = "checkpoints"
    """Where models and checkpoints go."""
    config_dir: str = "config"
    """Where the settings of each run go."""
    checkpoint_steps: int = 100
    """Steps between checkpoints: what a kill costs at most. Every epoch ends with one, too."""
    allow_collapse: bool = False
    """Go on when every image gets the same prediction, instead of stopping with advice."""

    # images and network
    network: Network = "paper"
    """paper: of ICML 2015, figure 4 (a). wide: five convolutions with more filters."""
    normalisation: Normalisation = "none"
    """per_domain: batch normalisation after each pooling, with statistics of each domain."""
    features: Features = "convolutional"
    """What the domain classifier sees, and where the feature extractor ends. convolutional: its own
    output. hidden: the last hidden layer of the label predictor. logits: all of it."""
    domain_hidden: Annotated[tuple[int, ...] | None, UNITS, not_by("source_model")] = None
    """Units of the domain classifier's hidden layers. By default 100, as in ICML 2015, figure
    4 (a); with adda 500 500, as in CVPR 2017, section 5."""
    image_input_shape: Annotated[tuple[int, int, int], SHAPE] = (28, 28, 3)
    """Height, width (pixels) and channels of an image."""
    pixel_mean: Annotated[tuple[float, ...] | None, PIXELS] = None
    """Mean subtracted per channel, in [0, 255]. By default measured on the training images."""

    # machine
    seed: int = 0
    """Seed of the initial weights and of the order of the images."""
    mixed_precision: bool = False
    """Compute in bfloat16, and in float16 on GPUs from before 2020; keep weights in float32. Faster
    on new CPUs and on GPUs."""
    jit_compile: bool = False
    """Compile the step with XLA: for GPUs; slower on a CPU, and a resume is no longer bit-exact.
    Not with random changes of the images."""
    strategy: Strategy = "default"
    """default: one device; mirrored: all GPUs of this machine; multi_worker: as TF_CONFIG says."""
    logical_devices: int = 0
    """With mirrored: cut the CPU into so many devices instead of using GPUs, to try it out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_images(self.image_input_shape, self.pixel_mean, self.cutout, " of image_input_shape")

    @property
    def run_path(self) -> str:
        """The run's folder below logs, checkpoints and config, as in the original repository."""
        return (
            f"{self.pair}/SGD-lr={self.init_learning_rate}-momentum={self.momentum_rate}"
            f"/batch_size={self.batch_size}"
        )

    @property
    def pair(self) -> str:
        """The data, by the folders of the pickles: MNIST2MNIST_M."""
        paths = (self.source_dataset_path, self.target_dataset_path)
        return "2".join(Path(path).resolve().parent.name for path in paths)

    def check_paths(self) -> None:
        super().check_paths()
        for field in ("source_dataset_path", "target_dataset_path"):
            existing_file(
                getattr(self, field),
                field,
                "check the path, or make it: python create_mnistm.py, for the demo with "
                "--embedded, or for USPS python create_usps.py",
            )
        if Path(self.source_dataset_path).samefile(self.target_dataset_path):
            raise UserError("target_dataset_path: is the source's; name another pickle")
