"""The example notebook, cell by cell, in a kernel: what it shows is what happens."""

from __future__ import annotations

import ast
import inspect
import shutil
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


def test_the_example_notebook_calls_what_exists() -> None:
    notebook = nbformat.read(NOTEBOOK, nbformat.NO_CONVERT)
    # as it is committed
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
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
    shutil.copy(NOTEBOOK, workplace)
    notebook = nbformat.read(workplace / NOTEBOOK.name, nbformat.NO_CONVERT)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(workplace / "ipython"))
    NotebookClient(
        notebook, timeout=200, resources={"metadata": {"path": str(workplace)}}
    ).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    trained, residual, evaluated, compared, picture, exported, asked = cells
    assert "epoch 2 of 2" in texts(trained, "stderr")
    assert not texts(trained, "stdout")
    assert trained.outputs[-1].data["text/plain"].startswith("Trained(run_id=")
    assert texts(residual, "stdout").startswith("models:/digits-deep_v1-residual/1 0.")
    assert texts(evaluated, "stdout").count("models:/digits-deep_v1-") == 2
    assert "Only the first is right on" in texts(compared, "stdout")
    assert (workplace / "comparison.html").is_file()
    assert "runs:/" in texts(exported, "stdout")
    assert (workplace / "exports" / "digits-deep_v1-standard-1" / "onnx").is_dir()
    for cell in (picture, asked):
        assert "image/png" in cell.outputs[-1].data
