"""TensorBoard's tabs, asked of a real TensorBoard: layout, texts, hyperparameters."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import SHORT, ask, rows_of, run, tensorboard
from selenium import webdriver

from benchmarks.runner import folder_flags
from utils.record.dashboard import CHARTS, COMPARED, PICKS

pytestmark = pytest.mark.long
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
# The words on a page, also inside of its components.
WORDS = """
const words = node => node.nodeType === 3 ? node.textContent
    : ["SCRIPT", "STYLE", "TEMPLATE"].includes(node.tagName) ? ""
    : [...(node.shadowRoot ? node.shadowRoot.childNodes : []), ...node.childNodes]
        .map(words).join(" ");
return words(document.body);
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the run that TensorBoard shows."""
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def address(folder: Path, data_flags: list[str]) -> Iterator[str]:
    """Of a TensorBoard that shows one finished run."""
    run("train_MNIST2MNIST_M.py", *data_flags, *SHORT, *folder_flags(folder), "--run_name", "mine")
    with tensorboard(folder / "logs") as server:
        yield f"{server}/data"


def test_charts_are_laid_out(address: str) -> None:
    layout = ask(f"{address}/plugin/custom_scalars/layout")
    charts = [chart["title"] for category in layout["category"] for chart in category["chart"]]
    assert charts == [*CHARTS, PICKS]


def test_command_settings_and_data_are_told(address: str) -> None:
    tags = {tag for run_tags in ask(f"{address}/plugin/text/tags").values() for tag in run_tags}
    assert tags >= {"command", "settings", "data"}


def test_runs_are_compared_by_accuracy_and_criterion(address: str) -> None:
    experiment = ask(f"{address}/plugin/hparams/experiment", {"experimentName": ""})
    names = {info["name"]["tag"] for info in experiment["metricInfos"]}
    assert names == {"acc/image_cls_acc", "selection/information_maximisation"}
    assert "grl_lambda" in {info["name"] for info in experiment["hparamInfos"]}
    question = {
        "experimentName": "", "colParams": [], "startIndex": 0, "sliceSize": 10,
        "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"],
    }  # fmt: skip
    groups = ask(f"{address}/plugin/hparams/session_groups", question)["sessionGroups"]
    values = {metric["name"]["tag"]: metric["value"] for metric in groups[0]["metricValues"]}
    assert 0 <= values["acc/image_cls_acc"] <= 1
    assert values["selection/information_maximisation"] > 0


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "no-first-run",
                 "disable-background-networking", "window-size=1400,1000"):  # fmt: skip
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver")
def test_a_browser_shows_the_values_of_the_run(
    address: str, browser: webdriver.Chrome, folder: Path
) -> None:
    logs = next((folder / "logs").rglob("mine"))
    last = rows_of(logs)[-1]
    ask(f"{address}/plugin/hparams/experiment", {"experimentName": ""})

    def shown(tab: str, *expected: str) -> None:
        browser.get(f"{address.removesuffix('/data')}/#{tab}")
        browser.refresh()
        for _ in range(60):
            words = " ".join(browser.execute_script(WORDS).split())
            if all(one in words for one in expected):
                return
            time.sleep(1)
        raise AssertionError(f"{tab}: not all of {expected} in {words}")

    shown("custom_scalars", *CHARTS, PICKS, "Matches (2)")  # source and target in one chart
    digests = json.loads((logs / "data.json").read_text())
    shown("text", "python train_MNIST2MNIST_M.py", "--batch_size 16", *digests.values())
    accuracy = float(last["val_image_cls_acc"])
    shown("hparams", *COMPARED, "target accuracy", f"{accuracy:.5g}"[:6])
