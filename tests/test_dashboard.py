"""TensorBoard's tabs, asked of a real TensorBoard: layout, texts, hyperparameters."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from helpers import SHORT, run, run_folders

from utils.record.dashboard import CHARTS, PICKS

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, data_flags: list[str]) -> Iterator[str]:
    """Of a TensorBoard that shows one finished run."""
    folder = tmp_path_factory.mktemp("run")
    run("train_MNIST2MNIST_M.py", *data_flags, *SHORT, *run_folders(folder), "--run_name", "mine")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder / "logs"),
               "--port", str(port), "--load_fast", "false"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        yield f"http://127.0.0.1:{port}/data"
        process.terminate()


def ask(url: str, question: Any = None) -> Any:
    """The answer, as soon as TensorBoard has read the run."""
    data = None if question is None else json.dumps(question).encode()
    for _ in range(60):
        try:
            request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=5) as answer:
                found = json.loads(answer.read())
            if found:
                return found
        except OSError:
            pass
        time.sleep(1)
    raise AssertionError(f"{url}: no answer")


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
