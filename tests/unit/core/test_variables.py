"""Each environment variable that the code reads or sets is in the table of docs/environment.md."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from eyevsai import config
from eyevsai.cli.options import entry_points
from eyevsai.core.variables import TOPICS, render_page
from tests.conftest import ROOT

SOURCES = [*(ROOT / name for name in ("eyevsai", "entrypoints", "deploy"))]
DECLARED = {each.name for topic in TOPICS for each in topic.variables}
READERS = {"get", "pop", "setdefault"}
NAME = re.compile(r"\b(?:EYEVSAI|MLFLOW|AWS|OMP|GOMP|KAGGLE|CUDA|RAY)_[A-Z_]*[A-Z]\b|\bPG[A-Z]+\b")
# names that are no constants: where they come from
COMPUTED = {
    "eyevsai/api.py": "all variables of MLflow, which are restored",
    "eyevsai/config.py": "Env of a declared setting",
    "eyevsai/core/settings.py": "Env of a declared setting",
    "eyevsai/tracking/run_lifecycle.py": "HTTP_SETTINGS",
    "eyevsai/executors/ray.py": "variables of the prefixes",
    "eyevsai/workflows/system/ui.py": "DISPLAYS",
}


def list_files() -> list[Path]:
    return [path for folder in SOURCES for path in sorted(folder.rglob("*.py"))]


def is_environ(node: ast.AST) -> bool:
    """Return True for `os.environ`, and for the names that stand for it."""
    text = ast.unparse(node)
    return text in ("os.environ", "env", "environ")


def read_names(tree: ast.Module) -> Iterator[ast.expr]:
    """Yield the expression of each name that is read, written or tested in the environment."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and is_environ(node.value):
            yield node.slice
        elif isinstance(node, ast.Compare) and any(map(is_environ, node.comparators)):
            yield node.left
        elif isinstance(node, ast.Call) and node.args:
            called = node.func
            is_method = isinstance(called, ast.Attribute) and called.attr in READERS
            if (is_method and is_environ(called.value)) or ast.unparse(called) == "os.getenv":  # type: ignore[attr-defined]
                yield node.args[0]


def evaluate(expression: ast.expr, path: Path) -> str | None:
    """Return the value of a literal or of a module's constant; None for other expressions."""
    if isinstance(expression, ast.Constant):
        return str(expression.value)
    if path.is_relative_to(ROOT / "eyevsai") and isinstance(expression, ast.Name):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        value = getattr(importlib.import_module(module), expression.id, None)
        return value if isinstance(value, str) else None
    return None


@pytest.mark.parametrize("path", list_files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_variable_that_the_code_reads_is_declared(path: Path) -> None:
    source = path.read_text("utf-8")
    if "environ" not in source and "getenv" not in source:
        return
    for expression in read_names(ast.parse(source)):
        name = evaluate(expression, path)
        relative = path.relative_to(ROOT).as_posix()
        if name is None:
            assert relative in COMPUTED, f"{relative}: {ast.unparse(expression)}"
        else:
            assert name in DECLARED, f"{relative}: {name}"


def test_variables_of_settings_and_of_mlflow_clients_are_declared() -> None:
    from eyevsai.tracking.run_lifecycle import HTTP_SETTINGS
    from eyevsai.workflows.system.ui import DISPLAYS

    settings = [
        *config.all_train_settings(),
        *(s for each in entry_points().values() for s in each),
    ]
    assert {each.env for each in settings if each.env} | {*HTTP_SETTINGS, *DISPLAYS} <= DECLARED


def test_variables_that_code_and_docs_name_are_declared() -> None:
    pages = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", *(ROOT / "deploy").glob("*.*")]
    named = {
        name
        for path in [*list_files(), *pages]
        if path.is_file()
        for name in NAME.findall(path.read_text("utf-8"))
    }
    assert named - DECLARED <= {"EYEVSAI_TEST_WHEELHOUSE"}


def test_no_variable_is_declared_twice() -> None:
    names = [each.name for topic in TOPICS for each in topic.variables]
    assert len(names) == len(set(names))
    assert all(f"| `{name}` |" in render_page() for name in names)
