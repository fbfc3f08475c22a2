"""Pictures of the feature space: t-SNE as in the paper, and TensorBoard's projector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from utils.atomic import whole_file, write_text
from utils.errors import damage_named
from utils.record.figures import save_figure
from utils.record.selection import Outputs, evenly

Pair = tuple[Outputs, Outputs]  # source and target
FIRST, LAST = "features_first_epoch.npz", "features_last_epoch.npz"
NAMES = ("source", "target")
POINTS = 500  # of each domain, at most: t-SNE then takes a few seconds


def save_embedding(path: Path, panels: Sequence[tuple[str, Pair]]) -> None:
    """Writes t-SNE maps side by side: coloured by domain above, by class below.

    Args:
        path: a PNG file.
        panels: a title and the source's and the target's features, for each map.

    Reference: Ganin & Lempitsky, ICML 2015, figure 3; van der Maaten, "Visualizing Data using
    t-SNE", JMLR 9 (2008).
    """
    figure, axes = plt.subplots(
        2, len(panels), figsize=(4.2 * len(panels), 8.4), layout="constrained", squeeze=False
    )
    for column, (title, (source, target)) in enumerate(panels):
        points = tsne(np.concatenate([source.features, target.features]))
        domains = np.repeat([0, 1], [len(source.features), len(target.features)])
        labels = np.concatenate([source.labels, target.labels])
        classes = labels.reshape(len(labels), -1)[:, 0]  # of several positions the first
        upper, lower = axes[:, column]
        for number, (name, colour) in enumerate(zip(NAMES, ("tab:blue", "tab:red"), strict=True)):
            upper.scatter(*points[domains == number].T, s=4, c=colour, alpha=0.6, label=name)
        upper.legend(loc="upper right", markerscale=3)
        shown = lower.scatter(*points.T, s=4, c=classes, cmap="tab10")
        for axis, by in ((upper, "domain"), (lower, "class")):
            axis.set(title=f"{title}, by {by}", xticks=[], yticks=[])
    figure.legend(*shown.legend_elements(num=None), loc="outside lower center", ncols=10)
    save_figure(path, figure)


def tsne(features: np.ndarray) -> np.ndarray:
    """Returns a map of features `[N, F]`: float32 `[N, 2]`; one point if they are all the same."""
    if np.ptp(features, axis=0).max() == 0:  # a collapsed network's
        return np.zeros((len(features), 2), np.float32)
    perplexity = min(30.0, (len(features) - 1) / 3)  # 30 is van der Maaten's usual choice
    first = "pca" if features.shape[1] > 1 else "random"
    # One thread, because several OpenMP threads wait for each other on a busy machine.
    with threadpool_limits(1):
        return TSNE(perplexity=perplexity, init=first, random_state=0).fit_transform(features)


def some_points(outputs: Outputs) -> Outputs:
    """Returns at most `POINTS` of them, spread evenly over all."""
    parts = (outputs.features, outputs.probabilities, outputs.labels)
    return Outputs(*(evenly(part, POINTS) for part in parts))


def save_pair(path: Path, pair: Pair) -> None:
    """Keeps a pair for later."""
    arrays = {f"{name}_{field}": value for name, outputs in zip(NAMES, pair, strict=True)
              for field, value in vars(outputs).items()}  # fmt: skip
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def load_pair(path: Path) -> Pair:
    """Returns the pair that `save_pair` kept, or raises `UserError`."""
    remedy = "delete it; the picture is then made without it"
    with damage_named(path, remedy), path.open("rb") as file, np.load(file) as arrays:
        source, target = (
            Outputs(*(arrays[f"{name}_{field}"] for field in Outputs.__annotations__))
            for name in NAMES
        )
    return source, target


def write_projector(folder: Path, pair: Pair) -> None:
    """Writes features for TensorBoard's projector, with domain and class of each point.

    Args:
        folder: a TensorBoard run.
        pair: the source's and the target's features.
    """
    rows = ["domain\tclass"]
    for name, outputs in zip(NAMES, pair, strict=True):
        rows += [f"{name}\t{np.array2string(label)}" for label in outputs.labels]
    features = np.concatenate([outputs.features for outputs in pair])
    with whole_file(folder / "features.tsv") as path:
        np.savetxt(path, features, fmt="%.4g", delimiter="\t")
    write_text(folder / "features_metadata.tsv", "\n".join(rows) + "\n")
    write_text(
        folder / "projector_config.pbtxt",
        'embeddings {\n  tensor_name: "features"\n  tensor_path: "features.tsv"\n'
        '  metadata_path: "features_metadata.tsv"\n}\n',
    )
