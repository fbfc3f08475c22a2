"""README and docs: every command is one that the scripts take, every link leads somewhere."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import keras
import pytest
from helpers import ROOT, blocks

from config.scripts import SCRIPTS
from config.settings import fields_of
from utils.run.command_line import parse
from utils.run.flags import Start, make_settings, read_flags

PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").glob("*.md"))]
WITH_ARGUMENTS = ("create_mnistm", "create_usps", "predict", "evaluate", "benchmarks.epochs",
                  "benchmarks.scaling", "benchmarks.search", "benchmarks.table")  # fmt: skip
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
MODULES = {"utils.run.workers", "pip", "venv", "pytest"}


def commands() -> list[tuple[str, str]]:
    """Page and line of every command, with the variables that its block sets filled in."""
    found = []
    for page in PAGES:
        for block in blocks(page, "bash"):
            values: dict[str, str] = {}
            for line in block.replace("\\\n", " ").splitlines():
                filled = re.sub(r"\$(\w+)", lambda match, v=values: v[match[1]], line.strip())
                if assigned := re.fullmatch(r"([A-Z]+)=(\S+)", filled):
                    values[assigned[1]] = assigned[2]
                elif filled:
                    found.append((page.name, filled))
    return found


@pytest.mark.parametrize(("page", "line"), commands())
def test_each_command_is_one_that_works(
    page: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        assert words[1] in TARGETS
        return
    if words[0] in (".", "tensorboard", "git", "cd", "pip"):
        return
    assert words[0] in ("python", ".venv/bin/python", "python3")
    if words[1] == "-m":
        assert words[2] in MODULES
        return
    script, flags = words[1], words[2:]
    assert (ROOT / script).is_file()
    monkeypatch.setattr(sys, "argv", [script, *flags])
    name = script.removesuffix(".py").replace("/", ".")
    if script in SCRIPTS:
        start, values = read_flags(SCRIPTS[script], None)
        if not start.resume and not start.config:
            make_settings(SCRIPTS[script], start, values)
    elif name in WITH_ARGUMENTS:
        module = importlib.import_module(name)
        module.Arguments.of(parse([module.Arguments], ""))
    else:
        text = (ROOT / script).read_text()
        assert all(f'"{flag}"' in text for flag in flags if flag.startswith("--"))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-") for text in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), link
        assert not anchor or anchor in anchors(place), link
    for path in re.findall(r"`((?:config|model|utils|tests|benchmarks|docs)/[\w/.-]+\.\w+)`", text):
        assert (ROOT / path).exists() or (page.name, path) in ORIGINALS, path


# Files of the original repository, which the deviations name.
ORIGINALS = {
    ("dann.md", path) for path in (
        "model/GradientReveresalLayer.py", "model/MNIST2MNIST_M.py",
        "model/MNIST2MNIST_M_train.py", "utils/model_utils.py", "utils/dataset_utils.py")
}  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_in_the_text_exist(page: Path) -> None:
    known = {"help", "jobs", "inputs", "kills", "rounds", "m"}
    for kind in (*SCRIPTS.values(), Start):
        known |= set(fields_of(kind))
    for name in WITH_ARGUMENTS:
        known |= set(fields_of(importlib.import_module(name).Arguments))
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for flag in re.findall(r"--([a-z]\w*)", text):
        assert flag in known or flag.removeprefix("no_") in known, flag


def test_both_languages_say_the_same() -> None:
    """The same commands, numbers, links and headings, in the same order."""
    english, chinese = ((ROOT / name).read_text() for name in ("README.md", "README.zh-CN.md"))
    assert blocks(ROOT / "README.md", "bash") == blocks(ROOT / "README.zh-CN.md", "bash")
    levels = [re.findall(r"^(#+) ", text, re.MULTILINE) for text in (english, chinese)]
    assert levels[0] == levels[1]
    for pattern in (r"\]\(([^)\s]+)\)", r"`([^`\n]+)`", r"\d[\d,.]*\d|\d"):
        found = [
            sorted(set(re.findall(pattern, re.sub(r"```.*?```", "", text, flags=re.DOTALL))))
            for text in (english, chinese)
        ]
        both = [[one for one in some if not one.endswith((".ipynb", "README.md", "zh-CN.md"))]
                for some in found]  # fmt: skip
        assert both[0] == both[1]


def test_the_readme_fits_on_some_screens() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*shuffle=True:UserWarning")
def test_the_examples_around_your_own_model_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other, with a network that is built sooner."""

    def small(include_top: bool, pooling: str | None = None, **_: Any) -> keras.Model:
        images = keras.Input((64, 64, 3))
        features = keras.layers.Conv2D(2048, 32, strides=32)(images)
        if pooling:
            features = keras.layers.GlobalAveragePooling2D()(features)
        return keras.Model(images, features)

    monkeypatch.setattr(keras.applications, "ResNet50", small)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks("docs/own_pictures.md", "python"):
        exec(block.replace('model.export("digits.onnx", format="onnx")', ""), names)
    assert names["probabilities"].shape == (90, 4)
    assert (tmp_path / "digits").is_dir()
    assert type(names["model"]).__name__ == "ADDA"
