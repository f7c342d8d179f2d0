"""The recipes of deploy/ci: a shell runs their steps on digits."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from eyevsai.data.digits import write_digits
from tests.conftest import ROOT, write_images
from tests.invoke import invoke

RECIPES = ["github.yml", "gitlab.yml"]
COMMANDS = ["data check", "train", "evaluate", "promote"]
TRAINED = "models:/digits-deep_v1-standard/1"
# `eyevsai` of the steps: sends its words to the test, which runs them in its own process
PROGRAM = """#!/bin/bash
printf '%s\\0' "$@" >calls
read -r code <codes
cat out; cat err >&2
exit "$code"
"""
SHELL = (
    "trap ': >calls' EXIT; "
    "for step in {steps}; do bash --noprofile --norc -eo pipefail $step || exit; done"
)


@dataclass(frozen=True)
class Recipe:
    """Steps of a recipe, without the installation, and its variables.

    Variables with expressions of GitHub are empty, as those without a value are there.
    """

    steps: tuple[str, ...]
    env: Mapping[str, str]


def read_text(name: str) -> str:
    return (ROOT / "deploy" / "ci" / name).read_text(encoding="utf-8")


def load(name: str) -> Any:
    return yaml.safe_load(read_text(name))


def read_recipe(name: str) -> Recipe:
    if name == "github.yml":
        (job,) = load(name)["jobs"].values()
        runs = [step for step in job["steps"] if "run" in step and step["name"] != "Install"]
        steps, env = tuple(step["run"] for step in runs), job["env"]
    else:
        job = load(name)["classifier"]
        # GitLab runs all lines of a job in one shell
        steps, env = ("\n".join(job["script"]),), job["variables"]
    return Recipe(steps, {key: "" if "${{" in value else value for key, value in env.items()})


def run_steps(
    steps: Sequence[str], folder: Path, env: Mapping[str, str]
) -> tuple[int, list[list[str]], str]:
    """Run steps in a shell that ends at the first failure.

    Returns:
        The exit code, the words of each call of `eyevsai`, and the output.
    """
    program = folder / "bin" / "eyevsai"
    program.parent.mkdir(exist_ok=True)
    program.write_text(PROGRAM)
    program.chmod(0o755)
    for name in ("calls", "codes"):
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)
    for number, step in enumerate(steps):
        (folder / f"{number}.sh").write_text(step)
    script = SHELL.format(steps=" ".join(f"{number}.sh" for number in range(len(steps))))
    path = os.pathsep.join([str(program.parent), os.environ["PATH"]])
    calls: list[list[str]] = []
    with (folder / "shown").open("w") as shown:
        shell = subprocess.Popen(
            ["bash", "-c", script],
            cwd=folder,
            env={**os.environ, **env, "PATH": path},
            stdout=shown,
            stderr=shown,
        )
        try:
            # the shell sends an empty message at its end
            while words := (folder / "calls").read_text().split("\0")[:-1]:
                calls.append(words)
                done = invoke(folder, *words, code=None, **env)
                (folder / "out").write_text(done.stdout)
                (folder / "err").write_text(done.stderr)
                (folder / "codes").write_text(f"{done.returncode}\n")
            shell.wait(30)
        finally:
            shell.kill()
            code = shell.wait()
    return code, calls, (folder / "shown").read_text()


@pytest.fixture
def env(workplace: Path, cache_dir: Path) -> dict[str, str]:
    """Return the variables of a pipeline that trains a small model on digits, in a new store."""
    return {
        "IMAGES": str(write_digits(cache_dir)),
        "OPTIONS": "--epochs 2 --width 8 --threads 1 --tuned never",
        "EYEVSAI_CACHE": str(cache_dir),
        "EYEVSAI_STATE": str(workplace / "state"),
        # absolute: MLflow caches stores of a process by URI
        "MLFLOW_TRACKING_URI": f"sqlite:///{workplace / 'new.db'}",
        "GITHUB_SHA": "4f2a9c1",
        "CI_COMMIT_SHA": "4f2a9c1",
    }


def names_of(calls: list[list[str]]) -> list[str]:
    """Return the command of each call, without its arguments."""
    return [" ".join(words[:2]) if words[0] == "data" else words[0] for words in calls]


@pytest.mark.processes("the shell, and the decoding processes of a cold cache")
@pytest.mark.parametrize("name", RECIPES)
def test_recipe_checks_trains_evaluates_and_promotes(
    name: str, workplace: Path, env: dict[str, str]
) -> None:
    recipe = read_recipe(name)
    code, calls, shown = run_steps(recipe.steps, workplace, {**recipe.env, **env})
    assert (code, names_of(calls)) == (0, COMMANDS), shown
    assert [words[1] for words in calls[2:]] == [TRAINED, TRAINED]
    assert calls[3][-1] == "commit 4f2a9c1"
    assert (workplace / "data_check.html").is_file()
    client = MlflowClient(env["MLFLOW_TRACKING_URI"])
    staged = client.get_model_version_by_alias("digits-deep_v1-standard", "staging")
    assert int(staged.version) == 1


@pytest.mark.processes("two shells, and the decoding processes of a cold cache")
def test_gate_ends_the_pipeline_and_names_the_limit(workplace: Path, env: dict[str, str]) -> None:
    recipe = read_recipe("github.yml")
    policy = workplace / "promotion.toml"
    policy.write_text("floor = 0.9999\n")
    code, calls, shown = run_steps(recipe.steps, workplace, {**recipe.env, **env})
    assert (code, names_of(calls)) == (1, COMMANDS), shown
    assert f"{TRAINED} is not promoted" in shown
    assert "0.9999" in shown
    policy.write_text("floor = 0.2\n")
    code, _, shown = run_steps(recipe.steps[-1:], workplace, {**recipe.env, **env})
    assert code == 0, shown


@pytest.mark.parametrize("name", RECIPES)
def test_bad_data_end_the_pipeline_before_training(
    name: str, workplace: Path, env: dict[str, str]
) -> None:
    images = write_images(workplace / "images", {"across": 4, "down": 4})
    (images / "down" / "torn.png").write_bytes(b"no image")
    recipe = read_recipe(name)
    code, calls, shown = run_steps(
        recipe.steps, workplace, {**recipe.env, **env, "IMAGES": "images"}
    )
    assert (code, names_of(calls)) == (1, ["data check"]), shown
    assert "torn.png" in shown


def test_pull_requests_of_the_github_recipe_get_no_login() -> None:
    (job,) = load("github.yml")["jobs"].values()
    guarded = {key: value for key, value in job["env"].items() if "secrets." in value}
    assert guarded.keys() == {"MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"}
    for value in (*guarded.values(), job["env"]["MLFLOW_TRACKING_URI"]):
        assert value.startswith("${{ github.event_name != 'pull_request' && ")
    assert load("github.yml")["permissions"] == {"contents": "read"}
    assert "secrets." not in str(job["steps"])


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_installs_the_wheel_of_the_repository(name: str) -> None:
    assert "pip install wheels/eyevsai-*.whl" in read_text(name)
    assert "pypi.org/simple" in read_text(name)
