"""The models that ship: the best run of each row on MNIST-M, and docs/models.md about them."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.records import Record
from benchmarks.report import Runs, data_line, last_accuracies, runs_of, spread
from benchmarks.rows import MNIST_M_7, ROWS
from benchmarks.runner import Training
from config.config import Config
from config.presets import read_preset
from predict import SHIPPED
from utils.atomic import whole_file
from utils.data.domains import Domain, Domains
from utils.data.pickles import read_pickle
from utils.errors import UserError
from utils.run.runs import CONFIG_FILE

TAKEN = {  # row → model in model_data/model_weight
    "recipe": "recipe", "searched": "searched", "mean_teacher": "mnist2mnist_m", "wide": "wide"
}  # fmt: skip
HEAD = """# Models

The models are in `model_data/model_weight`. `make table` saved them there and wrote this page.
Each file has the feature extractor and the label predictor, but no domain classifier. Three lines
load one:

```python
from pathlib import Path
from model.pretrained import load_model

model = load_model(Path("model_data/model_weight/mnist2mnist_m.keras"))
```

`model.predict(images)` then takes uint8 `[N, 28, 28, 3]`, pixel values in [0, 255], and returns the
probabilities of the ten digits, `[N, 10]`.
"""
OTHERS = """The other backgrounds are those that [seed 7](data.md#mnist-m) draws. The digits are the
same.
"""
TAIL = """## How they were chosen

One run of each preset ships. It is the run with the highest `{criterion}`, at the epoch
where this is highest. The criterion uses target training images without their labels. The settings
are in the `.json` beside each model. [Choices](choices.md) tells how the settings were chosen.

## Data and licence

The models were trained on MNIST with labels and on MNIST-M without labels. {data} MNIST has the
licence CC BY-SA 3.0. BSDS500 is for non-commercial research and education, and so is MNIST-M. Use
the models for the same.

## Limits

The models read one digit in a picture of 28×28 pixels. The digit fills the picture as in MNIST.
They know digits that are lighter or darker than their background, because MNIST-M has both. They
call every picture a digit. The calibration error is the mean difference between their
confidence and their accuracy.
"""


def ship(runs: Runs, trainings: Mapping[tuple[str, str, int], Training]) -> None:
    """Saves the model of each row that the label-free criterion likes best, if it is here.

    Only what predicts is kept. The recipe's domain classifier has ten times as many weights.
    """
    from model.adda import SourceModel
    from model.pretrained import load_model

    for row in TAKEN:
        best = best_of(runs, row)
        if best is None:
            continue
        trained = next(one for one in trainings.values() if one.name == best.name)
        model_file, config = (trained.find("checkpoints", "best.keras"),
                              trained.find("logs", CONFIG_FILE))  # fmt: skip
        if not trained.ended() or model_file is None or config is None:
            continue  # made in another checkout, and shipped from there
        model = load_model(model_file)
        alone = SourceModel(
            model.feature_extractor, model.label_predictor, class_names=model.class_names
        )
        with whole_file(place_of(row)) as path:
            alone.save(path)
            leave_out_new_arguments(path)
        with whole_file(place_of(row).with_suffix(".json")) as path:
            shutil.copyfile(config, path)


def leave_out_new_arguments(file: Path) -> None:
    """Takes out of a .keras file what Keras 3.12, the last for Python 3.10, does not know.

    All are None, which is their default.
    """
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config = parts["config.json"].decode()
    for name in ("input_axes", "output_axes", "quantization_config"):
        config = re.sub(rf', "{name}": null|"{name}": null, ', "", config)
    parts["config.json"] = config.encode()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in parts.items():
            archive.writestr(zipfile.ZipInfo(name), content)


def place_of(row: str) -> Path:
    """Returns where the model of a row ships."""
    return SHIPPED.with_stem(TAKEN[row])


def best_of(runs: Runs, row: str) -> Record | None:
    """Returns the run of a row that ever reached the highest value of the criterion."""
    criterion = Config().select_by
    trained = runs_of(runs, "mnist_m", row)
    return max(trained, key=lambda run: run.pick(criterion)[criterion], default=None)


def describe(runs: Runs) -> str:
    """Returns the page about the models, which are measured anew.

    Raises:
        UserError: the MNIST-M that is here is not the one that a model was trained on.
    """
    from evaluate import measure
    from model.pretrained import load_model

    config = Config()

    def read(path: str) -> Domain[np.ndarray]:
        return Domain(**read_pickle(Path(path), config.image_input_shape, 10))

    def measured_on(model: Any, domain: Domain[np.ndarray]) -> dict[str, Any]:
        return measure(model, [(one.val, one.val_label) for one in (source, domain)])

    source, target = read(config.source_dataset_path), read(config.target_dataset_path)
    data = Domains([source, target]).digests()
    drawn_again = read(MNIST_M_7)
    lines = [
        "| file | preset | seed, epoch | accuracy of this file | on other backgrounds "
        "| of all runs, last epoch | calibration error | kB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    classes = ["| accuracy of each digit | " + " | ".join(map(str, range(10))) + " |",
               "| --- |" + " --- |" * 10]  # fmt: skip
    by_name = {run.name: run for run in runs.values()}
    for row in TAKEN:
        place = place_of(row)
        if not place.exists():
            continue
        run = by_name.get(json.loads(place.with_suffix(".json").read_text("utf-8"))["run_name"])
        if run is None:  # its record is no longer counted
            continue
        if run.facts.data not in ({}, data):
            raise UserError(
                f"{config.target_dataset_path}: is not what {run.name} was trained on, or the "
                "source is not; make both again with python create_mnistm.py, whose seed is 42"
            )
        model = load_model(place)
        told = measured_on(model, target)
        epoch = int(run.pick(config.select_by)["epoch"])
        cells = [
            f"`{place.name}`", f"`{row}`: {read_preset(row).about}",
            f"{run.name.rsplit('-', 1)[1]}, {epoch}", f"{told['accuracy']:.4f}",
            f"{measured_on(model, drawn_again)['accuracy']:.4f}",
            spread(last_accuracies(runs, "mnist_m", row)), f"{told['calibration_error']:.3f}",
            f"{place.stat().st_size / 1000:.0f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
        shares = [f"{share:.3f}" for share in told["class_accuracy"]]
        classes.append(f"| {' | '.join([ROWS[row].title, *shares])} |")
    tail = TAIL.format(criterion=config.select_by, data=data_line())
    return "\n".join([HEAD, *lines, "", OTHERS, *classes, "", tail])
