"""Runs the cells of docs/walkthrough.ipynb; as a script it writes their outputs into both."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

DOCS = Path(__file__).parent.parent / "docs"
NOTEBOOKS = (DOCS / "walkthrough.ipynb", DOCS / "walkthrough.zh-CN.ipynb")


def read(path: Path) -> dict[str, Any]:
    notebook: dict[str, Any] = json.loads(path.read_text())
    return notebook


def code_of(notebook: dict[str, Any]) -> list[str]:
    """The code cells."""
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run_cells(cells: list[str]) -> tuple[dict[str, Any], list[list[dict[str, Any]]]]:
    """Returns the names that the cells leave behind, and the outputs of each, as Jupyter's."""
    names: dict[str, Any] = {"__name__": "__main__"}
    outputs: list[list[dict[str, Any]]] = []

    def show() -> None:
        picture = io.BytesIO()
        plt.gcf().savefig(picture, format="png", dpi=70, bbox_inches="tight")
        plt.close("all")
        data = {"image/png": base64.b64encode(picture.getvalue()).decode()}
        outputs[-1].append({"output_type": "display_data", "data": data, "metadata": {}})

    before = plt.show
    plt.show = show  # type: ignore[assignment]
    here = Path.cwd()
    os.chdir(DOCS)
    try:
        for cell in cells:
            outputs.append([])
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(cell, names)
            if out.getvalue():
                text = out.getvalue().splitlines(keepends=True)
                outputs[-1].append({"output_type": "stream", "name": "stdout", "text": text})
    finally:
        plt.show = before
        os.chdir(here)
    return names, outputs


def main() -> None:
    sys.path.insert(0, str(DOCS.parent))
    _, outputs = run_cells(code_of(read(NOTEBOOKS[0])))
    for path in NOTEBOOKS:
        notebook, left = read(path), iter(enumerate(outputs, 1))
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                cell["execution_count"], cell["outputs"] = next(left)
        path.write_text(json.dumps(notebook, ensure_ascii=False, indent=1) + "\n")
        print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
