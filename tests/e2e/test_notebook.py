"""The example notebook: it runs cell by cell in a kernel, and its recorded outputs are complete.

`python -m tests.e2e.test_notebook` runs it in a temporary folder and records its outputs.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

import eyevsai
from eyevsai.config import compose_train
from tests.conftest import ROOT

NOTEBOOK = ROOT / "examples" / "first_steps.ipynb"


def texts(cell: Any, stream: str) -> str:
    return "".join(
        each.text for each in cell.outputs if each.output_type == "stream" and each.name == stream
    )


def calls_of(source: str) -> Iterator[tuple[str, ast.Call]]:
    """Yield the calls of functions of `eyevsai` in a program, by name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            if isinstance(owner, ast.Name) and owner.id == "eyevsai":
                yield node.func.attr, node


def run_notebook(folder: Path) -> Any:
    """Run the notebook in a folder and return it with its outputs."""
    shutil.copy(NOTEBOOK, folder)
    notebook = nbformat.read(folder / NOTEBOOK.name, nbformat.NO_CONVERT)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=200, resources=resources).execute()
    return notebook


def record() -> None:
    """Run the notebook and write its outputs to examples/, without those of one machine."""
    with tempfile.TemporaryDirectory() as name:
        os.environ |= {
            "EYEVSAI_CACHE": f"{name}/cache",
            "EYEVSAI_STATE": f"{name}/state",
            "IPYTHONDIR": name,
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore:IProgress not found",
        }
        notebook = run_notebook(Path(name))
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times
        if cell.cell_type == "code":
            cell.outputs = merge_streams(cell.outputs)
    text = nbformat.writes(notebook).replace(f"{name}/", "")
    NOTEBOOK.write_text(text + "\n", encoding="utf-8")


def merge_streams(outputs: list[Any]) -> list[Any]:
    """Return the outputs with consecutive texts of one stream as one."""
    merged: list[Any] = []
    for each in outputs:
        last = merged[-1] if merged else {}
        if each.output_type == "stream" and last.get("name") == each.name:
            last.text += each.text
        else:
            merged.append(each)
    return merged


def test_recorded_outputs_are_complete_and_of_no_machine() -> None:
    notebook = nbformat.read(NOTEBOOK, nbformat.NO_CONVERT)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert cell.outputs, cell.source
        assert not [each for each in cell.outputs if each.output_type == "error"]
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.])/(?:home|root|tmp|work|Users)/", text)
    assert len(text) < 300_000


def test_the_example_notebook_calls_what_exists() -> None:
    notebook = nbformat.read(NOTEBOOK, nbformat.NO_CONVERT)
    called = [
        call
        for cell in notebook.cells
        if cell.cell_type == "code"
        for call in calls_of(cell.source)
    ]
    assert [name for name, _ in called] == [
        "train",
        "train",
        "evaluate",
        "compare",
        "export",
        "load",
    ]
    for name, call in called:
        named = {str(each.arg): None for each in call.keywords}
        inspect.signature(getattr(eyevsai, name)).bind(*call.args, **named)
        if name == "train":
            given = {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
            compose_train(given)


@pytest.mark.slow
def test_the_example_notebook_runs(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(workplace / "ipython"))
    notebook = run_notebook(workplace)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    trained, residual, evaluated, compared, picture, exported, asked = cells
    assert "epoch 2 of 2" in texts(trained, "stderr")
    assert not texts(trained, "stdout")
    assert trained.outputs[-1].data["text/plain"].startswith("Trained(run_id=")
    assert texts(residual, "stdout").startswith("models:/digits-deep_v1-residual/1 0.")
    assert texts(evaluated, "stdout").count("models:/digits-deep_v1-") == 2
    assert "Images that only the first model classifies correctly:" in texts(compared, "stdout")
    assert (workplace / "comparison.html").is_file()
    assert "runs:/" in texts(exported, "stdout")
    assert (workplace / "exports" / "digits-deep_v1-standard-1" / "onnx").is_dir()
    for cell in (picture, asked):
        assert "image/png" in cell.outputs[-1].data


if __name__ == "__main__":
    record()
