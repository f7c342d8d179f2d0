"""The `eyevsai` command. Jobs are imported when they are called, so that help is instant."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from eyevsai.cli import data, models, registry, system, train
from eyevsai.cli.completion import completed_words
from eyevsai.cli.options import finish, settings_of_command
from eyevsai.cli.parsing import Verbosity, with_hyphens
from eyevsai.core.errors import JobError, TerminationRequested, UserError, explain_path_error
from eyevsai.core.logging import configure_logging
from eyevsai.core.version import VERSION

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command line and exits with its code: 0 done, 1 failed, 2 a mistake in what was
    asked.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    asked = Verbosity()
    try:
        build_app(arguments or completed_words())(arguments, prog_name="eyevsai", obj=asked)
    except UserError as error:
        _fail(error, error.exit_code, asked.debug)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except TerminationRequested as error:
        sys.exit(error.exit_code)
    except MemoryError as error:
        _fail(
            JobError(f"Out of memory {error}. Try a smaller --batch-size or --image-size."),
            1,
            asked.debug,
        )
    except Exception as error:
        if asked.debug:
            raise
        if refused := explain_path_error(error):
            _fail(refused, refused.exit_code, asked.debug)
        _fail(
            error,
            1,
            asked.debug,
            hint=" This is a defect of eyevsai: run again with --debug and report it.",
        )


def _fail(error: Exception, code: int, debug: bool, hint: str = "") -> None:
    if debug:
        raise error
    name = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    print(f"Error: {name}{error}{hint}", file=sys.stderr)
    sys.exit(code)


def build_app(arguments: list[str]) -> typer.Typer:
    """The application for one command line; a command's flags depend on the model that it names."""
    app = typer.Typer(
        add_completion=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        help="Image classifiers that are tuned, trained, exported and looked after with MLflow.",
        context_settings={"token_normalize_func": with_hyphens},
        epilog="Every command takes --quiet, --verbose and --debug.",
    )
    app.callback(invoke_without_command=True)(_version)
    settings = settings_of_command(arguments)
    train.add_to(app, arguments, settings)
    models.add_to(app)
    registry.add_to(app)
    app.command(name="run-task", hidden=True)(run_task)
    models.add_descriptions_to(app, settings)
    system.add_to(app)
    app.add_typer(data.build_app(), name="data")
    finish(app)
    return app


def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(f"eyevsai {VERSION}")
        raise typer.Exit


def run_task(folder: Path) -> None:
    """Run the task that an executor stored in a folder."""
    configure_logging()
    from eyevsai.executors.local import run_task as run

    raise typer.Exit(run(folder))
