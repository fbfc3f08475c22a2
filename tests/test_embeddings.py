from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.errors import UserError
from utils.record.embeddings import load_pair, save_embedding, save_pair, tsne, write_projector
from utils.record.selection import Outputs


def clusters(shift: float, count: int = 40) -> Outputs:
    random = np.random.default_rng(0)
    labels = (np.arange(count) % 2).astype(np.int32)
    features = random.normal(0, 1, (count, 6)) + 20 * labels[:, None] + shift
    return Outputs(features.astype(np.float32), np.eye(2, dtype=np.float32)[labels], labels)


def test_tsne_keeps_clusters_apart() -> None:
    outputs = clusters(0.0)
    points = tsne(outputs.features)
    distances = np.linalg.norm(points[:, None] - points, axis=-1)
    np.fill_diagonal(distances, np.inf)
    assert (outputs.labels[distances.argmin(axis=1)] == outputs.labels).all()


def test_a_collapsed_network_gives_one_point() -> None:
    np.testing.assert_array_equal(tsne(np.full((50, 8), 3.0)), np.zeros((50, 2)))


def test_pictures_of_two_maps(tmp_path: Path) -> None:
    pair = (clusters(0.0), clusters(3.0))
    save_pair(tmp_path / "pair.npz", pair)
    again = load_pair(tmp_path / "pair.npz")
    for one, two in zip(pair, again, strict=True):
        for name in ("features", "probabilities", "labels"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "pair.npz").read_bytes()[:100])
    with pytest.raises(UserError, match=r"cut\.npz: cannot be loaded \(.*; delete it"):
        load_pair(tmp_path / "cut.npz")
    save_embedding(tmp_path / "embedding.png", [("before", pair), ("after", again)])
    picture = cv2.imread(str(tmp_path / "embedding.png"))
    assert picture is not None
    assert min(picture.shape[:2]) > 700
    for half in np.array_split(picture, 2, axis=1):  # points have colours, axes and words do not
        assert (np.ptp(half, axis=2) > 60).mean() > 0.001


def test_projector_files_have_a_row_for_each_point(tmp_path: Path) -> None:
    pair = (clusters(0.0), clusters(3.0, count=10))
    write_projector(tmp_path, pair)
    features = np.loadtxt(tmp_path / "features.tsv", delimiter="\t")
    np.testing.assert_allclose(
        features, np.concatenate([pair[0].features, pair[1].features]), rtol=1e-3
    )
    rows = (tmp_path / "features_metadata.tsv").read_text().splitlines()
    assert rows[0] == "domain\tclass"
    assert len(rows) == 1 + 50
    assert rows[1] == "source\t0"
    assert rows[-1] == "target\t1"
    assert 'tensor_path: "features.tsv"' in (tmp_path / "projector_config.pbtxt").read_text()


def test_features_of_one_number_have_a_map() -> None:
    """PCA, where the map begins, has no second axis then."""
    points = tsne(np.linspace(0, 1, 12, dtype=np.float32)[:, None])
    assert points.shape == (12, 2)
    assert np.isfinite(points).all()
