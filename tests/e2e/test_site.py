"""The site of the docs: it builds, and what it says of runs and messages is what the code has."""

from __future__ import annotations

import ast
import fnmatch
import re
from pathlib import Path

import mkdocs.__main__
import pytest
import typer.main
import yaml
from click.testing import CliRunner
from mlflow import MlflowClient

import eyevsai
from eyevsai import config
from eyevsai.cli.main import build_app
from eyevsai.core.settings import list_settings
from eyevsai.formats.factory import FORMATS
from eyevsai.store import tags
from eyevsai.tuning.settings import TuneSettings
from tests.conftest import ROOT, Eyevsai, experiments
from tests.e2e.pages import read_page, split_calls

DOCS = ROOT / "docs"
OF_MLFLOW = ("mlflow.", "eyevsai.")


def read(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


@pytest.mark.processes("mkdocstrings formats signatures with ruff")
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    build = [
        "build",
        "--strict",
        "--config-file",
        str(ROOT / "mkdocs.yml"),
        "--site-dir",
        str(tmp_path / "site"),
    ]
    done = CliRunner().invoke(mkdocs.__main__.cli, build)
    assert done.exit_code == 0, done.output
    pages = {
        path.relative_to(tmp_path / "site").as_posix()
        for path in (tmp_path / "site").rglob("*.html")
    }
    assert {
        "index.html",
        "first_hour.html",
        "settings.html",
        "command_reference.html",
        "benchmarks/RESULTS.html",
        "decisions/001-client-not-fluent.html",
    } <= pages
    home = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert 'href="first_hour.html"' in home
    first_hour = (tmp_path / "site" / "first_hour.html").read_text(encoding="utf-8")
    assert 'src="images/curves.png"' in first_hour
    assert 'href="../deploy/README.html"' not in home
    api = (tmp_path / "site" / "api.html").read_text(encoding="utf-8")
    assert 'id="eyevsai.train"' in api


def test_each_public_name_is_on_the_page_of_the_api() -> None:
    names = set(re.findall(r"^::: eyevsai\.(\w+)$", read("api.md"), re.MULTILINE))
    assert names == set(eyevsai.__all__) - {"__version__"}


def test_each_format_is_on_the_pages_of_exports_and_files() -> None:
    for page in ("exports.md", "files.md"):
        rows = [line.split(" | ")[0] for line in read(page).splitlines() if line.startswith("| `")]
        known = set(re.findall(r"`([^`]+)`", " ".join(rows)))
        assert set(FORMATS) - known == set(), page


def test_each_setting_and_each_command_is_on_its_page() -> None:
    settings = re.findall(r"^\| `(\w+)` \|", read("settings.md"), re.MULTILINE)
    declared = [*config.all_train_settings(), *list_settings(TuneSettings)]
    assert {each.name for each in declared} - set(settings) == set()
    titles = re.findall(r"^## eyevsai (.+)$", read("command_reference.md"), re.MULTILINE)
    assert set(titles) == set(commands_of(typer.main.get_command(build_app([]))))


def commands_of(group: object) -> list[str]:
    found = []
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        if not command.hidden:
            found += (
                [f"{name} {each}" for each in commands_of(command)]
                if hasattr(command, "commands")
                else [name]
            )
    return found


def test_each_command_and_entry_point_has_an_example() -> None:
    page = read_page("docs/commands.md", read("commands.md"))
    typed = [" ".join(call) for command in page.commands for call in split_calls(command.text)]
    entries = yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))["entry_points"]
    wanted = [f"eyevsai {name}" for name in commands_of(typer.main.get_command(build_app([])))]
    wanted += [f"mlflow run . -e {entry}" for entry in entries]
    assert [
        each for each in wanted if not any(f"{text} ".startswith(f"{each} ") for text in typed)
    ] == []


def literals() -> list[str]:
    """What the code can say: its texts, with a zero character where a value stands."""
    found = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    for path in (ROOT / "eyevsai").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append(
                    "".join(
                        each.value if isinstance(each, ast.Constant) else "\0"
                        for each in node.values
                    )
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_messages_in_troubleshooting_are_those_of_the_code() -> None:
    said = literals()
    rows = [line for line in read("troubleshooting.md").splitlines() if line.startswith("| ")]
    quoted = [quote for row in rows for quote in re.findall(r"`([^`]+)`", row.split(" | ")[0])]
    assert len(quoted) > 40
    for quote in quoted:
        pattern = re.compile(".*?".join(map(re.escape, quote.split("..."))), re.DOTALL)
        assert any(pattern.search(text) for text in said), f"nothing says {quote!r}"


@pytest.mark.parametrize(
    ("model", "variation"),
    [("deep_v1", "standard"), pytest.param("shallow", "rf_hog_lbp", marks=pytest.mark.slow)],
)
def test_all_that_a_run_keeps_is_explained(
    eyevsai: Eyevsai, stripes: Path, model: str, variation: str
) -> None:
    small = (
        ("--epochs", "1", "--width", "8", "--batch-size", "8")
        if model == "deep_v1"
        else ("--n-estimators", "10")
    )
    eyevsai(
        "train",
        "--model",
        model,
        "--variation",
        variation,
        "--data",
        str(stripes),
        *small,
        "--threads",
        "1",
    )
    version = f"models:/stripes-{model}-{variation}/1"
    eyevsai(
        "evaluate", "--model-uri", version, "--corruption-images", "2", "--target-precision", "0.1"
    )
    client = MlflowClient()
    run = next(
        run
        for run in client.search_runs(experiments(client))
        if run.data.tags["eyevsai.job"] == "train"
    )
    known = re.findall(r"`([^`\s]+)`", read("runs.md"))
    kept = [*run.data.metrics, *(tag for tag in run.data.tags if not tag.startswith(OF_MLFLOW))]
    kept += client.get_model_version(version.split("/")[1], "1").tags
    for folder in ("", "plots", "tables"):
        kept += [
            each.path for each in client.list_artifacts(run.info.run_id, folder) if not each.is_dir
        ]
    assert [
        name for name in kept if not any(fnmatch.fnmatchcase(name, each) for each in known)
    ] == []


def test_each_tag_for_programs_is_explained() -> None:
    names = {
        value
        for name, value in vars(tags).items()
        if name.isupper() and isinstance(value, str) and value.startswith("eyevsai.")
    }
    assert tags.JOB in names
    assert names - set(re.findall(r"`([^`\s]+)`", read("runs.md"))) == set()
