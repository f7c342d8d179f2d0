"""Files of an MLflow project, and the command that writes them to a folder.

`eyevsai.codegen` writes MLproject, conda.yaml and the entry points of this repository with the same
functions.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from eyevsai.cli.completion import make_completer
from eyevsai.cli.options import entry_points
from eyevsai.core.extras import read_extras
from eyevsai.core.logging import configure_logging
from eyevsai.core.names import choose_listed
from eyevsai.core.paths import expand
from eyevsai.core.settings import Setting

# entry points whose command has another name
COMMANDS = {
    "data": ("data", "download"),
    "rollout": ("rollout", "start"),
    "train_all": ("train-all",),
}
# what commands write to the folder of a project, and what belongs to one machine
IGNORED = (
    ".venv/",
    ".env",
    "__pycache__/",
    "/mlflow.db*",
    "/mlruns/*",
    "!/mlruns/.gitkeep",
    "/data/",
    "/data_check.html",
    "/comparison.html",
    "/exports/",
    "/studies/",
    "/reports/",
)


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(init)


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder of the project; created if missing.")
    ] = Path(),
    extras: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated extras for the environment of the project, for example openvino.",
            autocompletion=make_completer(lambda _: read_extras(), is_list=True),
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Overwrite existing files; .gitignore keeps its lines and gets new ones.",
        ),
    ] = False,
) -> None:
    """Create an MLflow project in a folder: MLproject, conda.yaml, entry points and the wheel.

    `mlflow run FOLDER -e train` then works with each environment manager.
    """
    configure_logging()
    from eyevsai.workflows.system import project as job

    folder = expand(folder).absolute()
    chosen = [] if extras is None else choose_listed("extra", extras, read_extras())
    wheel = job.pack()
    files = {wheel.path: wheel.content}
    files |= {path: text.encode() for path, text in render_project(wheel.path, chosen).items()}
    job.write_project(folder, files, is_forced=force)
    print(f"Project in {folder}: {', '.join(dict.fromkeys(path.split('/')[0] for path in files))}")
    manager = "local" if job.is_active_python() else "uv"
    print(f"Run in it: mlflow run . -e train -P model=deep_v1 --env-manager={manager}")


def render_project(wheel: str, extras: Iterable[str]) -> dict[str, str]:
    """Return the texts of a project's files by their paths in its folder, without the wheel.

    MLflow is pinned to the installed version, because another one might need another store schema.

    Args:
        wheel: path of the wheel in the folder.
        extras: extras of the wheel that the environment has.
    """
    listed = ",".join(extras)
    requirements = [
        f"mlflow=={metadata.version('mlflow')}",
        f"./{wheel}[{listed}]" if listed else f"./{wheel}",
    ]
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    header = "# Written by eyevsai init, which overwrites it only with --force.\n"
    return {
        ".gitignore": "".join(f"{line}\n" for line in IGNORED),
        "conda.yaml": render_conda(header, python, requirements),
        "mlruns/.gitkeep": "",
        **render_entry_points(),
        "MLproject": render_mlproject(header),
    }


def render_mlproject(header: str) -> str:
    """Return the text of MLproject: the settings marked as parameters, by entry point."""
    entries = "".join(_entry(name, settings) for name, settings in entry_points().items())
    return f"{header}name: eyevsai\n\nconda_env: conda.yaml\n\nentry_points:\n{entries}"


def render_conda(header: str, python: str, requirements: Iterable[str]) -> str:
    """Return the text of conda.yaml.

    Args:
        header: first lines, which are comments.
        python: version of Python.
        requirements: requirements for pip; paths are relative to conda.yaml.
    """
    lines = "".join(f'      - "{requirement}"\n' for requirement in requirements)
    head = f"name: eyevsai\nchannels:\n  - conda-forge\ndependencies:\n  - python={python}\n"
    return f"{header}{head}  - pip\n  - pip:\n{lines}"


def render_entry_points() -> dict[str, str]:
    """Return the texts of the modules of the entry points by their paths in the project."""
    modules = {"__init__": '"""Entry points of MLproject, one module each."""\n'}
    for name in entry_points():
        command = " ".join(COMMANDS.get(name, (name,)))
        modules[name] = (
            f'"""`mlflow run . -e {name}`: entry point for `eyevsai {command}`."""\n\n'
            "from eyevsai.cli.entrypoint import run_entry_point\n\n"
            f'if __name__ == "__main__":\n    run_entry_point("{name}")\n'
        )
    return {f"entrypoints/{name}.py": text for name, text in modules.items()}


def _entry(name: str, settings: tuple[Setting, ...]) -> str:
    declared = [setting for setting in settings if setting.parameter]
    types = {int: "float", float: "float"}
    lines = "".join(
        f"      {s.name}: {{type: {types.get(s.type, 'string')}, default: {_yaml(s.default)}}}\n"
        for s in declared
    )
    flags = " ".join(f"{setting.flag} {{{setting.name}}}" for setting in declared)
    return (
        f'  {name}:\n    parameters:\n{lines}    command: "python -m entrypoints.{name} {flags}"\n'
    )


def _yaml(value: object) -> str:
    return '""' if value is None else str(value)
