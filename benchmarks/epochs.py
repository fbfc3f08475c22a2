"""Times an epoch of each preset of the digits, alone on this machine, and writes docs/epochs.json.

Nothing else should run meanwhile. Two epochs each; the second one counts.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from pathlib import Path

from tqdm import tqdm

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks.report import EPOCHS
from benchmarks.rows import DIGITS
from benchmarks.runner import completed, folder_flags, seconds_of
from config.config import Config
from config.presets import presets_of, read_preset
from config.settings import Settings
from predict import SHIPPED
from utils.atomic import write_json
from utils.errors import run_script
from utils.run.command_line import parse


@dataclasses.dataclass(frozen=True)
class Arguments(Settings):
    presets: tuple[str, ...] = tuple(presets_of(DIGITS))
    """Time these alone; what was measured of the others stays."""


def main() -> None:
    args = Arguments.of(parse([Arguments], __doc__))
    found = json.loads(EPOCHS.read_text("utf-8")) if EPOCHS.exists() else {}
    for name in tqdm(args.presets, unit="preset"):
        found[name] = seconds_of_stages(name)
        write_json(EPOCHS, found)
    for name, seconds in found.items():
        print(f"{name:<16} epochs of {seconds} s")


def seconds_of_stages(name: str) -> list[float]:
    """Returns the seconds of an epoch of each stage of a preset."""
    config = Config.of(read_preset(name).settings)
    first = config.first_method
    short = ["--epoch", "2", *(["--source_epoch", "2"] if first else [])]
    if "student" in (config.method, first):
        short += ["--teacher", str(SHIPPED)]
    with tempfile.TemporaryDirectory() as folder:
        done = completed(DIGITS, "--preset", name, *short, *folder_flags(folder))
    return [all_of_it for all_of_it, _ in seconds_of(done.stdout)[1::2]]


if __name__ == "__main__":
    run_script(main)
