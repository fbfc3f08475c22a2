"""Named settings: each file of config/presets/ is what one run differs by from the defaults."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.settings import read_json
from utils.errors import UserError

FOLDER = Path(__file__).parent / "presets"


@dataclass(frozen=True)
class Preset:
    """A preset as its file has it."""

    about: str
    """A line for --help."""
    script: str
    """The training script that it is for."""
    settings: dict[str, Any]
    """What differs from the script's defaults; and, for the digits, method, network, normalisation,
    features and the four that README says to edit first, so that a preset stays what it is."""
    accuracy: str = "–"
    """On target test images; `make table` writes it. "–": not measured."""
    minutes: str = "–"
    """On two cores; benchmarks/epochs.py measures them, `make table` writes them."""


def read_preset(name: str, setting: str = "preset", script: str = "") -> Preset:
    """Returns a preset.

    Args:
        name: of its file.
        setting: what names it.
        script: the training script that asks for it; "": any.

    Raises:
        UserError: there is none of that name, or it is another script's.
    """
    names = sorted(path.stem for path in FOLDER.glob("*.json"))
    if name not in names:
        near = difflib.get_close_matches(name.lower(), names)
        hint = f"did you mean {', '.join(near or presets_of(script) or names)}?"
        raise UserError(f"{setting}: no {name!r}; {hint}")
    path = FOLDER / f"{name}.json"
    values = read_json(path)
    known = {field.name: str for field in dataclasses.fields(Preset)} | {"settings": dict}
    wrong = [key for key in values if key not in known or not isinstance(values[key], known[key])]
    missing = {"about", "script", "settings"} - values.keys()
    if wrong or missing:
        faults = [
            f"{key!r} is unknown" if key not in known
            else f"{key!r} must be {'an object' if known[key] is dict else 'a text'}"
            for key in wrong
        ] + [f"{key!r} is missing" for key in sorted(missing)]  # fmt: skip
        raise UserError(f"{path}: {', '.join(faults)}; mend the file, or move it elsewhere")
    preset = Preset(**values)
    if script and preset.script != script:
        raise UserError(f"{setting}: {name} is for {preset.script!r}, not for {script!r}")
    return preset


def presets_of(script: str) -> dict[str, Preset]:
    """Returns the presets of a training script, by name, without damaged ones."""
    presets = {}
    for path in sorted(FOLDER.glob("*.json")):
        with contextlib.suppress(UserError):  # it is told when the preset is asked for
            presets[path.stem] = read_preset(path.stem)
    return {name: preset for name, preset in presets.items() if preset.script == script}
