"""The walk-through: its cells run, their numbers are in range, both languages are the same."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
from walkthrough import NOTEBOOKS, code_of, read, run_cells

pytestmark = pytest.mark.long


def test_every_cell_runs_and_shows_what_the_text_says() -> None:
    names, outputs = run_cells(code_of(read(NOTEBOOKS[0])))
    keras.mixed_precision.set_global_policy("float32")
    gap, history, control = names["gap"], names["dann_history"], names["control"]
    assert gap["source"] > 0.95
    assert 0.3 < gap["target"] < 0.62
    assert history["target accuracy"][-1] > gap["target"] + 0.05
    assert history["lambda"][0] < 0.4
    assert history["lambda"][-1] > 0.99
    # The control: λ = 0 adapts nothing, and the domain classifier finds the domains.
    assert abs(control["target accuracy"][-1] - gap["target"]) < 0.1
    assert control["domain_accuracy"][-1] > 0.95
    # A collapse: every image gets the same prediction.
    assert names["collapsed"]["source accuracy"][-1] < 0.2
    loss = names["collapsed"]["label_loss"][-1]
    assert math.isnan(loss) or loss > math.log(10) - 0.05
    np.testing.assert_allclose(names["tape"].gradient(names["reversed_"], names["x"]), [-1, -2, -3])
    pictures = [one for cell in outputs for one in cell if one["output_type"] == "display_data"]
    assert len(pictures) == 3


def test_both_languages_have_the_same_cells() -> None:
    english, chinese = (read(path) for path in NOTEBOOKS)
    assert code_of(english) == code_of(chinese)
    kinds = [[cell["cell_type"] for cell in one["cells"]] for one in (english, chinese)]
    assert kinds[0] == kinds[1]
    for path, one in zip(NOTEBOOKS, (english, chinese), strict=True):
        assert path.stat().st_size < 1_000_000  # GitHub's viewer
        assert all(cell["outputs"] or cell["execution_count"] for cell in one["cells"]
                   if cell["cell_type"] == "code")  # fmt: skip
