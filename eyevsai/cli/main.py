"""The `eyevsai` command. Workflows are imported when they are called, which keeps `--help` fast."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from eyevsai.cli import (
    data,
    feedback,
    log,
    models,
    monitor,
    project,
    recommend,
    registry,
    rollout,
    serve,
    system,
    train,
    watch,
)
from eyevsai.cli.completion import read_completion_line
from eyevsai.cli.options import add_switches, peek_settings
from eyevsai.cli.output import escape_unencodable
from eyevsai.cli.parsing import Verbosity, with_hyphens
from eyevsai.core.errors import JobError, TerminationRequested, UserError, explain_path_error
from eyevsai.core.logging import configure_logging
from eyevsai.core.terminal import MAX_WIDTH, wrap_message
from eyevsai.core.version import VERSION

INTERRUPTED = 130
# Imports create millions of objects and no garbage. With Python's thresholds and the collection at
# the exit, which `freeze_objects` avoids, the collector takes a third of a short command's time.
GC_THRESHOLDS = (50_000, 20, 20)
TRITON = "triton._C.libtriton"  # module of the extension


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command line.

    Prints the message of an error to standard error, or raises the error if `--debug` is set.

    Args:
        arguments: words of the command line; those of this process by default.

    Raises:
        SystemExit: always unless `--debug` raises the error. The code is 0 for success, 1 for a
            failure, 2 for a usage error, 3 for unsynced writes, and 130 or 143 after an
            interruption.
    """
    gc.set_threshold(*GC_THRESHOLDS)
    atexit.register(freeze_objects)
    escape_unencodable()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    verbosity = Verbosity()
    try:
        app = build_app(arguments or read_completion_line())
        app(arguments, prog_name="eyevsai", obj=verbosity)
    except UserError as error:
        _fail(error, error.exit_code, verbosity.debug)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except TerminationRequested as error:
        sys.exit(error.exit_code)
    except MemoryError as error:
        _fail(
            JobError(f"Out of memory {error}. Try a smaller --batch-size or --image-size."),
            1,
            verbosity.debug,
        )
    except Exception as error:
        if verbosity.debug:
            raise
        if path_error := explain_path_error(error):
            _fail(path_error, path_error.exit_code, verbosity.debug)
        _fail(
            error,
            1,
            verbosity.debug,
            hint=" This is a bug in eyevsai. Run the command again with --debug, and report it.",
        )


def freeze_objects() -> None:
    """Exclude all objects from the collection at the exit, which takes seconds with PyTorch.

    Triton, which PyTorch loads with an optimizer, would print the objects that were not collected
    as leaks. It does so after Python has ended, so standard error is closed for it.
    """
    gc.freeze()
    if TRITON in sys.modules:
        with suppress(OSError, ValueError, AttributeError):  # it is closed, or missing
            sys.stderr.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _fail(error: Exception, code: int, debug: bool, hint: str = "") -> None:
    """Print an error and exit with `code`; if `debug` is True, raise it instead."""
    if debug:
        raise error
    name = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    print(wrap_message(f"Error: {name}{error}{hint}", sys.stderr), file=sys.stderr)
    sys.exit(code)


def build_app(arguments: list[str]) -> typer.Typer:
    """Return the application for a command line, whose model determines the options of commands."""
    app = typer.Typer(
        add_completion=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        help="Tune, train, export and manage image classifiers with MLflow.",
        context_settings={"token_normalize_func": with_hyphens, "max_content_width": MAX_WIDTH},
        epilog="All commands accept --quiet, --verbose and --debug.",
    )
    app.callback(invoke_without_command=True)(_version)
    settings = peek_settings(arguments)
    train.add_to(app, arguments, settings)
    recommend.add_to(app)
    models.add_to(app)
    registry.add_to(app)
    app.command(name="run-task", hidden=True)(run_task)
    models.add_descriptions_to(app, settings)
    project.add_to(app)
    system.add_to(app)
    app.add_typer(data.build_app(), name="data")
    serve.add_to(app)
    app.add_typer(monitor.build_app(), name="monitor")
    app.add_typer(log.build_app(), name="log", rich_help_panel="Serving")
    app.add_typer(feedback.build_app(), name="feedback", rich_help_panel="Serving")
    app.add_typer(rollout.build_app(), name="rollout", rich_help_panel="Serving")
    watch.add_to(app)
    add_switches(app)
    return app


def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(f"eyevsai {VERSION}")
        raise typer.Exit


def run_task(folder: Path) -> None:
    """Run the task that an executor stored in a folder; exit with the task's code."""
    configure_logging()
    from eyevsai.executors.local import run_task as run

    raise typer.Exit(run(folder))
