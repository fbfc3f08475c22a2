"""The structure that CONTRIBUTING.md promises: imports go down, methods know no experiments."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from helpers import ROOT

from config.methods import METHODS

# From the top down: a file imports from its own room, or from one below.
ROOMS = ("scripts", "model", "utils/run", "utils/record", "utils/data", "utils", "config")
FILES = sorted(
    path for room in ("config", "model", "utils") for path in (ROOT / room).rglob("*.py")
) + sorted(ROOT.glob("*.py"))  # fmt: skip
# Settings are read by every room, and read no more than these.
BESIDE = {"config", "utils"}


def room_of(path: Path) -> str:
    folder = str(path.relative_to(ROOT).parent)
    return "scripts" if folder == "." else folder


def imports_of(path: Path) -> set[Path]:
    """The project's files that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
        for name in names:
            file = ROOT / f"{name.replace('.', '/')}.py"
            if file.exists():
                found.add(file)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    mine = room_of(path)
    for other in imports_of(path):
        theirs = room_of(other)
        if {mine, theirs} <= BESIDE:
            continue  # settings are checked with errors.py and saved with atomic.py
        assert ROOMS.index(theirs) >= ROOMS.index(mine), f"imports {other.relative_to(ROOT)}"


def test_the_training_loop_knows_no_method_and_no_data_set() -> None:
    loop = (ROOT / "utils/run/trainer.py").read_text()
    for method in METHODS:
        assert not re.search(rf"\b{method}\b", loop)
    known = {path.stem for path in imports_of(ROOT / "utils/run/trainer.py")}
    assert not known & {"mnist", "mnist_m", "usps", "bsds500", "downloads", "captchas", "drawings"}


def test_methods_know_no_experiment() -> None:
    for path in (ROOT / "model").glob("*.py"):
        for other in imports_of(path):
            assert room_of(other) != "scripts"
            assert other.stem not in ("captcha", "drawings", "custom"), path


def test_from_the_command_to_the_reversal_are_three_files() -> None:
    """train_MNIST2MNIST_M.py → the method's file → gradient_reversal.py, by the methods' table."""
    file = ROOT / "model" / f"{METHODS['dann'].model.split('.')[0]}.py"
    assert ROOT / "model/gradient_reversal.py" in imports_of(file)
    lines = [len((ROOT / name).read_text().splitlines()) for name in (
        "train_MNIST2MNIST_M.py", "model/dann.py", "model/gradient_reversal.py")]  # fmt: skip
    assert sum(lines) < 500
